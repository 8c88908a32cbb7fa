"""The command line of ``lstm-serve score``. Needs no extra."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from models.parser import Parser
from service.schemas.shared import Truncate

PROG = "lstm-serve score"


class Options(argparse.Namespace):
    """The command, as `parse` reads it."""

    file: Path
    out: Path
    model: str | None = None
    store: str | None = None
    version: int | None = None
    text_column: str
    truncate: Truncate | None = None
    prefix: str = ""
    precision: str | None = None
    threads: str | None = None
    resume: bool = False
    overwrite: bool = False


def parse(argv: Sequence[str], prog: str) -> Options:
    parser = Parser(prog, "Adds the model's label and scores to each row of a file of texts.")
    parser.epilog = "The settings of the service hold here too, such as LSTMSERVE_STORE and LSTMSERVE_DEVICE."
    unset = argparse.SUPPRESS  # what its help says instead, and Options
    add = parser.add_argument
    add("file", type=Path, metavar="FILE", help="CSV, TSV, JSON lines (each plain or .gz) or Parquet file")
    add("--out", type=Path, required=True, metavar="FILE", default=unset, help="new file of the same form")
    model = "name in the store, or version folder such as models/store/NAME/VERSION; default: LSTMSERVE_MODEL"
    add("--model", metavar="MODEL", default=unset, help=model)
    add("--store", metavar="FOLDER", default=unset, help="folder of models; default: LSTMSERVE_STORE")
    add("--version", type=int, metavar="N", default=unset, help="version of the model; default: the highest")
    add("--text-column", default="text", metavar="NAME", help="column of the texts")
    truncate = "part kept of a text that is too long; default: none, the row has the error too_long"
    add("--truncate", choices=("head", "tail"), default=unset, help=truncate)
    add("--prefix", metavar="TEXT", default=unset, help="put before the names of the added columns")
    precision = "auto, float32 or bfloat16; default: LSTMSERVE_PRECISION"
    add("--precision", metavar="KIND", default=unset, help=precision)
    add("--threads", metavar="N", default=unset, help="engine threads; default: LSTMSERVE_THREADS, one per core")
    known = parser.add_mutually_exclusive_group().add_argument
    resume = "go on where an interrupted run ended, or begin where there was none"
    known("--resume", action="store_true", default=unset, help=resume)
    overwrite = "begin again, and replace the file that is there when it is done"
    known("--overwrite", action="store_true", default=unset, help=overwrite)
    return parser.parse_args(argv, namespace=Options())

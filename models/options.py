"""Command-line options of training and of its data. No torch."""

import argparse
import math
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

from models.config import Cell, Pooling
from models.parser import Parser
from models.settings import OF_ENCODER, OF_TORCHRUN, TrainingSettings, public
from models.values import label_map, names, number, split_size, store_folder, version_folder

TRAIN = "python -m models.train"

VOCAB_SIZE = 20000
"""Tokens that are learned where no other number is given."""


def add_data_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data",
        type=Path,
        action="append",
        required=True,
        metavar="FILE",
        default=argparse.SUPPRESS,
        help="CSV, TSV, JSON lines (each plain or .gz) or Parquet file; may be given several times",
    )
    parser.add_argument(
        "--text-column", default="text", metavar="NAME", help="column of the texts; A,B: whichever a file has"
    )
    parser.add_argument("--label-column", default="label", metavar="NAME", help="column of the labels")
    parser.add_argument(
        "--label-map",
        type=label_map,
        default={},
        metavar="OLD=NEW,...",
        help="renames labels, as in neg=negative,pos=positive",
    )


def add_pairs_option(parser: argparse.ArgumentParser) -> None:
    _add_paths(parser.add_argument, "--pairs", "minimal pairs to score: columns text and label, each two rows a pair")


def _add_paths(add: Callable[..., object], option: str, meaning: str, kind: str = "FILE") -> None:
    again = "; may be given several times"
    add(option, type=Path, action="append", default=[], metavar=kind, help=meaning + again)


def training_settings(argv: Sequence[str] | None = None, prog: str = TRAIN) -> TrainingSettings:
    parser = Parser(prog, "Trains a text classifier and writes one model version.")
    add = parser.add_argument_group("data").add_argument
    add_data_options(parser)
    _add_paths(add, "--also", "labelled texts to train on beside --data, never validated")
    add_pairs_option(parser)
    _add_paths(
        add, "--test", "labelled texts to judge the model by at the end, for the card; those trained on are left out"
    )
    add("--data-name", metavar="TEXT", help="public name of the data, for the model card")
    add("--labels", type=names, metavar="A,B,...", help="classes in the order of their indices; default: as found")
    add(
        "--validation", type=split_size, default=0.1, metavar="N", help="rows kept for validation; below 1: their share"
    )
    add(
        "--out",
        type=version_folder,
        required=True,
        metavar="FOLDER",
        default=argparse.SUPPRESS,
        help="new version folder, as in models/store/NAME/VERSION",
    )
    add("--seed", type=number(int, 0), default=0, metavar="N", help="of the split, the weights, the order, the dropout")

    add = parser.add_argument_group("model").add_argument
    positive = number(int, 1)
    add(
        "--encoder",
        type=Path,
        metavar="FOLDER",
        help="version whose tokenizer, embedding and recurrent layers are gone on with; it decides all sizes but "
        "those of --pooling, --max-length and --vocab-size",
    )
    add("--cell", choices=get_args(Cell), default="lstm", help="recurrent cell")
    add("--embedding-dim", type=positive, default=100, metavar="N", help="size of a token's vector")
    add("--hidden-size", type=positive, default=128, metavar="N", help="units of a direction of a layer")
    add("--num-layers", type=positive, default=1, metavar="N", help="recurrent layers, 4 at most")
    add("--bidirectional", action=argparse.BooleanOptionalAction, default=True, help="whether to read both ways")
    add("--proj-size", type=number(int, 0), default=0, metavar="N", help="size of the projected state (lstm); 0: none")
    add("--bias", action=argparse.BooleanOptionalAction, default=True, help="whether the layers have biases")
    add("--pooling", type=names, default=("max", "mean"), metavar="A,B", help="of " + ", ".join(get_args(Pooling)))
    add(
        "--vocab-size",
        type=number(int, 2),
        metavar="N",
        help=f"most tokens, pad and unknown included; default: {VOCAB_SIZE}, and of --encoder all",
    )
    add("--min-count", type=positive, default=2, metavar="N", help="least occurrences of a token")
    add("--max-length", type=positive, default=4096, metavar="N", help="most tokens of a text that the model reads")

    rate, share = number(float, 0, below=1), number(float, 0, below=math.nextafter(1, 2))
    add = parser.add_argument_group("pretraining (with --pretrain)").add_argument
    _add_paths(add, "--pretrain", "texts without labels, from which a language model learns first")
    add(
        "--pretrain-epochs",
        type=number(int, 0),
        default=3,
        metavar="N",
        help="passes over all texts; 0: none",
    )
    above_zero = number(float, 0, above=True)
    add("--pretrain-learning-rate", type=above_zero, default=2e-3, metavar="X", help="highest rate")
    add("--pretrain-window", type=number(int, 2), default=200, metavar="N", help="tokens of a window of the texts")
    add("--negatives", type=positive, default=2048, metavar="N", help="wrong tokens of a step's sampled softmax")
    add("--weight-drop", type=rate, default=0.0, metavar="X", help="rate on the recurrent weights")

    add = parser.add_argument_group("training").add_argument
    add("--runs", type=positive, default=1, metavar="N", help="times, each with the next seed; the best is kept")
    add(
        "--layer-decay",
        type=number(float, 0, above=True),
        default=1.0,
        metavar="X",
        help="factor of the rate of the recurrent layers, and twice of the embedding",
    )
    add("--unfreeze", type=number(int, 0), default=0, metavar="N", help="epochs until the next deeper part learns too")
    add(
        "--vat",
        type=number(float, 0),
        default=0.0,
        metavar="X",
        help="weight of the virtual adversarial loss, which the texts of --pretrain have too; 0: none",
    )
    add("--vat-size", type=above_zero, default=0.3, metavar="X", help="size of its moves, in norms of a token's vector")
    _add_paths(
        add, "--distil", "version of a teacher, whose scores are learned, also for the texts of --pretrain", "FOLDER"
    )
    add("--distil-weight", type=share, default=0.9, metavar="X", help="of the teachers' scores beside a text's label")
    add("--average", type=rate, default=0.0, metavar="X", help="decay of the average of the weights that is kept")
    add("--crop", type=positive, default=400, metavar="N", help="tokens of the random window of a longer text")
    add("--epochs", type=number(int, 0), default=8, metavar="N", help="most passes over the data; 0: none")
    add("--patience", type=positive, default=3, metavar="N", help="epochs without a better validation before the end")
    add("--batch-size", type=positive, default=64, metavar="N", help="most texts of a batch")
    add("--batch-tokens", type=positive, default=16384, metavar="N", help="most tokens of a batch")
    add("--learning-rate", type=number(float, 0, above=True), default=2e-3, metavar="X", help="highest rate")
    add("--weight-decay", type=number(float, 0), default=0.01, metavar="X", help="decoupled, as in AdamW")
    add("--clip", type=number(float, 0, above=True), default=1.0, metavar="X", help="largest norm of the gradient")
    add("--dropout", type=rate, default=0.5, metavar="X", help="rate on embeddings, between layers and on features")
    add("--word-dropout", type=rate, default=0.1, metavar="X", help="rate of tokens shown as unknown")
    add("--label-smoothing", type=rate, default=0.0, metavar="X", help="share of the target spread over all classes")
    add(
        "--precision",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="of the products; auto: bfloat16 where the machine has it and it trains as well",
    )
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: cuda where there is a GPU")
    add("--threads", type=positive, metavar="N", help="CPU threads; default: torch's choice")
    add("--weights", choices=("float32", "float16"), default="float32", help="how the weights are stored")
    add("--checkpoint-seconds", type=number(float, 0), default=60.0, metavar="X", help="between two checkpoints")
    add("--tensorboard", type=Path, metavar="FOLDER", help="where TensorBoard finds losses, rates and figures")
    add("--resume", action="store_true", default=argparse.SUPPRESS, help="go on from the last checkpoint")
    settings = parser.parse_args(argv, namespace=TrainingSettings(resume=False, nnodes=1, nproc_per_node=1))
    if settings.encoder:
        parser.set_defaults(**dict.fromkeys(OF_ENCODER))
        given = vars(parser.parse_args(argv))
        for name in OF_ENCODER:
            if given[name] is not None:
                parser.error(f"argument --{name.replace('_', '-')}: --encoder decides it; leave one of them out")
    if not settings.epochs and settings.runs > 1:
        parser.error(f"argument --runs: {settings.runs} without an epoch are all the same: give --epochs, or 1")
    if not settings.epochs and not settings.learns_language and not settings.encoder:
        parser.error("argument --epochs: 0, and nothing to begin with or to learn: give --pretrain or --encoder")
    return settings


def command_line(settings: TrainingSettings) -> str:
    """The command that repeats a run, with data files by name and options that differ from their defaults."""
    defaults = public(training_settings(["--data", "-", "--out", "name/1"]))
    words = [*settings.launcher, *(word for path in settings.data for word in ("--data", path.name))]
    for option in ("also", "pairs", "test", "pretrain"):
        words += [word for path in getattr(settings, option) for word in (f"--{option}", path.name)]
    if settings.encoder:
        words += ["--encoder", store_folder(settings.encoder)]
    words += [word for path in settings.distil for word in ("--distil", store_folder(path))]
    for name, value in public(settings).items():
        option = name.replace("_", "-")
        if value == defaults[name] or name in OF_TORCHRUN or (settings.encoder and name in OF_ENCODER):
            continue
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        elif isinstance(value, dict):
            words += [f"--{option}", ",".join(f"{old}={new}" for old, new in value.items())]
        elif isinstance(value, list):
            words += [f"--{option}", ",".join(value)]
        else:
            words += [f"--{option}", str(value)]
    if settings.data_name:
        words += ["--data-name", settings.data_name]
    return shlex.join([*words, "--out", store_folder(settings.out)])

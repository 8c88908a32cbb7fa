"""The command lines of evaluation and of conversion. No torch: their help and their errors need no extra."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from models.config import ModelConfig, Output, Pooling
from models.options import add_data_options, add_pairs_option
from models.parser import Parser
from models.values import names, number, version_folder


def evaluation(argv: Sequence[str] | None, prog: str) -> argparse.Namespace:
    parser = Parser(prog, "Measures a model version on labelled data, in float32.")
    parser.add_argument("model", type=Path, metavar="MODEL_DIR", help="version folder, as in models/store/NAME/VERSION")
    add_data_options(parser)
    add_pairs_option(parser)
    parser.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="JSON on standard output")
    parser.add_argument("--predictions", type=Path, metavar="FILE", help="writes each row's logits there as JSON lines")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="cpu", help="auto: cuda if there is a GPU")
    return parser.parse_args(argv, namespace=argparse.Namespace(json=False))


class Arguments(argparse.Namespace):
    """The command, as `conversion` reads it."""

    weights: Path
    labels: tuple[str, ...]
    pooling: tuple[Pooling, ...]
    out: Path
    tokenizer: Path | None
    output: Output
    pad_id: int
    nonlinearity: Literal["tanh", "relu"] | None
    max_length: int


def conversion(argv: Sequence[str] | None, prog: str) -> Arguments:
    parser = Parser(prog, "Brings in a state_dict of embedding + LSTM, GRU or RNN + linear as one model version.")
    add = parser.add_argument
    add("weights", type=Path, metavar="WEIGHTS", help="file of torch.save or safetensors with a state_dict")
    add("--labels", type=names, required=True, metavar="A,B,...", help="names of the classes, in the model's order")
    add("--pooling", type=_pooling, required=True, metavar="KIND,...", help="of " + ", ".join(get_args(Pooling)))
    add("--out", type=version_folder, required=True, metavar="FOLDER", help="new folder, as models/store/NAME/VERSION")
    add("--tokenizer", type=Path, metavar="tokenizer.json", help="Hugging Face tokenizer; without: token ids only")
    add("--output", choices=get_args(Output), default="softmax", help="rule that makes scores of logits")
    add("--pad-id", type=number(int, 0), default=0, metavar="N", help="token id of the padding")
    add("--nonlinearity", choices=("tanh", "relu"), help="of a plain RNN only; tanh where it is left out")
    max_length = ModelConfig.model_fields["max_length"].default
    add("--max-length", type=number(int, 1), default=max_length, metavar="N", help="most tokens of a sequence")
    return parser.parse_args(argv, namespace=Arguments())


def _pooling(text: str) -> tuple[str, ...]:
    kinds = names(text)
    if unknown := [kind for kind in kinds if kind not in get_args(Pooling)]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not one of {', '.join(get_args(Pooling))}")
    return kinds

"""A state_dict made elsewhere: its architecture, read off the names and shapes of its tensors. No torch."""

import re
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

from pydantic import ValidationError

from models.config import GATES, Cell, ModelConfig, Output, Pooling, first_error

Shapes = Mapping[str, tuple[int, ...]]

_RECURRENT = re.compile(
    r"(?P<module>(?:.*\.)?)(?P<name>(?:weight|bias)_(?:ih|hh|hr)_l(?P<layer>\d{1,3})(?:_reverse)?)", re.DOTALL
)


class StateDictError(ValueError):
    """Tensors that are not one embedding, one recurrent module and one linear; the message names them."""


class Options(NamedTuple):
    """What shapes do not tell; the fields are those of ModelConfig."""

    labels: tuple[str, ...]
    pooling: tuple[Pooling, ...]
    output: Output
    pad_id: int
    max_length: int
    nonlinearity: Literal["tanh", "relu"] | None
    """Of a plain RNN, and None for every other cell; None is torch's own default there, tanh."""


class Identified(NamedTuple):
    """What a state_dict holds. `names`: ours, as in `config.tensor_shapes()`, to the state_dict's own.

    A linear without a bias has no ``linear.bias`` in `names`.
    """

    config: ModelConfig
    names: dict[str, str]


def identify(shapes: Shapes, options: Options) -> Identified:
    """Finds the parts of a classifier among tensors of the given names and shapes.

    Every tensor has a part or the whole is refused. Raises StateDictError.
    """
    matches = {name: match for name in shapes if (match := _RECURRENT.fullmatch(name))}
    modules = sorted({match["module"] for match in matches.values()})
    if not modules:
        raise StateDictError("holds no recurrent layer, no weight_ih_l0 and so on as in torch.nn.LSTM, GRU or RNN")
    if len(modules) > 1:
        raise StateDictError(f"holds {len(modules)} recurrent modules, only one is supported: {', '.join(modules)}")
    names = {f"rnn.{match['name']}": name for name, match in matches.items()}
    cell, embedding_dim, hidden_size, proj_size = _sizes(shapes, modules[0], options.nonlinearity)
    bidirectional = any(name.endswith("_reverse") for name in names)
    others = {name: shape for name, shape in shapes.items() if name not in matches}
    directions_size = (proj_size or hidden_size) * (2 if bidirectional else 1)
    embedding, linear = _embedding_and_linear(others, embedding_dim, directions_size, options)
    try:
        config = ModelConfig(
            cell=cell,
            vocab_size=shapes[embedding][0],
            embedding_dim=embedding_dim,
            hidden_size=hidden_size,
            num_layers=1 + max(int(match["layer"]) for match in matches.values()),
            bidirectional=bidirectional,
            proj_size=proj_size,
            bias=any(name.startswith("rnn.bias") for name in names),
            pooling=options.pooling,
            labels=options.labels,
            pad_id=options.pad_id,
            max_length=options.max_length,
            output=options.output,
        )
    except ValidationError as error:
        raise StateDictError(first_error(error)) from error
    names |= {"embedding.weight": embedding, "linear.weight": linear}
    if _bias(linear) in shapes:
        names["linear.bias"] = _bias(linear)
    expected = config.tensor_shapes()
    for name, shape in expected.items():
        if name not in names and name != "linear.bias":
            raise StateDictError(f"lacks {modules[0]}{name.removeprefix('rnn.')}, which its other tensors call for")
        if name in names and shapes[names[name]] != shape:
            raise StateDictError(
                f"{names[name]} has shape {list(shapes[names[name]])}, the other tensors and options call for "
                f"{list(shape)}"
            )
    _all_used(shapes, [names[name] for name in names if name in expected])
    return Identified(config, names)


def _sizes(shapes: Shapes, module: str, nonlinearity: str | None) -> tuple[Cell, int, int, int]:
    """Cell, embedding_dim, hidden_size and proj_size of the recurrent module, from its first layer."""
    rows, hidden_size = _matrix(shapes, f"{module}weight_hh_l0")
    _, embedding_dim = _matrix(shapes, f"{module}weight_ih_l0")
    proj_size = 0
    if any(name.startswith(f"{module}weight_hr_") for name in shapes):
        proj_size, hidden_size = _matrix(shapes, f"{module}weight_hr_l0")
    plain: Cell = "rnn_relu" if nonlinearity == "relu" else "rnn_tanh"
    cells: tuple[Cell, ...] = ("lstm", "gru", plain)
    cell = {GATES[cell] * hidden_size: cell for cell in cells}.get(rows)
    if cell is None:
        raise StateDictError(
            f"{module}weight_hh_l0 has {rows} rows for {hidden_size} hidden units, not 4, 3 or 1 each (lstm, gru, rnn)"
        )
    if nonlinearity and cell != plain:
        raise StateDictError(f"{module}weight_hh_l0 is that of a {cell}: --nonlinearity is for a plain RNN only")
    return cell, embedding_dim, hidden_size, proj_size


def _embedding_and_linear(shapes: Shapes, inputs: int, directions_size: int, options: Options) -> tuple[str, str]:
    """Names of the embedding's and the linear's weight among the tensors that are not recurrent.

    An embedding ``[vocab_size, inputs]`` has no bias; a linear is ``[num_logits, kinds of pooling * directions_size]``.
    """
    weights = [name for name, shape in shapes.items() if len(shape) == 2 and name.split(".")[-1] == "weight"]
    _all_used(shapes, [*weights, *map(_bias, weights)])
    embeddings = [name for name in weights if shapes[name][1] == inputs and _bias(name) not in shapes]
    linear_shape = (_num_logits(options), len(options.pooling) * directions_size)
    linears = [name for name in weights if shapes[name] == linear_shape]
    pairs = [(embedding, linear) for embedding in embeddings for linear in linears if embedding != linear]
    named = [(one, other) for one, other in pairs if _named_embedding(one) and not _named_embedding(other)]
    for choice in (pairs, named):
        if len(choice) == 1:
            return choice[0]
    if not embeddings:
        raise StateDictError(
            f"holds no embedding: a weight without a bias and with the recurrent layer's {inputs} inputs as columns; "
            f"the other weights are {_listed(shapes, weights) or 'none'}"
        )
    if len(weights) == 1:
        raise StateDictError(f"holds no linear layer beside the embedding {embeddings[0]}")
    left = [name for name in weights if name not in embeddings]
    left = left or [name for name in weights if not _named_embedding(name)]
    if len(weights) == 2 and len(left) == 1 and not pairs:
        raise StateDictError(_misfit(left[0], shapes[left[0]], directions_size, options))
    raise StateDictError(
        f"holds {_listed(shapes, weights)}: only one embedding and one linear are supported, and which they are is open"
    )


def _misfit(name: str, shape: tuple[int, ...], directions_size: int, options: Options) -> str:
    """Why a linear of this shape is not the one that the options call for."""
    rows, columns = shape
    kinds, rest = divmod(columns, directions_size)
    if columns != len(options.pooling) * directions_size:
        if rest or not 1 <= kinds <= 4:
            fits = "no pooling fits"
        else:
            fits = f"it takes {kinds} of last, last_output, max, mean, as in --pooling " + ",".join(
                ("last", "max", "mean", "last_output")[:kinds]
            )
        return (
            f"{name} reads {columns} features, but --pooling {','.join(options.pooling)} gives "
            f"{len(options.pooling) * directions_size}, {directions_size} for each kind: {fits}"
        )
    gives = f"{name} gives {rows} logit{'s' if rows > 1 else ''}, but"
    if options.output == "binary":
        return f"{gives} --output binary takes one"
    hint = ": one logit for two labels is --output binary" if (rows, len(options.labels)) == (1, 2) else ""
    return f"{gives} --labels names {len(options.labels)}{hint}"


def _num_logits(options: Options) -> int:
    return 1 if options.output == "binary" else len(options.labels)


def _matrix(shapes: Shapes, name: str) -> tuple[int, int]:
    if name not in shapes:
        raise StateDictError(f"lacks {name}, which its other tensors call for")
    if len(shapes[name]) != 2 or 0 in shapes[name]:
        raise StateDictError(f"{name} has shape {list(shapes[name])}: not a matrix")
    rows, columns = shapes[name]
    return rows, columns


def _bias(weight: str) -> str:
    """Name of the bias beside a weight, as torch.nn.Linear has it."""
    return weight.removesuffix("weight") + "bias"


def _named_embedding(name: str) -> bool:
    return "emb" in name.lower()


def _all_used(shapes: Shapes, used: Iterable[str]) -> None:
    if unused := [name for name in shapes if name not in set(used)]:
        raise StateDictError(
            f"holds {_listed(shapes, unused)}, no part of one embedding, one LSTM, GRU or RNN and one linear: the "
            "model cannot be brought in without"
        )


def _listed(shapes: Shapes, names: Iterable[str]) -> str:
    return ", ".join(f"{name} {list(shapes[name])}" for name in names)

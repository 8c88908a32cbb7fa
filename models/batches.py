"""Batches of token id sequences: of equal lengths for training, of like lengths for everything else."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from models.config import ModelConfig
from models.metrics import Floats, Integers
from models.network import SequenceClassifier
from models.scores import scores


class Batch(NamedTuple):
    """Windows of one length: `rows` ``[batch]`` are sequences, `starts` ``[batch]`` the windows' first tokens."""

    rows: Integers
    starts: Integers
    length: int


def training_batches(
    lengths: Integers, *, crop: int, batch_size: int, batch_tokens: int, seed: int, epoch: int
) -> list[Batch]:
    """One epoch: a window of every sequence, of `crop` tokens at most, in an order drawn from (seed, epoch).

    torch's fused kernels take batches of equal lengths only, so lengths are rounded down to a grid. A batch has at most
    `batch_size` sequences and, where it has more than one, `batch_tokens` tokens; how many batches there are is the
    same in every epoch.
    """
    draw = np.random.default_rng((seed, epoch))
    windows = np.array([grid_length(min(length, crop)) for length in lengths.tolist()])
    starts = draw.integers(0, lengths - windows, endpoint=True)
    batches = []
    for length in np.unique(windows).tolist():
        rows = draw.permutation(np.flatnonzero(windows == length))
        most = min(batch_size, max(1, batch_tokens // length))
        parts = np.array_split(rows, math.ceil(len(rows) / most))
        batches += [Batch(part, starts[part], length) for part in parts]
    return [batches[index] for index in draw.permutation(len(batches))]


def grid_length(length: int) -> int:
    """`length` rounded down to 16 steps an octave; exact below 32."""
    step = 1 << max(0, length.bit_length() - 5)
    return length // step * step


def predict_sequences(
    network: SequenceClassifier,
    sequences: Sequence[Sequence[int] | Integers],
    *,
    batch_tokens: int = 32768,
    on_batch: Callable[[int], object] = lambda sequences: None,
) -> npt.NDArray[np.float32]:
    """Logits ``[sequences, num_logits]`` of `network` in evaluation mode, in the order given.

    Sequences are batched longest first; `on_batch` is told how many sequences each batch had.
    """
    lengths = np.array([len(sequence) for sequence in sequences])
    order = np.argsort(-lengths, kind="stable")
    logits = np.empty((len(sequences), network.config.num_logits), np.float32)
    position = 0
    while position < len(order):
        size = max(1, batch_tokens // int(lengths[order[position]]))
        rows = order[position : position + size]
        logits[rows] = network.predict([sequences[row] for row in rows.tolist()])
        position += size
        on_batch(len(rows))
    return logits


def predict_scores(
    network: SequenceClassifier, config: ModelConfig, sequences: Sequence[Sequence[int] | Integers]
) -> Floats:
    """Scores ``[sequences, classes]``, at the temperature of `config`, of sequences cut at the model's length."""
    return scores(predict_sequences(network, [sequence[: config.max_length] for sequence in sequences]), config)


def predict_classes(network: SequenceClassifier, sequences: Sequence[Sequence[int] | Integers]) -> Integers:
    """The class of highest score of each sequence, cut at the model's length, ``[sequences]``."""
    predicted: Integers = predict_scores(network, network.config, sequences).argmax(axis=1)
    return predicted

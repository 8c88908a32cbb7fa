"""torch's fused oneDNN LSTM on a batch padded to its longest sequence.

It takes no packed batch, and a bidirectional one would start a short sequence's reverse direction in its padding: so
each direction is a network of its own, and the rows of the reverse one are reversed by hand.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from models.network import SequenceClassifier

DIRECTIONS = ("", "_reverse")


class Padded:
    """One layer of an LSTM in both directions, its last states pooled, in `dtype`."""

    def __init__(self, network: SequenceClassifier, dtype: torch.dtype) -> None:
        config, weights = network.config, network.state_dict()
        self._embedding = weights["embedding.weight"].to(dtype)
        self._directions = []
        for suffix in DIRECTIONS:
            lstm = nn.LSTM(config.embedding_dim, config.hidden_size)
            lstm.load_state_dict({name: weights[f"rnn.{name}{suffix}"] for name in lstm.state_dict()})
            self._directions.append(lstm.to(dtype).eval().requires_grad_(False))
        self._linear = network.linear

    @torch.inference_mode()
    def predict(self, sequences: Sequence[Sequence[int]]) -> npt.NDArray[np.float32]:
        """Logits ``[sequences, num_logits]``."""
        lengths = torch.tensor([len(sequence) for sequence in sequences])
        rows = torch.arange(len(sequences))
        states = []
        for lstm, reverse in zip(self._directions, (False, True), strict=True):
            output, _ = lstm(self._embedding[pad(sequences, reverse)])
            states.append(output[lengths - 1, rows])
        logits: npt.NDArray[np.float32] = self._linear(torch.cat(states, dim=1).float()).numpy()
        return logits


def pad(sequences: Sequence[Sequence[int]], reverse: bool) -> Tensor:
    """Token ids ``[longest, sequences]``, zeros beyond each sequence's end."""
    token_ids = np.zeros((len(sequences), max(map(len, sequences))), np.int64)
    for row, sequence in zip(token_ids, sequences, strict=True):
        row[: len(sequence)] = sequence[::-1] if reverse else sequence
    return torch.from_numpy(np.ascontiguousarray(token_ids.T))

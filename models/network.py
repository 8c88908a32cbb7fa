"""The sequence classifier as a torch module."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from models.config import ModelConfig, Pooling


class SequenceClassifier(nn.Module):
    """Embedding -> packed recurrent layers -> pooling over the real tokens -> linear.

    No padding is ever computed: token ids are packed before the embedding and pooled from the packed rows, so a
    sequence's logits do not depend on its neighbours' lengths (beyond the rounding of a matrix product's blocking).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.embedding_dim)
        self.rnn = _recurrent(config)
        self.dropout = nn.Dropout(config.dropout)
        self.linear = nn.Linear(config.feature_size, config.num_logits)

    @classmethod
    def from_weights(cls, config: ModelConfig, weights: Mapping[str, npt.NDArray[np.float32]]) -> Self:
        """The network in evaluation mode with the given weights (names and shapes of `config.tensor_shapes()`)."""
        with torch.device("meta"):
            network = cls(config)
        tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in weights.items()}
        network.load_state_dict(tensors, assign=True)
        return network.eval().requires_grad_(False)

    def weights(self) -> dict[str, npt.NDArray[np.float32]]:
        """A float32 copy of every weight."""
        return {name: tensor.detach().float().cpu().numpy().copy() for name, tensor in self.state_dict().items()}

    def forward(self, token_ids: Tensor, lengths: Tensor, moved: Tensor | None = None) -> Tensor:
        """Logits ``[batch, num_logits]`` of right-padded `token_ids` ``[batch, width]``, int64.

        `lengths` ``[batch]``, int64 on the CPU, each from 1 to width; tokens beyond a length are never read. `moved`
        ``[batch, width, embedding_dim]`` is added to what they are embedded as.
        """
        if self.training and not self.config.proj_size and bool((lengths == lengths[0]).all()):
            # torch's fused CPU kernel takes no packed input and no projection; not for serving: it caches a primitive
            # for every shape
            width = int(lengths[0])
            embedded = self.embedding(token_ids[:, :width])
            output, state = self.rnn(self.dropout(embedded if moved is None else embedded + moved[:, :width]))
            rows = output.flatten(0, 1)
        else:
            tokens = pack_padded_sequence(token_ids, lengths, batch_first=True, enforce_sorted=False)
            embedded = self.embedding(tokens.data)
            if moved is not None:
                embedded = embedded + pack_padded_sequence(moved, lengths, batch_first=True, enforce_sorted=False).data
            output, state = self.rnn(PackedSequence(self.dropout(embedded), *tokens[1:]))
            rows = output.data[packed_rows(output, lengths).to(output.data.device)]
        hidden = state[0] if isinstance(state, tuple) else state
        features = torch.cat([self._pool(kind, rows, hidden, lengths) for kind in self.config.pooling], dim=1)
        logits: Tensor = self.linear(self.dropout(features))
        return logits

    def _pool(self, kind: Pooling, rows: Tensor, hidden: Tensor, lengths: Tensor) -> Tensor:
        """One pooled vector a sequence, ``[batch, directions * state_size]``.

        `rows` ``[sum of lengths, directions * state_size]``: outputs of sequence 0's tokens, then sequence 1's, ...;
        `hidden` ``[layers * directions, batch, state_size]``: the final states.
        """
        if kind == "last":
            return torch.cat(tuple(hidden[-self.config.num_directions :]), dim=1)
        if kind == "last_output":
            return rows[lengths.cumsum(0) - 1]
        pooled: Tensor = torch.segment_reduce(rows.float(), kind, lengths=lengths.to(rows.device), unsafe=True)
        return pooled

    @torch.inference_mode()
    def predict(self, sequences: Sequence[Sequence[int]]) -> npt.NDArray[np.float32]:
        """Logits ``[sequences, num_logits]``, float32, of token id sequences of any lengths from 1."""
        lengths = torch.tensor([len(sequence) for sequence in sequences])
        token_ids = torch.full((len(sequences), int(lengths.max())), self.config.pad_id)
        for row, sequence in zip(token_ids, sequences, strict=True):
            row[: len(sequence)] = torch.tensor(sequence)
        logits: npt.NDArray[np.float32] = self(token_ids.to(self.linear.weight.device), lengths).float().cpu().numpy()
        return logits


def packed_rows(packed: PackedSequence, lengths: Tensor) -> Tensor:
    """Rows of `packed.data` that hold sequence 0's tokens, then sequence 1's, ..., ``[sum of lengths]`` on the CPU.

    `packed.data` holds step 0 of all sequences, longest first, then step 1 of those that have one, and so on.
    """
    starts = packed.batch_sizes.cumsum(0) - packed.batch_sizes
    ranks = packed.unsorted_indices
    assert ranks is not None, "packed with enforce_sorted=False"
    real = torch.arange(len(starts)) < lengths[:, None]
    return (starts + ranks.cpu()[:, None])[real]


def _recurrent(config: ModelConfig) -> nn.RNNBase:
    size: dict[str, Any] = {
        "input_size": config.embedding_dim,
        "hidden_size": config.hidden_size,
        "num_layers": config.num_layers,
        "bidirectional": config.bidirectional,
        "bias": config.bias,
        "batch_first": True,
        # between layers; torch warns where there is only one
        "dropout": config.dropout if config.num_layers > 1 else 0.0,
    }
    if config.cell == "lstm":
        return nn.LSTM(**size, proj_size=config.proj_size)
    if config.cell == "gru":
        return nn.GRU(**size)
    return nn.RNN(**size, nonlinearity=config.cell.removeprefix("rnn_"))

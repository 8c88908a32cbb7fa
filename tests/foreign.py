"""Classifiers as others write and save them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer as HFTokenizer
from tokenizers import pre_tokenizers
from tokenizers.models import WordLevel
from torch import Tensor, nn

from models.config import ModelConfig
from tests.tiny import tiny_config


class Foreign(nn.Module):
    """A classifier as others write it: one sequence at a time, no packing. Subclasses name its parts."""

    def __init__(self, config: ModelConfig, linear_bias: bool = True) -> None:
        super().__init__()
        self.pooling, self.bidirectional = config.pooling, config.bidirectional
        size: dict[str, Any] = {
            "num_layers": config.num_layers,
            "bidirectional": config.bidirectional,
            "bias": config.bias,
        }
        if config.cell == "lstm":
            size["proj_size"] = config.proj_size
        elif config.cell != "gru":
            size["nonlinearity"] = config.cell.removeprefix("rnn_")
        kind: Callable[..., nn.RNNBase] = {"lstm": nn.LSTM, "gru": nn.GRU}.get(config.cell, nn.RNN)
        self.assemble(
            nn.Embedding(config.vocab_size, config.embedding_dim, padding_idx=config.pad_id),
            kind(config.embedding_dim, config.hidden_size, **size),
            nn.Linear(config.feature_size, config.num_logits, bias=linear_bias),
        )

    def assemble(self, embedding: nn.Module, rnn: nn.Module, linear: nn.Module) -> None:
        raise NotImplementedError

    def parts(self) -> tuple[nn.Module, nn.Module, nn.Module]:
        embedding, rnn, linear = (
            next(module for module in self.modules() if isinstance(module, kind))
            for kind in (nn.Embedding, nn.RNNBase, nn.Linear)
        )
        return embedding, rnn, linear

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits ``[num_logits]`` of one sequence ``[length]``."""
        embedding, rnn, linear = self.parts()
        outputs, state = rnn(embedding(tokens)[:, None])
        final = state[0] if isinstance(state, tuple) else state
        pooled = {
            "last": torch.cat([final[-2, 0], final[-1, 0]]) if self.bidirectional else final[-1, 0],
            "last_output": outputs[-1, 0],
            "max": outputs[:, 0].amax(0),
            "mean": outputs[:, 0].mean(0),
        }
        logits: Tensor = linear(torch.cat([pooled[kind] for kind in self.pooling]))
        return logits


class Flat(Foreign):
    def assemble(self, embedding: nn.Module, rnn: nn.Module, linear: nn.Module) -> None:
        self.word_embeddings, self.lstm, self.fc = embedding, rnn, linear


class Nested(Foreign):
    def assemble(self, embedding: nn.Module, rnn: nn.Module, linear: nn.Module) -> None:
        self.head = nn.Sequential(nn.Dropout(0.5), nn.Tanh(), linear)
        self.encoder = nn.ModuleDict({"lookup": nn.Sequential(embedding), "weight_ih_l0": nn.ModuleList([rnn])})


class Parallel(Foreign):
    """As nn.DataParallel and torch.compile leave the names."""

    def assemble(self, embedding: nn.Module, rnn: nn.Module, linear: nn.Module) -> None:
        self.module = nn.ModuleDict({"_orig_mod": nn.ModuleDict({"E": embedding, "R": rnn, "W": linear})})


WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "plain": lambda weights: weights,
    "dict": dict,
    "lightning": lambda weights: {"epoch": 3, "state_dict": weights, "best": torch.tensor(0.5)},
    "tutorial": lambda weights: {"model_state_dict": weights, "optimizer_state_dict": {"state": {}}, "loss": 0.1},
    "model": lambda weights: {"model": weights, "args": {"lr": 1e-3}},
}


def command(weights: Path, out: Path, config: ModelConfig) -> list[str]:
    words = [str(weights), "--labels", ",".join(config.labels), "--pooling", ",".join(config.pooling)]
    words += ["--out", str(out), "--output", config.output, "--pad-id", str(config.pad_id)]
    return [*words, "--nonlinearity", "relu"] if config.cell == "rnn_relu" else words


def predict(foreign: nn.Module, sequences: list[list[int]]) -> Any:
    with torch.no_grad():
        return torch.stack([foreign(torch.tensor(sequence)).float() for sequence in sequences]).numpy()


def foreign_state(**fields: Any) -> dict[str, Any]:
    torch.manual_seed(0)
    return Flat(tiny_config(**fields)).state_dict()


def save(folder: Path, content: Any) -> Path:
    path = folder / "weights.pt"
    torch.save(content, path)
    return path


def tokenizer_file(folder: Path, change: Callable[[HFTokenizer], object] = lambda _: None, **vocab: int) -> Path:
    names = {"pad": "[PAD]", "unk": "[UNK]"}
    words = {
        names.get(token, token): token_id for token, token_id in ({"unk": 1, "good": 2, "film": 39} | vocab).items()
    }
    pipeline = HFTokenizer(WordLevel({token: number for token, number in words.items() if number >= 0}, "[UNK]"))
    pipeline.pre_tokenizer = pre_tokenizers.Whitespace()
    change(pipeline)
    path = folder / "tokenizer.json"
    path.write_text(pipeline.to_str())
    return path

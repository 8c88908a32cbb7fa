"""Small models for tests."""

from pathlib import Path
from typing import Any

import torch

from models.artifact import Artifact, write_artifact
from models.config import ModelConfig
from models.golden import golden_cases
from models.network import SequenceClassifier
from models.tokenizer import Tokenizer

TEXTS = ["good film , very good .", "bad film , very bad .", "not good !", "not bad at all , a treat"]


def tiny_config(**fields: Any) -> ModelConfig:
    """A bidirectional LSTM over 40 token ids, unless told otherwise."""
    defaults: dict[str, Any] = {
        "vocab_size": 40,
        "embedding_dim": 6,
        "hidden_size": 8,
        "bidirectional": True,
        "labels": ("negative", "positive"),
        "max_length": 64,
    }
    return ModelConfig(**{**defaults, **fields})


def tiny_network(seed: int = 0, **fields: Any) -> SequenceClassifier:
    torch.manual_seed(seed)
    return SequenceClassifier(tiny_config(**fields)).eval().requires_grad_(False)


def tiny_artifact(seed: int = 0, *, with_tokenizer: bool = True, **fields: Any) -> Artifact:
    network = tiny_network(seed, **fields)
    tokenizer = Tokenizer.train(TEXTS, network.config.vocab_size, min_count=1) if with_tokenizer else None
    return Artifact(network.config, network.weights(), tokenizer, golden_cases(network, tokenizer))


def write_tiny(folder: Path, seed: int = 0, *, with_tokenizer: bool = True, **fields: Any) -> Artifact:
    """Writes a small version to `folder` and gives it."""
    artifact = tiny_artifact(seed, with_tokenizer=with_tokenizer, **fields)
    write_artifact(folder, artifact)
    return artifact

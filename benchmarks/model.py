"""The benchmark's model, what a sequence of it costs, and what this machine could do at most."""

import time

import numpy as np
import torch

from models.artifact import Artifact
from models.config import GATES, ModelConfig
from models.golden import golden_cases
from models.network import SequenceClassifier

NAME = "benchmark"
CONFIG = ModelConfig(
    vocab_size=30_000, embedding_dim=128, hidden_size=256, bidirectional=True, labels=("negative", "positive")
)


def make_artifact(config: ModelConfig = CONFIG) -> Artifact:
    """A version of seeded random weights.

    The linear layer's are larger than a fresh network's, so that logits lie as far apart as those of a trained one.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = SequenceClassifier(config).eval().requires_grad_(False)
    network.linear.weight.mul_(20)
    return Artifact(config, network.weights(), None, golden_cases(network, None))


def flop(config: ModelConfig, tokens: float, sequences: int) -> float:
    """Operations (2 a multiply-add) of the products of `sequences` of one layer that have `tokens` together."""
    inputs = recurrent_flop(config, tokens) / config.hidden_size * config.embedding_dim
    return recurrent_flop(config, tokens) + inputs + sequences * 2 * config.num_logits * config.feature_size


def recurrent_flop(config: ModelConfig, tokens: float) -> float:
    """Of those the recurrent product's, of both directions where there are two."""
    return config.num_directions * tokens * 2 * GATES[config.cell] * config.hidden_size**2


def measured_peak(dtype: torch.dtype, threads: int, size: int = 2048, seconds: float = 1.0) -> float:
    """The best rate of a square matrix product on `threads` threads, in FLOP/s."""
    torch.set_num_threads(threads)
    left, right = (torch.rand(size, size).to(dtype) for _ in range(2))
    best, end = np.inf, time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        torch.mm(left, right)
        best = min(best, time.perf_counter() - began)
    return float(2 * size**3 / best)

"""The compiled module for tests: what of it this CPU has, small models, and sequences run to their end."""

import select
import socket
import time
from collections.abc import Sequence as Many
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import pytest

from models.config import ModelConfig
from service.engine import _core
from service.engine.native import sizes_of

Weights = dict[str, npt.NDArray[np.float32]]
PRECISIONS = dict(_core.paths())
NAMES = {
    "amx_bf16": "AMX-bf16",
    "avx512_bf16": "AVX-512-bf16",
    "avx512": "AVX-512",
    "avx2": "AVX2",
    "portable": "portable code",
}
PATHS = [
    pytest.param(path, marks=pytest.mark.skipif(path not in PRECISIONS, reason=f"this CPU has no {name}"))
    for path, name in NAMES.items()
]
"""Every path there is; those that this CPU lacks are skipped with the reason."""

FAR = 3600.0
"""Seconds until a deadline that never comes."""


class Result(NamedTuple):
    ticket: int
    ending: int
    started: float
    logits: list[float]


class Bench:
    """An engine of the core, as Python's side of it is used; a context manager that closes it."""

    def __init__(self, threads: int = 1, lanes: int = 4) -> None:
        self.near, self._far = socket.socketpair()
        self._far.setblocking(False)  # as the bell's: a thread never waits to ring
        self.engine = _core.Engine(threads, lanes, self._far.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.engine.close()
        self.near.close()
        self._far.close()

    def start(self, model: _core.Model, tokens: Many[int], seconds: float = FAR) -> int:
        return self.engine.start(model, tokens, time.monotonic() + seconds)

    def collect(self, number: int) -> list[Result]:
        """The next results, in the order of their endings, `number` or more."""
        results: list[Result] = []
        while len(results) < number:
            assert select.select([self.near], [], [], 60)[0], "an engine that has work gives nothing for a minute"
            self.near.recv(4096)
            results += [Result(*result) for result in self.engine.collect()]
        return results

    def logits(self, model: _core.Model, sequences: Many[Many[int]]) -> list[list[float]]:
        """Logits of sequences that run together, in their order."""
        tickets = [self.start(model, tokens) for tokens in sequences]
        results = {result.ticket: result for result in self.collect(len(tickets))}
        assert all(result.ending == _core.Ending.DONE for result in results.values())
        return [results[ticket].logits for ticket in tickets]


def random_weights(config: ModelConfig, seed: int = 0) -> Weights:
    """As torch initialises: uniform within one over the root of the hidden size; embeddings within one."""
    draw = np.random.default_rng(seed)
    bounds = {"embedding.weight": 1.0}
    return {
        name: (draw.uniform(-1, 1, shape) * bounds.get(name, config.hidden_size**-0.5)).astype(np.float32)
        for name, shape in config.tensor_shapes().items()
    }


def core_model(path: str, config: ModelConfig, weights: Weights, *, table_rows: int | None = None) -> _core.Model:
    rows = config.vocab_size if table_rows is None else table_rows
    return _core.Model(path, sizes_of(config), weights, rows, 1)


def wide_config(**fields: Any) -> ModelConfig:
    """A bidirectional LSTM whose steps take some microseconds."""
    defaults: dict[str, Any] = {
        "vocab_size": 50,
        "embedding_dim": 8,
        "hidden_size": 96,
        "bidirectional": True,
        "labels": ("negative", "positive"),
    }
    return ModelConfig(**{**defaults, **fields})

"""Counts and times of each model version, in the shape of Triton's statistics extension."""

import time
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

KINDS = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss")


class _Version:
    def __init__(self) -> None:
        self.last = 0
        """When the last request came to its end, in ms since the epoch."""
        self.sequences = 0
        self.kinds = {kind: {"count": 0, "ns": 0} for kind in KINDS}

    def add(self, kind: str, seconds: float) -> None:
        self.kinds[kind]["count"] += 1
        self.kinds[kind]["ns"] += round(1e9 * seconds)


class Statistics:
    """What the requests of each version came to, since the process began; used on one event loop, without a lock."""

    def __init__(self) -> None:
        self._versions: defaultdict[tuple[str, int], _Version] = defaultdict(_Version)

    def succeeded(self, version: tuple[str, int], sequences: int, **seconds: float) -> None:
        """Counts an answered request of so many sequences; `seconds` of each kind of time in it."""
        found = self._ended(version)
        found.sequences += sequences
        for kind, spent in seconds.items():
            found.add(kind, spent)

    def failed(self, version: tuple[str, int], seconds: float) -> None:
        """Counts a request that got no answer."""
        self._ended(version).add("fail", seconds)

    def document(self, versions: Iterable[tuple[str, int]]) -> dict[str, Any]:
        """Of these versions.

        Lanes know no batches: every sequence is an execution of its own, and there are no statistics of batch sizes.
        """
        return {"model_stats": [self._model(name, version) for name, version in versions]}

    def _model(self, name: str, version: int) -> dict[str, Any]:
        found = self._versions[name, version]
        return {
            "name": name,
            "version": str(version),
            "last_inference": found.last,
            "inference_count": found.sequences,
            "execution_count": found.sequences,
            "inference_stats": found.kinds,
            "batch_stats": [],
        }

    def _ended(self, version: tuple[str, int]) -> _Version:
        found = self._versions[version]
        found.last = time.time_ns() // 1_000_000
        return found

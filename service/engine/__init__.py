"""The seam between serving and computing, and the choice of what stands behind it."""

import os
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import NamedTuple, Protocol

from models.artifact import Artifact
from service.sequence import Outcome, Sequence


class Engine(Protocol):
    """Runs sequences; one for each engine thread, never shared between threads."""

    def start(self, sequence: Sequence) -> None:
        """Takes a sequence into a free lane."""

    def step(self, budget: int) -> list[Outcome]:
        """Works on what was started, for about `budget` tokens; gives what came to its end.

        A sequence that cannot be computed ends with an error of its own; raising means that the engine is broken.
        """

    def cancel(self, sequence: Sequence) -> None:
        """Forgets a started sequence that has not come to its end."""


class Backend(NamedTuple):
    """A way to compute: how a version's weights are made ready, once, and how an engine is made, for each thread."""

    name: str
    device: str
    threads: int
    load: Callable[[Artifact], Hashable]
    engine: Callable[[], Engine]


class BackendError(RuntimeError):
    """No engine can run here as asked; the message is one line with the remedy."""


def choose(device: str, threads: int) -> Backend:
    """The backend for `device` (auto, cpu, cuda) with `threads` engine threads (0: one per usable core).

    Raises BackendError.
    """
    try:
        from service.engine import packed
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise BackendError("no engine to run on: torch is not installed; pip install 'lstm-serve[torch]'") from error
    if device == "auto":
        device = "cuda" if packed.cuda_available() else "cpu"
    elif device == "cuda" and not packed.cuda_available():
        raise BackendError("device cuda: torch sees no GPU; choose auto or cpu, or install torch's CUDA build")
    workers = threads or (usable_cores() if device == "cpu" else 1)
    packed.prepare()
    return Backend("packed", device, workers, lambda artifact: packed.load(artifact, device), packed.PackedEngine)


def usable_cores(root: Path = Path("/sys/fs/cgroup")) -> int:
    """Cores that this process may use: its affinity, cut to the CPU quota of its control group (v2 or v1)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _numbers(root / "cpu.max") or _numbers(root / "cpu/cpu.cfs_quota_us", root / "cpu/cpu.cfs_period_us")
    return max(1, min(cores, int(quota[0] / quota[1]))) if quota else cores


def _numbers(*paths: Path) -> list[float]:
    """Quota and period in microseconds; empty where there is no limit."""
    try:
        words = " ".join(path.read_text() for path in paths).split()
    except OSError:
        return []
    return [float(word) for word in words] if len(words) == 2 and words[0] not in ("max", "-1") else []

"""How many cases the fuzz tests run, and which: `FUZZ` times as many as in CI, where they are always the same."""

import os
import random
import resource
from pathlib import Path

from hypothesis import HealthCheck, settings

SCALE = int(os.environ.get("FUZZ", "1"))

SEED = 0 if SCALE == 1 else int(os.environ.get("FUZZ_SEED", random.randrange(1 << 32)))
"""Printed where it is not always the same; FUZZ_SEED repeats a run."""

MOST_MEMORY = 2 << 30
"""Bytes that reading a small version takes at most, as `models.artifact` promises."""


def bounded() -> int:
    """From here this process can take that much more, and no more; bytes that it has taken so far."""
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + MOST_MEMORY,) * 2)
    return largest()


def largest() -> int:
    """Bytes that this process has had in memory at its largest."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def examples(number: int) -> settings:
    """Hypothesis' settings for so many cases, times the scale."""
    return settings(
        max_examples=number * SCALE,
        derandomize=SCALE == 1,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )

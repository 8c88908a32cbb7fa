"""Figures of several rounds: how they are summed up, and what they were measured on."""

import importlib.metadata
import os
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from service.engine.cores import usable_cores

INSTRUCTION_SETS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
PACKAGES = ("lstm-serve", "torch", "onnxruntime", "numpy", "fastapi", "pydantic", "uvicorn", "uvloop")


class Spread(NamedTuple):
    """The median of the rounds between their least and their greatest."""

    median: float
    least: float
    greatest: float

    @classmethod
    def of(cls, rounds: Sequence[float]) -> "Spread":
        return cls(statistics.median(rounds), min(rounds), max(rounds))

    def __str__(self) -> str:
        median, least, greatest = map(shown, self)
        return median if least == greatest else f"{median} ({least} to {greatest})"


def shown(value: float) -> str:
    """Three digits that count, thousands apart: 0.0123, 4.56, 7,890."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 10 else f"{value:.1f}"


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Ours as a multiple of theirs, round by round: only figures of one round are compared."""
    return [mine / yours for mine, yours in zip(ours, theirs, strict=True)]


def quantile(values: Sequence[float], share: float) -> float:
    """The least of `values` that `share` of them do not exceed. Raises ValueError without any."""
    if not values:
        raise ValueError("nothing was answered in the time that counts: measure longer (--seconds)")
    ordered = sorted(values)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    fields = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        fields[name.strip()] = value.strip()
    flags = fields.get("flags", "").split()
    return {
        "processor": fields.get("model name", platform.machine()),
        "cores": f"{usable_cores()} of {os.cpu_count()}",
        "instruction sets": ", ".join(name for name in INSTRUCTION_SETS if name in flags) or "none of note",
        "load before the run": f"{os.getloadavg()[0]:.1f}",
        "Python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
    }

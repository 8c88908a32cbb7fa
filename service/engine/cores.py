"""How many cores there are to compute on."""

import os
from pathlib import Path


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

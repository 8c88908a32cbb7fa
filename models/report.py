"""What there is to say of a training run, and the part of it that is for programs."""

import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from models.calibration import Calibration
from models.config import ModelConfig
from models.encoder import Lineage
from models.held_out import HeldOutScore
from models.metrics import Metrics
from models.options import command_line
from models.pairs import PairScore
from models.run import Outcome
from models.settings import TrainingSettings


class Report(NamedTuple):
    """All that is reported: `files` are names and SHA-256 digests, rows are counted by class."""

    settings: TrainingSettings
    config: ModelConfig
    metrics: Metrics
    calibration: Calibration
    pairs: Sequence[PairScore]
    elsewhere: Sequence[HeldOutScore]
    runs: Sequence[Outcome]
    """Those that learned the classes."""
    kept: Outcome
    """One of them."""
    lineage: Lineage
    """This run's own commands and pretraining included."""
    training_rows: Sequence[int]
    validation_rows: Sequence[int]
    files: Sequence[tuple[str, str]]


def metrics_json(report: Report) -> str:
    document = {
        "labels": list(report.config.labels),
        "validation": report.metrics.to_json(report.config.labels),
        "calibration": {
            "temperature": report.calibration.temperature,
            "rows": report.calibration.rows,
            "error_before": report.calibration.before,
            "error_after": report.calibration.after,
        },
        "pairs": [score._asdict() for score in report.pairs],
        "elsewhere": [
            {"file": score.name, "known": score.known, **score.metrics.to_json(report.config.labels)}
            for score in report.elsewhere
        ],
        "made_by": report.lineage.made_by,
        "pretraining": report.lineage.pretraining,
        "runs": [{"seed": run.seed, "best_epoch": run.best_epoch, **run.best} for run in report.runs],
        "seed": report.kept.seed,
        "best_epoch": report.kept.best_epoch,
        "epochs": report.kept.history,
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def making(settings: TrainingSettings, seconds: float) -> dict[str, Any]:
    """This run as one of `Lineage.made_by`."""
    threads = f"{settings.threads} thread{'s' * (settings.threads != 1)}"
    where = f"{hardware(settings.device)}, torch {torch.__version__}, {threads}"
    return {"command": command_line(settings), "seconds": round(seconds, 1), "hardware": where}


def hardware(device: str) -> str:
    """The processor's name and its usable cores; on a GPU, the GPU's name."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    cpu = platform.processor() or platform.machine()
    with_names = Path("/proc/cpuinfo")
    if with_names.exists():
        names = [line.partition(":")[2].strip() for line in with_names.read_text().splitlines() if "model name" in line]
        cpu = names[0] if names else cpu
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cpu}, {cores} cores"

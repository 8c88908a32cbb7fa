"""What there is to say of a training run, and the part of it that is for programs."""

import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from models.calibration import Calibration
from models.config import ModelConfig
from models.held_out import HeldOutScore
from models.lineage import Language, Making
from models.metrics import Metrics
from models.pairs import PairScore
from models.run import Outcome
from models.settings import TrainingSettings


class Report(NamedTuple):
    """All that is reported; rows are counted by class."""

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
    made_by: Sequence[Making]
    """The last one is this run."""
    training_rows: Sequence[int]
    validation_rows: Sequence[int]

    @property
    def languages(self) -> list[Language]:
        return [making.language for making in self.made_by if making.language]


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
        "made_by": [making.model_dump(mode="json") for making in report.made_by],
        "runs": [{"seed": run.seed, "best_epoch": run.best_epoch, **run.best} for run in report.runs],
        "seed": report.kept.seed,
        "best_epoch": report.kept.best_epoch,
        "epochs": report.kept.history,
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def hardware(settings: TrainingSettings) -> str:
    """What it ran on: the GPU, or the processor and its usable cores, and on how many threads of how many processes."""
    threads = f"{settings.threads} thread{'s' * (settings.threads != 1)}"
    if (processes := settings.nnodes * settings.nproc_per_node) > 1:
        threads = f"{processes} processes of {threads}"
    device = torch.cuda.get_device_name() if settings.device == "cuda" else processor()
    return f"{device}, torch {torch.__version__}, {threads}"


def processor() -> str:
    cpu = platform.processor() or platform.machine()
    with_names = Path("/proc/cpuinfo")
    if with_names.exists():
        names = [line.partition(":")[2].strip() for line in with_names.read_text().splitlines() if "model name" in line]
        cpu = names[0] if names else cpu
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cpu}, {cores} cores"

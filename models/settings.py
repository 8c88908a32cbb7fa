"""What a training run was told. No torch."""

import argparse
from pathlib import Path
from typing import Any

from models.config import Cell, Pooling

OF_ENCODER = (
    "cell",
    "embedding_dim",
    "hidden_size",
    "num_layers",
    "bidirectional",
    "proj_size",
    "bias",
    "min_count",
)
"""Settings that `--encoder` decides."""


FILES = ("data", "also", "pretrain", "test")
"""Options that name files of texts."""

OF_TORCHRUN = ("nnodes", "nproc_per_node")
"""Settings that are none of our options."""


class SettingsError(ValueError):
    """Settings that do not fit together."""


class TrainingSettings(argparse.Namespace):
    """What `python -m models.train` was told."""

    data: list[Path]
    data_name: str | None
    text_column: str
    label_column: str
    labels: tuple[str, ...] | None
    label_map: dict[str, str]
    also: list[Path]
    pairs: list[Path]
    test: list[Path]
    validation: float
    pretrain: list[Path]
    encoder: Path | None
    runs: int
    out: Path
    seed: int
    cell: Cell
    embedding_dim: int
    hidden_size: int
    num_layers: int
    bidirectional: bool
    proj_size: int
    bias: bool
    pooling: tuple[Pooling, ...]
    dropout: float
    word_dropout: float
    vocab_size: int | None
    min_count: int
    max_length: int
    pretrain_epochs: int
    pretrain_learning_rate: float
    pretrain_window: int
    negatives: int
    weight_drop: float
    layer_decay: float
    unfreeze: int
    average: float
    vat: float
    vat_size: float
    distil: list[Path]
    distil_weight: float
    crop: int
    epochs: int
    patience: int
    batch_size: int
    batch_tokens: int
    learning_rate: float
    weight_decay: float
    clip: float
    label_smoothing: float
    precision: str
    device: str
    threads: int | None
    weights: str
    checkpoint_seconds: float
    resume: bool
    tensorboard: Path | None
    nnodes: int
    """Machines, and processes on each, as torchrun has started them: its options, not ours."""
    nproc_per_node: int

    @property
    def learns_language(self) -> bool:
        """Whether there is a stage before that of the classes."""
        return bool(self.pretrain and self.pretrain_epochs)

    @property
    def begun(self) -> list[Path]:
        """What there is to go on from, one or none."""
        return [self.encoder] if self.encoder else []

    @property
    def launcher(self) -> list[str]:
        """What starts the processes."""
        if self.nnodes * self.nproc_per_node == 1:
            return ["python", "-m", "models.train"]
        nodes = ["--nnodes", str(self.nnodes)] if self.nnodes > 1 else []
        return ["torchrun", *nodes, "--nproc-per-node", str(self.nproc_per_node), "-m", "models.train"]


def public(settings: TrainingSettings) -> dict[str, Any]:
    """The settings that decide the outcome, as plain data."""
    left_out = {*FILES, "data_name", "pairs", "encoder", "distil", "out", "checkpoint_seconds", "resume", "tensorboard"}
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in sorted(vars(settings).items())
        if name not in left_out
    }

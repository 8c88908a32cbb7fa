"""What a training run leaves beside the weights: model card, metrics and plots."""

import io
import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from models.artifact import CARD
from models.calibration import Calibration
from models.config import ModelConfig
from models.metrics import Metrics
from models.options import TrainingSettings, command_line, public
from models.pairs import PairScore


class Report(NamedTuple):
    """All that is reported: `files` are names and SHA-256 digests, rows are counted by class."""

    settings: TrainingSettings
    config: ModelConfig
    metrics: Metrics
    calibration: Calibration
    pairs: Sequence[PairScore]
    history: Sequence[Mapping[str, float]]
    best_epoch: int
    pretraining: Sequence[Mapping[str, float]]
    """Its epochs."""
    seconds: float
    training_rows: Sequence[int]
    validation_rows: Sequence[int]
    unlabelled: int
    files: Sequence[tuple[str, str]]


def report_files(report: Report) -> dict[str, bytes]:
    """Name and content of each file."""
    return {
        CARD: model_card(report).encode(),
        "metrics.json": metrics_json(report).encode(),
        "curves.png": _png(curves(report.history, report.best_epoch)),
        "confusion.png": _png(confusion(report.metrics, report.config.labels)),
        "reliability.png": _png(reliability(report.calibration)),
    }


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
        "best_epoch": report.best_epoch,
        "seconds": round(report.seconds, 1),
        "pretraining": list(report.pretraining),
        "epochs": list(report.history),
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def model_card(report: Report) -> str:
    settings, config, metrics = report.settings, report.config, report.metrics
    directions = "bidirectional " if config.bidirectional else ""
    cells = {"lstm": "LSTM", "gru": "GRU", "rnn_tanh": "RNN (tanh)", "rnn_relu": "RNN (ReLU)"}
    sections = [
        f"# {settings.out.parent.name}, version {settings.out.name}",
        f"A text classifier of {len(config.labels)} classes ({', '.join(config.labels)}): word-level tokens, an "
        f"embedding, {config.num_layers} {directions}{cells[config.cell]} layer{'s' * (config.num_layers > 1)}, "
        f"{' and '.join(config.pooling)} pooling and a linear layer. Made by `python -m models.train` of lstm-serve.",
        "## Data",
        settings.data_name or "",
        table(("file", "sha256"), [(f"`{name}`", f"`{digest}`") for name, digest in report.files]),
        table(
            ("rows", *config.labels, "all"),
            [
                ("training", *report.training_rows, sum(report.training_rows)),
                ("validation", *report.validation_rows, sum(report.validation_rows)),
            ],
        ),
        f"The split is drawn with seed {settings.seed} (`--validation {settings.validation:g}`); texts that differ at "
        "most in white space fall on one side. The vocabulary is learned without the validation part.",
        "## Metrics",
        "On the validation part, with the weights as stored. The same part chose the epoch (early stopping), so "
        "expect a little less on new data.",
        table(
            ("accuracy", "macro F1", "log loss", "expected calibration error (15 bins)"),
            [tuple(f"{value:.4f}" for value in metrics[1:5])],
        ),
        table(
            ("class", "precision", "recall", "F1", "rows"),
            [
                (label, *(f"{values[index]:.4f}" for values in metrics[5:8]), metrics.support[index])
                for index, label in enumerate(config.labels)
            ],
        ),
        "`metrics.json` has all figures, `curves.png` the losses by epoch, `confusion.png` the confusion matrix.",
        "## Calibration",
        f"Scores are made of logits divided by the temperature {config.temperature:g}, which was fitted on one half of "
        f"the validation part, drawn with the seed. On the other half, {report.calibration.rows} rows, the expected "
        f"calibration error (15 bins) is {report.calibration.after:.4f}; without a temperature it is "
        f"{report.calibration.before:.4f}.",
        "![How often scores are right](reliability.png)",
        *pair_sections(report.pairs),
        *pretraining_sections(report),
        "## Training",
        f"Best epoch {report.best_epoch} of {len(report.history)}; {report.seconds:.0f} seconds on "
        f"{hardware(settings.device)}, torch {torch.__version__}, {settings.threads} "
        f"thread{'s' * (settings.threads != 1)}. Made by the following; "
        + (
            "on the same machine and versions it gives the same weights, byte for byte:"
            if settings.device == "cpu"
            else "weights made again differ by the rounding of the GPU's sums:"
        ),
        f"```\n{command_line(settings)}\n```",
        "## Configuration",
        table(
            ("setting", "value"),
            [
                (f"`{name}`", f"`{json.dumps(value, ensure_ascii=False)}`")
                for name, value in sorted((public(settings) | config.model_dump(mode="json")).items())
            ],
        ),
        "## Files",
        "`config.json`, `model.safetensors`, `tokenizer.json` and `golden.json` are the version, `SHA256SUMS` their "
        "digests; this card, `metrics.json` and the plots are not covered by them.",
        "## Limits",
        f"Texts unlike the training data get scores all the same. Words beyond the {config.vocab_size - 2} known ones "
        f"are one unknown token. At most {config.max_length} tokens are read; windows of at most {settings.crop} "
        "tokens were seen in training. Scores are calibrated for texts like those of the validation part.",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def pretraining_sections(report: Report) -> list[str]:
    """Nothing where there was none."""
    if not report.pretraining:
        return []
    return [
        "## Pretraining",
        "The embedding and the recurrent layers first learned to foretell tokens, in the training part's texts and "
        f"{report.unlabelled} without labels; texts of the validation part were taken out. Perplexity is that of the "
        "validation part's texts, whose labels were not looked at, over the whole vocabulary and all directions.",
        table(
            ("epoch", "train loss (sampled)", "validation perplexity"),
            [
                (record["epoch"], f"{record['train_loss']:.4f}", f"{record['perplexity']:.1f}")
                for record in report.pretraining
            ],
        ),
    ]


def pair_sections(scores: Sequence[PairScore]) -> list[str]:
    """Nothing where there are no pairs."""
    if not scores:
        return []
    total = sum(score.right for score in scores), sum(score.pairs for score in scores)
    return [
        "## Minimal pairs",
        "Two short texts that differ in little but in their class; none of them was seen in training.",
        table(
            ("pairs", "both right", "of"),
            [(f"`{score.name}`", score.right, score.pairs) for score in scores] + [("all", *total)],
        ),
    ]


def table(head: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    """In Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


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


def curves(history: Sequence[Mapping[str, float]], best_epoch: int) -> Figure:
    figure = Figure(figsize=(7, 4), layout="constrained")
    loss = figure.add_subplot()
    epochs = [record["epoch"] for record in history]
    accuracy = loss.twinx()
    lines = [
        *loss.plot(epochs, [record["train_loss"] for record in history], "o-", color="tab:blue", label="train loss"),
        *loss.plot(
            epochs, [record["validation_loss"] for record in history], "o-", color="tab:orange", label="validation loss"
        ),
        *accuracy.plot(
            epochs,
            [record["validation_accuracy"] for record in history],
            "s--",
            color="tab:green",
            label="validation accuracy",
        ),
        loss.axvline(best_epoch, color="gray", linewidth=0.8, label="best epoch"),
    ]
    loss.set(xlabel="epoch", ylabel="loss (nats)", xticks=epochs)
    accuracy.set(ylabel="accuracy")
    figure.legend(handles=lines, loc="outside upper center", ncols=len(lines))
    return figure


def confusion(metrics: Metrics, labels: Sequence[str]) -> Figure:
    """Rows by true and predicted class; shaded by the share of the true class."""
    size = 3 + 0.6 * len(labels)
    figure = Figure(figsize=(size, size), layout="constrained")
    axes = figure.add_subplot()
    share = metrics.confusion / np.maximum(metrics.support, 1)[:, None]
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for true, predicted in np.ndindex(*metrics.confusion.shape):
        axes.text(
            predicted,
            true,
            str(metrics.confusion[true, predicted]),
            ha="center",
            va="center",
            color="white" if share[true, predicted] > 0.5 else "black",
        )
    ticks = range(len(labels))
    axes.set(xlabel="predicted", ylabel="true")
    axes.set_xticks(ticks, labels, rotation=45, ha="right")
    axes.set_yticks(ticks, labels)
    return figure


def reliability(calibration: Calibration) -> Figure:
    """How often scores are right, by their size; a calibrated model's bars end on the diagonal."""
    figure = Figure(figsize=(5, 5), layout="constrained")
    axes, counts = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    bins = calibration.bins
    edges = np.linspace(0, 1, len(bins.rows) + 1)
    filled = bins.rows > 0
    axes.bar(edges[:-1][filled], bins.accuracy[filled], 1 / len(bins.rows), align="edge", edgecolor="white")
    axes.plot(bins.confidence[filled], bins.accuracy[filled], "o", color="black", markersize=3)
    axes.plot([0, 1], [0, 1], "--", color="gray", linewidth=0.8)
    axes.set(ylabel="share that is right", title=f"calibration error {100 * calibration.after:.2f} %")
    counts.bar(edges[:-1], bins.rows, 1 / len(bins.rows), align="edge", edgecolor="white")
    counts.set(xlabel="top score", ylabel="rows", xlim=(0, 1))
    return figure


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer)
    return buffer.getvalue()

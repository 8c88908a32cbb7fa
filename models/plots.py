"""Pictures of a training run, as PNG."""

import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from models.calibration import Calibration
from models.lineage import LanguageEpoch
from models.metrics import Metrics


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


def language_curves(history: Sequence[LanguageEpoch]) -> Figure:
    figure = Figure(figsize=(7, 4), layout="constrained")
    loss = figure.add_subplot()
    epochs = [each.epoch for each in history]
    perplexity = loss.twinx()
    lines = [
        *loss.plot(epochs, [each.train_loss for each in history], "o-", color="tab:blue", label="train loss (sampled)"),
        *perplexity.plot(
            epochs,
            [each.perplexity for each in history],
            "s--",
            color="tab:green",
            label="validation perplexity",
        ),
    ]
    loss.set(xlabel="epoch", ylabel="loss (nats)", xticks=epochs)
    perplexity.set(ylabel="perplexity")
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


def png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer)
    return buffer.getvalue()

"""The model card: what a version is, what it was made of and how, and how good it is. In Markdown."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from models.held_out import HeldOutScore
from models.pairs import PairScore
from models.report import Report
from models.settings import OF_TORCHRUN, TrainingSettings, public


def model_card(report: Report) -> str:
    settings, config = report.settings, report.config
    directions = "bidirectional " if config.bidirectional else ""
    cells = {"lstm": "LSTM", "gru": "GRU", "rnn_tanh": "RNN (tanh)", "rnn_relu": "RNN (ReLU)"}
    sections = [
        f"# {settings.out.parent.name}, version {settings.out.name}",
        f"A text classifier of {len(config.labels)} classes ({', '.join(config.labels)}): an embedding of "
        f"{config.vocab_size} tokens, {config.num_layers} {directions}{cells[config.cell]} "
        f"layer{'s' * (config.num_layers > 1)}, {' and '.join(config.pooling)} pooling and a linear layer. Made by "
        "`python -m models.train` of lstm-serve.",
        "## Data",
        settings.data_name or "",
        table(("file", "sha256"), [(f"`{name}`", f"`{digest}`") for name, digest in report.made_by[-1].files]),
        table(
            ("rows", *config.labels, "all"),
            [
                ("training", *report.training_rows, sum(report.training_rows)),
                ("validation", *report.validation_rows, sum(report.validation_rows)),
            ],
        ),
        f"The split is drawn with seed {settings.seed} (`--validation {settings.validation:g}`); texts that differ at "
        "most in white space fall on one side. "
        + (
            "The tokens are those of the encoder."
            if settings.encoder
            else "The tokens are learned without the validation part."
        ),
        *(metric_sections(report) if report.kept.history else ()),
        *held_out_sections(report.elsewhere),
        *pair_sections(report.pairs),
        *pretraining_sections(report),
        *training_sections(report),
        "## Configuration",
        table(
            ("setting", "value"),
            [
                (f"`{name}`", f"`{json.dumps(value, ensure_ascii=False)}`")
                for name, value in sorted((shown(settings) | config.model_dump(mode="json")).items())
            ],
        ),
        "## Files",
        "`config.json`, `model.safetensors`, `tokenizer.json` and `golden.json` are the version, `SHA256SUMS` their "
        "digests; this card, `metrics.json` and the plots are not covered by them.",
        "## Limits",
        "Texts unlike the training data get scores all the same. What the tokenizer does not know is one unknown "
        f"token. At most {config.max_length} tokens are read; windows of at most {settings.crop} "
        "tokens were seen in training. Scores are calibrated for texts like those of the validation part.",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def shown(settings: TrainingSettings) -> dict[str, Any]:
    left_out = {*OF_TORCHRUN, *(("min_count",) if settings.encoder else ())}
    return {name: value for name, value in public(settings).items() if name not in left_out}


def metric_sections(report: Report) -> list[str]:
    config, metrics = report.config, report.metrics
    chose = "the epoch (early stopping)" if len(report.runs) == 1 else "the epoch (early stopping) and the seed"
    return [
        "## Metrics",
        f"On the validation part, with the weights as stored. The same part chose {chose}, so expect a little less on "
        "new data.",
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
        "`metrics.json` has all figures, `confusion.png` the confusion matrix.",
        *run_sections(report),
        "## Calibration",
        f"Scores are made of logits divided by the temperature {config.temperature:g}, which was fitted on one half of "
        f"the validation part, drawn with the seed. On the other half, {report.calibration.rows} rows, the expected "
        f"calibration error (15 bins) is {report.calibration.after:.4f}; without a temperature it is "
        f"{report.calibration.before:.4f}.",
        "![How often scores are right](reliability.png)",
    ]


def run_sections(report: Report) -> list[str]:
    """How much chance there is in the figures; nothing of a single run."""
    if len(report.runs) == 1:
        return []
    accuracies = [run.best["validation_accuracy"] for run in report.runs]
    return [
        "## Seeds",
        f"The classes were learned {len(report.runs)} times, each time with another seed of the first weights, the "
        "order and the dropout; the split is the same. Accuracy on the validation part: "
        f"{np.mean(accuracies):.4f} in the mean, standard deviation {np.std(accuracies, ddof=1):.4f}. "
        f"The weights are those of seed {report.kept.seed}, the best of them.",
        table(
            ("seed", "best epoch", "accuracy", "log loss"),
            [
                (run.seed, run.best_epoch, f"{accuracy:.4f}", f"{run.best['validation_loss']:.4f}")
                for run, accuracy in zip(report.runs, accuracies, strict=True)
            ],
        ),
    ]


def training_sections(report: Report) -> list[str]:
    kept = report.kept
    epochs = (
        f"Best epoch {kept.best_epoch} of {len(kept.history)} (`curves.png`). "
        if kept.history
        else "The classes were not learned: this version is for `--encoder`. "
    )
    unknown = report.settings.encoder and len(report.made_by) == 1
    same = (
        "On a CPU of the same kind and with the same versions the same commands give the same weights, byte for byte; "
        "on a GPU they differ by the rounding of sums."
    )
    made = [
        f"{making.seconds:.0f} seconds on {making.hardware}:\n\n```\n{making.command}\n```" for making in report.made_by
    ]
    return ["## Training", f"{epochs}{'How its encoder was made is not known. ' if unknown else ''}{same}", *made]


def pretraining_sections(report: Report) -> list[str]:
    """Nothing where there was none."""
    if not report.languages:
        return []
    own = report.made_by[-1].language
    sections = ["## Pretraining"]
    for language in report.languages:
        whose = "" if language is own else " of the run that made the encoder (see Training), whose split that was"
        sections += [
            "The embedding and the recurrent layers first learned to foretell tokens, in the training part's texts and "
            f"{language.unlabelled} without labels{whose}; texts of the validation part were taken out. Perplexity is "
            "that of the validation part's texts, whose labels were not looked at, over the whole vocabulary and all "
            "directions.",
            table(
                ("epoch", "train loss (sampled)", "validation perplexity"),
                [(each.epoch, f"{each.train_loss:.4f}", f"{each.perplexity:.1f}") for each in language.epochs],
            ),
        ]
    return [*sections, "![Loss and perplexity by epoch](language.png)"]


def held_out_sections(found: Sequence[HeldOutScore]) -> list[str]:
    """Nothing where there are no such files."""
    if not found:
        return []
    return [
        "## Elsewhere",
        "On texts that this run has not learned from and by which nothing was chosen; rows whose text is in its other "
        "files are left out.",
        table(
            ("file", "rows", "left out", "accuracy", "macro F1", "log loss", "expected calibration error (15 bins)"),
            [
                (f"`{name}`", metrics.rows, known, *(f"{value:.4f}" for value in metrics[1:5]))
                for name, known, metrics in found
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

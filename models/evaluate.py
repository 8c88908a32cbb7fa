"""Measures a model version on labelled data: ``python -m models.evaluate MODEL_DIR --data FILE``."""

import argparse
import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from models.arguments import evaluation
from models.artifact import ArtifactError, read_artifact
from models.command import run_main
from models.corpus import encode_rows
from models.data import Row, class_indices, read_rows
from models.durable import write_durably
from models.extras import needs
from models.formats import DataError
from models.metrics import Metrics, measure
from models.pairs import read_pairs, score_pairs
from models.scores import scores

with needs("train"):
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

    from models.batches import predict_classes, predict_sequences
    from models.device import DeviceError, choose_device
    from models.network import SequenceClassifier

PROG = "python -m models.evaluate"


def main(argv: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Exit codes: 0 done, 2 the user's error, 130 interrupted. `prog`: how messages call the command."""
    return run_main(prog, lambda: evaluate(evaluation(argv, prog)), (ArtifactError, DataError, DeviceError, OSError))


def evaluate(options: argparse.Namespace) -> None:
    """Prints the metrics; raises one of the errors of `main`."""
    device = choose_device(options.device)
    if options.predictions:
        check_target(options.predictions)
    config, weights, tokenizer, _ = read_artifact(options.model)
    if tokenizer is None:
        raise ArtifactError(options.model, "has no tokenizer and reads token ids only: texts cannot be evaluated")
    if config.output == "sigmoid":
        raise ArtifactError(options.model, "judges each label by itself: one label a row cannot measure it")
    rows = read_rows(options.data, options.text_column, options.label_column, options.label_map)
    targets = np.array(class_indices(rows, config.labels))
    encoded = encode_rows(tokenizer, rows)
    sequences = [tokens[: config.max_length] for tokens in encoded]
    pairs = read_pairs(options.pairs, config.labels, tokenizer)
    network = SequenceClassifier.from_weights(config, weights).to(device)
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("texts", total=len(rows))
        logits = predict_sequences(network, sequences, on_batch=lambda texts: progress.advance(task, texts))
    dropped = [len(tokens) - len(kept) for tokens, kept in zip(encoded, sequences, strict=True)]
    truncated = sum(count > 0 for count in dropped)
    predicted_scores = scores(logits, config)
    if options.predictions:
        predicted = [config.labels[index] for index in predicted_scores.argmax(axis=1)]
        labels = [config.labels[index] for index in targets]
        lengths = [len(sequence) for sequence in sequences]
        columns = zip(rows, labels, predicted, lengths, dropped, logits.tolist(), strict=True)
        write_durably(options.predictions, "".join(itertools.starmap(prediction_line, columns)).encode())
    metrics = measure(targets, predicted_scores)
    pair_scores = [score_pairs(each, lambda texts: predict_classes(network, texts)) for each in pairs]
    if options.json:
        document = metrics.to_json(config.labels) | {"labels": list(config.labels), "truncated": truncated}
        document |= {"pairs": [score._asdict() for score in pair_scores]} if pair_scores else {}
        print(json.dumps(document, indent=1, ensure_ascii=False))
    else:
        print_metrics(metrics, config.labels, truncated, config.max_length)
        for score in pair_scores:
            print(f"{score.name}: both right in {score.right} of {score.pairs} pairs")


def check_target(path: Path) -> None:
    """Raises OSError where a file cannot be written, or would take the place of something else."""
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: no such folder; make it before you write predictions there")
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a folder; give --predictions a file in it")
    if path.exists() and not path.is_file():
        raise FileExistsError(f"{path}: is not a regular file; give --predictions another name")


def prediction_line(row: Row, label: str, predicted: str, tokens: int, dropped: int, logits: list[float]) -> str:
    """JSON; `row` is numbered as in error messages, `tokens` were read, `dropped` were beyond the model's length."""
    document: dict[str, Any] = {
        "file": row.path.name,
        "row": row.number,
        "label": label,
        "predicted": predicted,
        "tokens": tokens,
        "dropped": dropped,
        "logits": logits,
    }
    return json.dumps(document, ensure_ascii=False) + "\n"


def print_metrics(metrics: Metrics, labels: Sequence[str], truncated: int, max_length: int) -> None:
    """Tables on standard output; the confusion matrix is in the JSON form alone."""
    console = Console(markup=False, highlight=False)
    overall = Table()
    for name in ("rows", "accuracy", "macro F1", "log loss", "calibration error", "truncated"):
        overall.add_column(name, justify="right")
    overall.add_row(str(metrics.rows), *(f"{value:.4f}" for value in metrics[1:5]), str(truncated))
    classes = Table("class")
    for name in ("precision", "recall", "F1", "rows"):
        classes.add_column(name, justify="right")
    for index, label in enumerate(labels):
        values = (f"{column[index]:.4f}" for column in metrics[5:8])
        classes.add_row(label, *values, str(metrics.support[index]))
    console.print(overall, classes)
    if truncated:
        console.print(f"{truncated} texts are longer than the model's {max_length} tokens and were cut")


if __name__ == "__main__":
    sys.exit(main())

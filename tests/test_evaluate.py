import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models import evaluate
from models.artifact import Artifact
from models.metrics import measure
from models.network import SequenceClassifier
from models.scores import scores
from tests.reviews import reviews, write
from tests.tiny import write_tiny

Captured = pytest.CaptureFixture[str]
ROWS = reviews(30)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write(tmp_path / "reviews.tsv", ROWS)


def expected_logits(artifact: Artifact) -> Any:
    """One by one, and cut at the model's length."""
    assert artifact.tokenizer is not None
    network = SequenceClassifier.from_weights(artifact.config, artifact.weights)
    ids = artifact.tokenizer.encode([text for text, _ in ROWS])
    return np.concatenate([network.predict([tokens[: artifact.config.max_length]]) for tokens in ids])


@pytest.mark.parametrize("output", ["softmax", "binary"])
def test_json_and_predictions(tmp_path: Path, data: Path, capsys: Captured, output: str) -> None:
    artifact = write_tiny(tmp_path / "1", output=output, max_length=40)
    predictions = tmp_path / "predictions.jsonl"
    arguments = [str(tmp_path / "1"), "--data", str(data), "--json", "--predictions", str(predictions)]
    assert evaluate.main(arguments) == 0
    document = json.loads(capsys.readouterr().out)
    logits = expected_logits(artifact)
    judged = scores(logits, artifact.config)
    metrics = measure(np.array([label == "positive" for _, label in ROWS], int), judged)
    assert document["accuracy"] == metrics.accuracy
    assert document["confusion"] == metrics.confusion.tolist()
    assert document["log_loss"] == pytest.approx(metrics.log_loss, abs=1e-6)
    assert document["labels"] == ["negative", "positive"]

    lines = [json.loads(line) for line in predictions.read_text().splitlines()]
    assert [line["row"] for line in lines] == list(range(2, 32))
    assert {line["file"] for line in lines} == {"reviews.tsv"}
    assert [line["label"] for line in lines] == [label for _, label in ROWS]
    assert [line["predicted"] for line in lines] == [artifact.config.labels[index] for index in judged.argmax(axis=1)]
    assert np.array([line["logits"] for line in lines]) == pytest.approx(logits, abs=1e-5)
    assert artifact.tokenizer is not None
    counts = [len(tokens) for tokens in artifact.tokenizer.encode([text for text, _ in ROWS])]
    assert [line["tokens"] for line in lines] == [min(count, 40) for count in counts]
    assert [line["dropped"] for line in lines] == [max(0, count - 40) for count in counts]
    assert document["truncated"] == sum(count > 40 for count in counts) > 0


def test_tables(tmp_path: Path, data: Path, capsys: Captured) -> None:
    write_tiny(tmp_path / "1", max_length=40)
    assert evaluate.main([str(tmp_path / "1"), "--data", str(data), "--data", str(data)]) == 0
    shown = capsys.readouterr().out
    for word in ("accuracy", "macro F1", "log loss", "negative", "positive", "60", "were cut"):
        assert word in shown
    write_tiny(tmp_path / "2", max_length=100)
    assert evaluate.main([str(tmp_path / "2"), "--data", str(data)]) == 0
    assert "were cut" not in capsys.readouterr().out


def test_labels_may_be_indices_or_renamed_and_columns_chosen(tmp_path: Path, data: Path, capsys: Captured) -> None:
    write_tiny(tmp_path / "1")
    shown = set()
    names = {"negative": ("0", "neg"), "positive": ("1", "pos")}
    for kind in (0, 1):
        renamed = [(text, names[label][kind]) for text, label in ROWS]
        path = write(tmp_path / f"other{kind}.parquet", renamed, ("body", "class"))
        options = ["--label-map", "neg=negative,pos=positive"] if kind else []
        columns = ["--text-column", "body", "--label-column", "class"]
        assert evaluate.main([str(tmp_path / "1"), "--data", str(path), *columns, *options]) == 0
        shown.add(capsys.readouterr().out)
    assert evaluate.main([str(tmp_path / "1"), "--data", str(data)]) == 0
    assert shown == {capsys.readouterr().out}


@pytest.mark.parametrize(
    ("fields", "options", "reason"),
    [
        ({"with_tokenizer": False}, "", "has no tokenizer"),
        ({"output": "sigmoid"}, "", "judges each label by itself"),
        ({"labels": ("a", "b")}, "", "unknown label 'negative'"),
        ({}, "--text-column body", "has no column 'body'"),
        ({}, "--device cuda", "--device cuda: torch sees no GPU"),
        ({}, "--predictions {tmp}/none/p.jsonl", "no such folder"),
        ({}, "--predictions {tmp}", "is a folder; give --predictions a file in it"),
        ({}, "--predictions /dev/null", "/dev/null: is not a regular file"),
        (None, "", "no such folder"),
    ],
)
def test_refusals_are_one_line(
    tmp_path: Path,
    data: Path,
    capsys: Captured,
    monkeypatch: pytest.MonkeyPatch,
    fields: dict[str, Any] | None,
    options: str,
    reason: str,
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    if fields is not None:
        write_tiny(tmp_path / "1", **fields)
    given = options.format(tmp=tmp_path).split()
    assert evaluate.main([str(tmp_path / "1"), "--data", str(data), *given]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith("python -m models.evaluate: error: ")
    assert error.count("\n") == 1
    assert reason in error


@pytest.mark.parametrize("target", ["{tmp}", "/dev/null", "{tmp}/none/p.jsonl"])
def test_a_target_of_predictions_is_judged_before_the_work(tmp_path: Path, capsys: Captured, target: str) -> None:
    """Even before the model is read, which is not there."""
    path = target.format(tmp=tmp_path)
    assert evaluate.main([str(tmp_path / "1"), "--data", "none.csv", "--predictions", path]) == 2
    assert f"error: {path}: " in capsys.readouterr().err


def test_predictions_take_the_place_of_older_ones(tmp_path: Path, data: Path) -> None:
    write_tiny(tmp_path / "1")
    predictions = tmp_path / "predictions.jsonl"
    predictions.write_text("old")
    assert evaluate.main([str(tmp_path / "1"), "--data", str(data), "--predictions", str(predictions)]) == 0
    assert len(predictions.read_text().splitlines()) == 30


def test_as_a_process(tmp_path: Path, data: Path) -> None:
    write_tiny(tmp_path / "1")
    command = [sys.executable, "-m", "models.evaluate", str(tmp_path / "1"), "--data", str(data), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["rows"] == 30
    assert done.stderr == ""
    without = "import sys, runpy; sys.modules['torch'] = None; runpy.run_module('models.evaluate', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", without], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "torch is not installed: pip install 'lstm-serve[train]'\n")


def test_minimal_pairs_by_file(tmp_path: Path, data: Path, capsys: Captured) -> None:
    artifact = write_tiny(tmp_path / "1", max_length=40)
    rows = [row for pair in zip(*(reviews(20)[start::2] for start in (0, 1)), strict=True) for row in pair]
    files = [write(tmp_path / "words.tsv", rows), write(tmp_path / "more.csv", rows[:6])]
    arguments = [str(tmp_path / "1"), "--data", str(data), *(f"--pairs={path}" for path in files)]
    assert evaluate.main([*arguments, "--json"]) == 0
    network = SequenceClassifier.from_weights(artifact.config, artifact.weights)
    assert artifact.tokenizer is not None
    ids = artifact.tokenizer.encode([text for text, _ in rows])
    judged = [int(network.predict([tokens[:40]]).argmax()) for tokens in ids]
    right = [artifact.config.labels[index] == label for index, (_, label) in zip(judged, rows, strict=True)]
    both = [first and second for first, second in zip(right[::2], right[1::2], strict=True)]
    assert json.loads(capsys.readouterr().out)["pairs"] == [
        {"name": "words", "right": sum(both), "pairs": 10},
        {"name": "more", "right": sum(both[:3]), "pairs": 3},
    ]
    assert evaluate.main(arguments) == 0
    assert f"words: both right in {sum(both)} of 10 pairs" in capsys.readouterr().out


def test_a_file_that_has_no_pairs(tmp_path: Path, data: Path, capsys: Captured) -> None:
    write_tiny(tmp_path / "1")
    odd = write(tmp_path / "odd.tsv", ROWS[:3])
    assert evaluate.main([str(tmp_path / "1"), "--data", str(data), "--pairs", str(odd)]) == 2
    assert "has no second text" in capsys.readouterr().err

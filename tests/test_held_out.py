"""Files by which a new version is judged, and which nothing else has to do with."""

from pathlib import Path

import numpy as np
import pytest

from models import train
from models.artifact import read_artifact
from models.data import class_indices, read_rows
from models.metrics import measure
from models.network import SequenceClassifier
from models.scores import scores
from tests.reviews import reviews, write
from tests.test_pretraining import metrics
from tests.test_train import command, covered_bytes, trained


def test_a_version_is_judged_by_texts_of_another_file(tmp_path: Path) -> None:
    """Those that it has learned from are left out, however they are spaced."""
    data = write(tmp_path / "reviews.csv", reviews(80))
    also = write(tmp_path / "also.csv", [("a good one", "positive")])
    others = reviews(50, seed=1)
    mixed = [*others, *((f" {text} ", label) for text, label in reviews(80)[:7]), ("a  good one", "negative")]
    test = write(tmp_path / "others.tsv", mixed, ("sentence", "label"))
    out = tmp_path / "toy" / "1"
    options = f"--also {also} --text-column text,sentence --max-length 20"
    trained(data, out, f"{options} --test {test}")
    (found,) = metrics(out)["elsewhere"]
    config, weights, tokenizer, _ = read_artifact(out)
    assert tokenizer is not None
    rows = read_rows([write(tmp_path / "only.csv", others)], "text", "label")
    network = SequenceClassifier.from_weights(config, weights)
    logits = np.concatenate([network.predict([tokenizer.encode([row.text])[0][:20]]) for row in rows])
    right = measure(np.array(class_indices(rows, config.labels)), scores(logits, config))
    assert (found["file"], found["known"], found["rows"]) == ("others.tsv", 8, 50)
    assert found["accuracy"] == right.accuracy
    assert found["log_loss"] == pytest.approx(right.log_loss, abs=1e-5)
    card = (out / "README.md").read_text()
    assert f"| `others.tsv` | 50 | 8 | {right.accuracy:.4f} |" in card
    assert "--test others.tsv" in card
    trained(data, tmp_path / "toy" / "2", options)
    assert covered_bytes(tmp_path / "toy" / "2") == covered_bytes(out)


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (reviews(80)[:3], "row 2: every text of this file is in the other files too: give --test others"),
        ([("a film", "splendid")], "row 2: unknown label 'splendid'"),
    ],
)
def test_what_cannot_judge(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rows: list[tuple[str, str]], reason: str
) -> None:
    data = write(tmp_path / "reviews.csv", reviews(80))
    test = write(tmp_path / "others.csv", rows)
    assert train.main(command(data, tmp_path / "1", f"--test {test}")) == 2
    assert reason in capsys.readouterr().err.splitlines()[-1]

"""The shipped model, served by a real process, gives the logits that `models.evaluate` writes."""

import csv
import json
from pathlib import Path

import httpx
import numpy as np

from models.artifact import read_artifact
from models.evaluate import main as evaluate
from models.golden import SENTENCES
from service.verification import BFLOAT16_TOLERANCE
from tests.server import Server

STORE = Path(__file__).parent.parent / "models/store"
TEXTS = [*SENTENCES, " ".join(SENTENCES) * 3, "x" * 400, "Good.<br /><br />Bad."]


def test_the_service_and_evaluate_agree(tmp_path: Path) -> None:
    with (tmp_path / "texts.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *((text, "positive") for text in TEXTS)])
    arguments = ["--data", str(tmp_path / "texts.csv"), "--predictions", str(tmp_path / "predictions.jsonl"), "--json"]
    assert evaluate([str(STORE / "imdb/1"), *arguments]) == 0
    lines = (tmp_path / "predictions.jsonl").read_text().splitlines()
    expected = [json.loads(line)["logits"] for line in lines]

    tokenizer = read_artifact(STORE / "imdb/1").tokenizer
    assert tokenizer is not None
    sequences = tokenizer.encode(TEXTS)
    width = max(map(len, sequences))
    batch = {
        "token_ids": [sequence + [0] * (width - len(sequence)) for sequence in sequences],
        "lengths": [len(sequence) for sequence in sequences],
    }
    with Server(STORE, "--precision", "float32") as server:
        together = httpx.post(f"{server.url}/predict", json=batch).json()["logits"]
        alone = [
            httpx.post(f"{server.url}/predict", json={"token_ids": [sequence]}).json()["logits"][0]
            for sequence in sequences
        ]
    np.testing.assert_allclose(together, expected, atol=1e-4)
    np.testing.assert_allclose(alone, expected, atol=1e-4)
    with Server(STORE) as server:  # in bfloat16 where engine and CPU have it
        logits = httpx.post(f"{server.url}/predict", json=batch).json()["logits"]
    np.testing.assert_allclose(logits, expected, atol=BFLOAT16_TOLERANCE)
    assert np.argmax(logits, axis=1).tolist() == np.argmax(expected, axis=1).tolist()


def test_the_shipped_model_is_small_and_good() -> None:
    """The card's figures are those of its metrics file."""
    folder = STORE / "imdb/1"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 16 << 20
    accuracy = json.loads((folder / "metrics.json").read_text())["validation"]["accuracy"]
    assert accuracy >= 0.885
    assert f"{accuracy:.4f}" in (folder / "README.md").read_text()

"""KServe's own Python client, as it is installed, against a real service: its logits are those of /predict."""

import json
import os
import subprocess
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.server import Server
from tests.tiny import write_tiny
from tests.v2_page import example, rounded

ROOT = Path(__file__).parents[1]
PYTHON = Path(os.environ.get("KSERVE_PYTHON", "build/kserve-venv/bin/python"))
SCRIPT = Path(__file__).with_name("kserve_client.py")
ASKED = {"token_ids": [[3, 4, 5, 6], [7, 8, 0, 0], [9, 0, 0, 0]], "texts": ["a good film", "not good !", "bad é good"]}


pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="needs KServe's client (make build/kserve-venv/.made)")


def run(*arguments: str | Path, asked: object = None) -> str:
    """What KServe's Python prints."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [PYTHON, *arguments], input=json.dumps(asked), capture_output=True, text=True, timeout=120, env=clean
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_logits_are_those_of_predict(tmp_path: Path) -> None:
    write_tiny(tmp_path / "imdb" / "1")
    with Server(tmp_path) as server:
        answers = json.loads(run(SCRIPT, server.url, asked=ASKED))
        predicted = httpx.post(f"{server.url}/predict", json={"token_ids": ASKED["token_ids"]}).json()["logits"]
        classified = httpx.post(f"{server.url}/classify", json={"texts": ASKED["texts"]}).json()["results"]
    assert (answers["live"], answers["ready"], answers["models"]) == (True, True, [True, False])
    assert "input token_ids[2, 0]: -9 is below 0, '400 Bad Request'" in answers["refused"]
    expected = {"token_ids": predicted, "text": [one["logits"] for one in classified]}
    labels = [one["label"] for one in classified]
    for name, logits in expected.items():
        assert len(answers[name]) == 8
        for answer in answers[name]:
            assert (answer["id"], answer["model"]) == ("7", "imdb")
            np.testing.assert_array_equal(np.array(answer["logits"], np.float32), np.array(logits, np.float32))
            assert len(answer["labels"]) == 3
            assert name == "token_ids" or answer["labels"] == labels


def test_the_page_is_right() -> None:
    with Server(ROOT / "models/store", "--precision", "float32") as server:
        code, shown = example("kserve", server.url)
        assert rounded(run("-c", code)) == shown

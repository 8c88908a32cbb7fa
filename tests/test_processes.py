"""Training by several processes, which torchrun starts, and what TensorBoard gets to show."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from models import train
from models.artifact import read_artifact
from models.batches import Batch
from models.checkpoint import CHECKPOINT, working_folder
from models.processes import Processes
from models.run import Run
from models.settings import SettingsError
from tests.reviews import reviews, write
from tests.test_pretraining import metrics
from tests.test_train import covered_bytes, interrupt_after

SIZES = "--embedding-dim 12 --hidden-size 8 --batch-size 14 --threads 1 --precision float32 --crop 40"
EXACT = f"{SIZES} --dropout 0 --word-dropout 0"
TEXTS = "--pretrain {texts} --pretrain-epochs 1 --pretrain-window 10 --negatives 30"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write(tmp_path / "reviews.csv", reviews(90))


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    return write(tmp_path / "texts.csv", [(text, "") for text, _ in reviews(60, seed=1)])


def command(processes: int, data: Path, out: Path, options: str) -> list[str]:
    several = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    start = [sys.executable, *(several if processes > 1 else [])]
    return [*start, "-m", "models.train", "--data", str(data), "--out", str(out), *options.split()]


def trained(processes: int, data: Path, out: Path, options: str) -> str:
    done = subprocess.run(
        command(processes, data, out, options), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def scalars(folder: Path, tag: str) -> dict[int, float]:
    events = EventAccumulator(str(folder))
    events.Reload()
    return {event.step: event.value for event in events.Scalars(tag)}


def test_two_processes_follow_one(tmp_path: Path, data: Path, texts: Path) -> None:
    """Their losses at the same batches; the last batch of an epoch has fewer rows than there are processes."""
    options = f"{EXACT} {TEXTS.format(texts=texts)} --epochs 3 --average 0.9"
    one, two = tmp_path / "toy" / "1", tmp_path / "toy" / "2"
    trained(1, data, one, f"{options} --tensorboard {tmp_path / 'one'}")
    said = trained(2, data, two, f"{options} --tensorboard {tmp_path / 'two'}")
    assert len(re.findall("classes, epoch 1:", said)) == 1
    for stage in ("language-0", "classes-0"):
        expected, found = (scalars(tmp_path / folder / stage, "loss") for folder in ("one/toy-1", "two/toy-2"))
        assert list(found) == list(expected) == list(range(1, len(expected) + 1))
        assert len(expected) >= 20
        assert [found[step] for step in range(1, 21)] == pytest.approx(
            [expected[step] for step in range(1, 21)], rel=1e-5
        )
    ours, theirs = (read_artifact(out).weights for out in (one, two))
    for name, weight in ours.items():
        np.testing.assert_allclose(theirs[name], weight, atol=2e-3, err_msg=name)
    card = (two / "README.md").read_text()
    assert "torchrun --nproc-per-node 2 -m models.train --data reviews.csv" in card


def test_processes_that_are_interrupted_go_on_to_the_same_bytes(tmp_path: Path, data: Path, texts: Path) -> None:
    """With dropout: each draws its own."""
    options = f"{SIZES} {TEXTS.format(texts=texts)} --epochs 40 --patience 40 --vat 0.1 --checkpoint-seconds 0"
    whole, out = tmp_path / "toy" / "1", tmp_path / "toy" / "2"
    trained(2, data, whole, options)
    process = subprocess.Popen(command(2, data, out, options), stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 120
    while not (working_folder(out) / CHECKPOINT).exists():
        assert time.monotonic() < end
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert process.returncode != 0
    assert not out.exists()
    assert "to go on: torchrun --nproc-per-node 2 -m models.train --data" in said
    trained(2, data, out, f"{options} --resume")
    assert covered_bytes(out) == covered_bytes(whole)


class Others(Processes):
    """Of which the second one was told something else."""

    def of_all(self, mine: Any) -> list[Any]:
        return [mine, {**mine, "batch_size": 3}]


def test_processes_that_were_told_different_things_do_not_begin() -> None:
    with pytest.raises(SettingsError, match="process 1 has another --batch-size than process 0"):
        train.check_alike(Others(0, 2), {"batch_size": 2, "data": ["digest"]})


@pytest.mark.parametrize(("rows", "shares"), [(5, [[0, 2, 4], [1, 3]]), (1, [[0], []])])
def test_shares_are_all_of_a_batch(rows: int, shares: list[list[int]]) -> None:
    batch = Batch(np.arange(rows), np.arange(rows) + 10, 7)
    for rank, share in enumerate(shares):
        found = Processes(rank, 2).share(batch)
        assert found.rows.tolist() == share
        assert found.starts.tolist() == [row + 10 for row in share]
        assert found.length == 7


def test_logs_of_a_run_that_went_on_have_each_step_once(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps after the last checkpoint are taken twice: what was logged of them first no longer counts."""
    options = [*EXACT.split(), "--epochs", "3", "--tensorboard", str(tmp_path / "logs"), "--checkpoint-seconds", "1e9"]
    words = ["--data", str(data), "--out", str(tmp_path / "1"), *options]
    with monkeypatch.context() as patch:
        interrupt_after(patch, 4)
        assert train.main(words) == 130
    killed, step = [0], Run.step

    def kill(self: Run, batch: Batch, rate: float) -> float:
        killed[0] += 1
        if killed[0] == 9:
            raise MemoryError
        return step(self, batch, rate)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "step", kill)
        with pytest.raises(MemoryError):
            train.main([*words, "--resume"])
    assert train.main([*words, "--resume"]) == 0
    logged = scalars(tmp_path / "logs" / f"{tmp_path.name}-1" / "classes-0", "loss")
    events = EventAccumulator(str(tmp_path / "logs" / f"{tmp_path.name}-1" / "classes-0"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == list(range(1, len(logged) + 1))
    rates = scalars(tmp_path / "logs" / f"{tmp_path.name}-1" / "classes-0", "learning_rate")
    assert max(rates.values()) == pytest.approx(0.002, rel=0.01)
    epochs = metrics(tmp_path / "1")["epochs"]
    accuracies = scalars(tmp_path / "logs" / f"{tmp_path.name}-1" / "classes-0", "validation_accuracy")
    assert list(accuracies.values()) == pytest.approx([epoch["validation_accuracy"] for epoch in epochs])

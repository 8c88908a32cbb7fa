import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from models import train
from models.artifact import SUMS, Artifact, read_artifact
from models.checkpoint import CHECKPOINT, working_folder
from models.golden import golden_cases
from models.loop import learning_rate
from models.network import SequenceClassifier
from models.run import Run
from tests.reviews import reviews, write

SMALL = "--embedding-dim 8 --hidden-size 8 --epochs 3 --crop 30 --batch-size 16 --learning-rate 0.02 --threads 1"
FILES = {"README.md", "metrics.json", "curves.png", "confusion.png", "reliability.png"}
COVERED = {"config.json", "model.safetensors", "tokenizer.json", "golden.json", SUMS}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write(tmp_path / "reviews.csv", reviews(80))


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """As they were before: training sets them for the process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def command(data: Path, out: Path, options: str = "") -> list[str]:
    return ["--data", str(data), "--out", str(out), *SMALL.split(), *options.split()]


def trained(data: Path, out: Path, options: str = "") -> Artifact:
    assert train.main(command(data, out, options)) == 0
    assert not list(out.parent.glob(f"*{out.name}.*"))
    return read_artifact(out)


def covered_bytes(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in COVERED}


def interrupt_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """The process gets SIGINT while step number `steps` runs."""
    step, left = Run.step, [steps]

    def interrupted(self: Run, *arguments: Any) -> float:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, *arguments)

    monkeypatch.setattr(Run, "step", interrupted)


def test_a_version_is_written_with_its_card_metrics_and_plots(tmp_path: Path) -> None:
    data = write(tmp_path / "reviews.jsonl.gz", reviews(300, 3))
    out = tmp_path / "store" / "toy" / "1"
    artifact = trained(
        data, out, "--epochs 12 --validation 60 --patience 12 --weights float16 --label-map mixed=unsure"
    )
    assert {path.name for path in out.iterdir()} == COVERED | FILES
    assert artifact.config.labels == ("negative", "positive", "unsure")
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["validation"]["rows"] == 60
    assert metrics["validation"]["accuracy"] > 0.8
    best = max(metrics["epochs"], key=lambda epoch: (epoch["validation_accuracy"], -epoch["validation_loss"]))
    assert metrics["best_epoch"] == best["epoch"]
    assert metrics["validation"]["log_loss"] < best["validation_loss"]  # which is that of temperature 1
    assert metrics["calibration"]["temperature"] == artifact.config.temperature != 1
    assert metrics["calibration"]["rows"] == 30
    for plot in ("curves.png", "confusion.png", "reliability.png"):
        assert (out / plot).read_bytes().startswith(b"\x89PNG")

    card = (out / "README.md").read_text()
    assert str(tmp_path) not in card
    assert f"| {metrics['validation']['accuracy']:.4f} |" in card
    assert "--data reviews.jsonl.gz" in card
    assert "--out models/store/toy/1" in card
    assert "--label-map mixed=unsure" in card
    assert "| validation |" in card


def test_the_card_has_the_score_of_minimal_pairs(tmp_path: Path) -> None:
    data = write(tmp_path / "reviews.csv", reviews(300))
    pairs = write(tmp_path / "words.tsv", [("a good film", "positive"), ("a bad film", "negative")] * 2)
    trained(data, tmp_path / "toy" / "1", f"--pairs {pairs} --epochs 12 --patience 12")
    trained(data, tmp_path / "toy" / "2", "--epochs 12 --patience 12")
    card = (tmp_path / "toy" / "1" / "README.md").read_text()
    assert "| `words` | 2 | 2 |\n| all | 2 | 2 |" in card
    assert "--pairs words.tsv" in card
    assert json.loads((tmp_path / "toy" / "1" / "metrics.json").read_text())["pairs"] == [
        {"name": "words", "right": 2, "pairs": 2}
    ]
    assert "pairs" not in (tmp_path / "toy" / "2" / "README.md").read_text().lower()
    assert covered_bytes(tmp_path / "toy" / "1") == covered_bytes(tmp_path / "toy" / "2")  # nothing learns from them


def test_metrics_and_golden_cases_are_of_the_weights_as_stored(tmp_path: Path, data: Path) -> None:
    artifact = trained(data, tmp_path / "1", "--weights float16")
    network = SequenceClassifier.from_weights(artifact.config, artifact.weights)
    assert golden_cases(network, artifact.tokenizer) == artifact.golden


def test_the_card_s_command_makes_the_same_weights(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "models" / "store" / "toy" / "1"
    trained(data, out, "--no-bias --pooling last,max --data-name Toy --labels positive,negative --no-bidirectional")
    card = (out / "README.md").read_text()
    words = next(line for line in card.splitlines() if line.startswith("python -m models.train")).split()[3:]
    first = covered_bytes(out)
    shutil.rmtree(out)
    monkeypatch.chdir(tmp_path)
    assert train.main(words) == 0
    assert covered_bytes(out) == first


@pytest.mark.parametrize(
    "options", ["--precision float32 --num-layers 2", "--precision bfloat16 --threads 2 --epochs 1"]
)
def test_the_same_command_gives_the_same_bytes(tmp_path: Path, data: Path, options: str) -> None:
    trained(data, tmp_path / "1", options)
    trained(data, tmp_path / "2", options)
    assert covered_bytes(tmp_path / "1") == covered_bytes(tmp_path / "2")
    trained(data, tmp_path / "3", f"{options} --seed 1")
    assert covered_bytes(tmp_path / "3") != covered_bytes(tmp_path / "1")


@pytest.mark.parametrize(
    "options",
    [
        "--cell gru --pooling last,mean",
        "--cell rnn_tanh --no-bidirectional --pooling last_output,max",
        "--cell rnn_relu --label-smoothing 0.1",
        "--proj-size 4 --num-layers 2",
    ],
)
def test_every_kind_of_network_learns(tmp_path: Path, data: Path, options: str) -> None:
    trained(data, tmp_path / "1", f"{options} --epochs 15 --patience 15 --dropout 0.1 --crop 60")
    losses = [epoch["train_loss"] for epoch in json.loads((tmp_path / "1" / "metrics.json").read_text())["epochs"]]
    assert losses[-1] < 0.8 * losses[0]


def test_training_ends_when_validation_no_longer_gains(tmp_path: Path, data: Path) -> None:
    trained(data, tmp_path / "1", "--epochs 50 --patience 2")
    metrics = json.loads((tmp_path / "1" / "metrics.json").read_text())
    assert len(metrics["epochs"]) == metrics["best_epoch"] + 2 < 50


@pytest.mark.parametrize("steps", [1, 9])
def test_an_interrupted_run_resumes_to_the_same_bytes(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], steps: int
) -> None:
    whole, out = tmp_path / "2", tmp_path / "1"
    trained(data, whole)
    with monkeypatch.context() as patch:
        interrupt_after(patch, steps)
        assert train.main(command(data, out)) == 130
    assert not out.exists()
    assert f"--out {out}" in (message := capfd.readouterr().err)
    assert "stopping after this step; again to stop at once\n" in message
    assert message.rstrip().endswith(" --resume")
    assert train.main([*command(data, out), "--resume"]) == 0
    assert covered_bytes(out) == covered_bytes(whole)
    assert not working_folder(out).exists()


def test_a_run_interrupted_in_validation_resumes_there(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out = tmp_path / "2", tmp_path / "1"
    trained(data, whole)
    end_epoch, ended = Run.end_epoch, []

    def interrupted(self: Run, **arguments: Any) -> dict[str, float]:
        ended.append(self.epoch)
        os.kill(os.getpid(), signal.SIGTERM)
        return end_epoch(self, **arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "end_epoch", interrupted)
        assert train.main(command(data, out)) == 130
        assert train.main([*command(data, out), "--resume"]) == 130
    assert ended == [0, 0]
    assert train.main([*command(data, out), "--resume"]) == 0
    assert covered_bytes(out) == covered_bytes(whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_before_training_leaves_nothing(
    tmp_path: Path,
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
) -> None:
    def interrupted(*_: Any) -> Any:
        signal.raise_signal(number)
        pytest.fail("went on")

    monkeypatch.setattr("models.train.read_corpus", interrupted)
    assert train.main(command(data, tmp_path / "1")) == 130
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["reading reviews.csv …", "python -m models.train: interrupted; nothing was written"]
    assert [path.name for path in tmp_path.iterdir()] == [data.name]


def test_interrupted_while_it_writes_the_version_it_can_go_on(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("models.version.write_artifact", lambda *_, **__: signal.raise_signal(signal.SIGINT))
        assert train.main(command(data, tmp_path / "1")) == 130
    assert capsys.readouterr().err.endswith("--resume\n")
    assert train.main([*command(data, tmp_path / "1"), "--resume"]) == 0


def test_signals_wait_where_there_is_work_to_save_but_not_the_second(capfd: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGINT)
    with train.stop_signals() as stop:
        waited = []

        def save(number: signal.Signals) -> None:
            with stop.deferred():
                signal.raise_signal(number)
                waited.append(number)

        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert not stop.requested
        for number in (signal.SIGINT, signal.SIGTERM):
            with pytest.raises(KeyboardInterrupt):
                save(number)
        assert stop.requested
        assert waited == [signal.SIGINT]
        assert capfd.readouterr().err == "\nstopping after this step; again to stop at once\n"
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_real_process_resumes_to_the_same_bytes(tmp_path: Path, data: Path, number: signal.Signals) -> None:
    out, options = tmp_path / "1", "--epochs 40 --patience 40"
    python = [sys.executable, "-m", "models.train", *command(data, out, options), "--checkpoint-seconds", "0"]
    process = subprocess.Popen(python, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (working_folder(out) / CHECKPOINT).exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(number)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == (-number if number == signal.SIGKILL else 130)
    assert not out.exists()
    assert errors.rstrip().endswith("--resume") == (number != signal.SIGKILL)
    assert train.main([*command(data, out, options), "--resume"]) == 0
    trained(data, tmp_path / "2", options)
    assert covered_bytes(out) == covered_bytes(tmp_path / "2")


def test_learning_rate_rises_then_falls_to_zero() -> None:
    rates = [learning_rate(0.1, step, 1000) for step in range(1000)]
    top = rates.index(max(rates))
    assert top == 50
    assert rates[top] == 0.1
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert 0 < rates[0] < 0.01
    assert 0 < rates[-1] < 1e-6
    assert learning_rate(0.1, 0, 1) > 0

"""Networks that learn from what others say."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models import train
from models.artifact import ArtifactError, read_artifact
from models.checkpoint import working_folder
from models.corpus import read_corpus
from models.network import SequenceClassifier
from models.options import training_settings
from models.scores import scores
from models.teachers import teach
from models.tuning import Tuning
from tests.reviews import reviews, write
from tests.test_train import command, covered_bytes, interrupt_after, trained
from tests.tiny import write_tiny

LABELS = ("negative", "positive")
CPU = torch.device("cpu")
TEXTS = [text for text, _ in reviews(30)]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write(tmp_path / "reviews.csv", reviews(80))


def said(folder: Path, text: str) -> Any:
    config, weights, tokenizer, _ = read_artifact(folder)
    assert tokenizer is not None
    tokens = tokenizer.encode([text])[0][: config.max_length]
    return scores(SequenceClassifier.from_weights(config, weights).predict([tokens]), config)[0]


def test_the_mean_of_what_teachers_say(tmp_path: Path) -> None:
    write_tiny(tmp_path / "1", temperature=3.0, max_length=20)
    write_tiny(tmp_path / "2", output="binary", hidden_size=7)
    seen: list[int] = []
    taught = teach([tmp_path / "1", tmp_path / "2"], LABELS, TEXTS, CPU, on_batch=seen.append)
    right = [(said(tmp_path / "1", text) + said(tmp_path / "2", text)) / 2 for text in TEXTS]
    assert taught == pytest.approx(np.array(right), abs=1e-5)
    assert sum(seen) == 60


def test_a_text_without_tokens_is_judged_evenly(tmp_path: Path) -> None:
    write_tiny(tmp_path / "1")
    assert teach([tmp_path / "1"], LABELS, [TEXTS[0], " "], CPU)[1].tolist() == [0.5, 0.5]


def test_who_cannot_teach(tmp_path: Path) -> None:
    write_tiny(tmp_path / "1")
    with pytest.raises(ArtifactError, match="tells negative, positive apart, not good, bad"):
        teach([tmp_path / "1"], ("good", "bad"), TEXTS, CPU)


def tuning(tmp_path: Path, data: Path, taught: np.ndarray | None, options: str = "") -> tuple[Tuning, np.ndarray]:
    settings = training_settings([*command(data, tmp_path / "9", options), "--precision", "float32"])
    settings.device = "cpu"
    corpus = read_corpus(settings)
    network = SequenceClassifier(train.make_config(settings, corpus))
    return Tuning(settings, corpus, network, taught), corpus.training.targets


def test_labels_and_teachers_share_the_target(tmp_path: Path, data: Path) -> None:
    texts = write(tmp_path / "texts.csv", [(text, "") for text, _ in reviews(20, seed=1)])
    taught = np.random.default_rng(0).dirichlet([1, 1], 72 + 20)
    run, labels = tuning(tmp_path, data, taught, f"--pretrain {texts} --distil-weight 0.75")
    assert run._targets[:72].numpy() == pytest.approx(0.25 * np.eye(2)[labels] + 0.75 * taught[:72], abs=1e-6)
    assert run._targets[72:].numpy() == pytest.approx(taught[72:], abs=1e-6)
    assert sum(len(batch.rows) for batch in run.batches()) == 92
    alone, _ = tuning(tmp_path, data, None, f"--pretrain {texts}")
    assert sum(len(batch.rows) for batch in alone.batches()) == 72


def test_a_student_learns_from_texts_without_labels(tmp_path: Path) -> None:
    """Its labelled texts are too few to learn from."""
    teacher = tmp_path / "toy" / "1"
    trained(write(tmp_path / "many.csv", reviews(300)), teacher, "--epochs 12 --patience 12")
    few = write(tmp_path / "few.csv", reviews(40, seed=2))
    texts = write(tmp_path / "texts.csv", [(text, "") for text, _ in reviews(300, seed=3)])
    options = "--validation 20 --epochs 12 --patience 12 --pretrain-epochs 0 --pretrain-window 9"
    trained(few, tmp_path / "toy" / "2", f"{options} --pretrain {texts} --distil {teacher}")
    judged = [(said(tmp_path / "toy" / "2", text).argmax(), label) for text, label in reviews(200, seed=4)]
    right = [LABELS[index] == label for index, label in judged]
    assert np.mean(right) > 0.9
    card = (tmp_path / "toy" / "2" / "README.md").read_text()
    assert "--distil models/store/toy/1" in card


def test_a_run_goes_on_with_the_same_teachers_alone(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher, other, out = tmp_path / "teacher" / "1", tmp_path / "teacher" / "2", tmp_path / "1"
    write_tiny(teacher)
    write_tiny(other, hidden_size=7)
    whole = tmp_path / "2"
    trained(data, whole, f"--distil {teacher}")
    with monkeypatch.context() as patch:
        interrupt_after(patch, 7)
        assert train.main(command(data, out, f"--distil {teacher}")) == 130
    assert train.main([*command(data, out, f"--distil {other}"), "--resume"]) == 2
    assert "made with --distil" in capsys.readouterr().err
    assert train.main([*command(data, out, f"--distil {teacher}"), "--resume"]) == 0
    assert covered_bytes(out) == covered_bytes(whole)


def test_a_teacher_that_is_not_there(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(command(data, tmp_path / "1", f"--distil {tmp_path / 'no'}")) == 2
    assert "check --distil" in capsys.readouterr().err
    assert not working_folder(tmp_path / "1").exists()

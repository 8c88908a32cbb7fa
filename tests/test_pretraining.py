"""Training that begins with texts without labels, and what it offers for going on from there."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models import train
from models.batches import Batch
from models.checkpoint import working_folder
from models.corpus import read_corpus
from models.network import SequenceClassifier
from models.options import training_settings
from models.pretraining import windows
from models.tuning import Tuning
from tests.reviews import FILLERS, reviews, write
from tests.test_train import command, covered_bytes, interrupt_after, trained

LANGUAGE = "--pretrain-epochs 2 --pretrain-window 20 --negatives 8 --weight-drop 0.2"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write(tmp_path / "reviews.csv", reviews(80))


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Each sentence goes on as it began: what comes next can be learned."""
    sentences = [" ".join(FILLERS[(start + step) % len(FILLERS)] for step in range(40)) for start in range(60)]
    return write(tmp_path / "texts.jsonl.gz", [(sentence, "-1") for sentence in sentences])


def metrics(out: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((out / "metrics.json").read_text())
    return document


def test_it_learns_to_foretell_and_the_card_says_so(tmp_path: Path, data: Path, texts: Path) -> None:
    out = tmp_path / "toy" / "1"
    options = f"--pretrain {texts} {LANGUAGE} --pretrain-epochs 6 --pretrain-learning-rate 0.02"
    trained(data, out, options)
    language = metrics(out)["made_by"][0]["language"]
    assert language["unlabelled"] == 60
    epochs = language["epochs"]
    assert [epoch["epoch"] for epoch in epochs] == [1, 2, 3, 4, 5, 6]
    assert epochs[-1]["perplexity"] < 0.8 * epochs[0]["perplexity"]
    card = (out / "README.md").read_text()
    assert f"| 6 | {epochs[-1]['train_loss']:.4f} | {epochs[-1]['perplexity']:.1f} |" in card
    assert "and 60 without labels" in card
    assert "--pretrain texts.jsonl.gz" in card
    assert "| `texts.jsonl.gz` |" in card


def test_no_second_counts_for_two_stages(tmp_path: Path, data: Path, texts: Path) -> None:
    began = time.monotonic()
    trained(data, tmp_path / "1", f"--pretrain {texts} {LANGUAGE} --pretrain-epochs 20")
    assert metrics(tmp_path / "1")["made_by"][0]["seconds"] <= time.monotonic() - began + 0.1


def test_the_classes_are_learned_from_where_the_language_ended(
    tmp_path: Path, data: Path, texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[dict[str, torch.Tensor]] = []
    step = Tuning.step

    def noted(self: Tuning, batch: Batch, rate: float) -> float:
        if not begun:
            begun.append({name: weight.clone() for name, weight in self.network.state_dict().items()})
        return step(self, batch, rate)

    monkeypatch.setattr(Tuning, "step", noted)
    trained(data, tmp_path / "1", f"--pretrain {texts} {LANGUAGE}")
    learned = begun.pop()
    trained(data, tmp_path / "2", f"--pretrain {texts} {LANGUAGE} --pretrain-learning-rate 1e-12")
    unlearned = begun.pop()
    same = {name for name, weight in learned.items() if torch.equal(weight, unlearned[name])}
    assert same == {"linear.weight", "linear.bias"}


@pytest.mark.parametrize("steps", [2, 9, 70])
def test_any_stage_resumes_to_the_same_bytes(
    tmp_path: Path, data: Path, texts: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    options = f"--pretrain {texts} {LANGUAGE} --average 0.9 --layer-decay 0.5"
    whole, out = tmp_path / "2", tmp_path / "1"
    trained(data, whole, options)
    with monkeypatch.context() as patch:
        interrupt_after(patch, steps)
        assert train.main(command(data, out, options)) == 130
    assert train.main([*command(data, out, options), "--resume"]) == 0
    assert covered_bytes(out) == covered_bytes(whole)
    assert {**metrics(out), "made_by": 0} == {**metrics(whole), "made_by": 0}
    assert not working_folder(out).exists()


def test_texts_of_the_validation_part_are_taken_out(tmp_path: Path, data: Path) -> None:
    rows = reviews(80)
    doubled = write(tmp_path / "all.csv", [("  ".join(text.split()), "x") for text, _ in rows])
    options = ["--data", str(data), "--out", str(tmp_path / "1"), "--validation", "20", "--pretrain-window", "2"]
    corpus = read_corpus(training_settings([*options, "--pretrain", str(doubled)]))
    assert len(corpus.validation.sequences) == 20
    held = {tuple(sequence.tolist()) for sequence in corpus.validation.sequences}
    assert len(corpus.unlabelled) == 60
    assert not held & {tuple(sequence.tolist()) for sequence in corpus.unlabelled}


def test_labelled_texts_of_another_kind_are_trained_on_alone(tmp_path: Path, data: Path) -> None:
    held = read_corpus(training_settings([*command(data, tmp_path / "1"), "--validation", "20"])).validation
    sentences = [
        ("a quokka", "positive"),
        ("no quokka", "negative"),
        *((f" {text}", label) for text, label in reviews(80)),
    ]
    also = write(tmp_path / "sentences.tsv", sentences, ("sentence", "label"))
    options = ["--validation", "20", "--also", str(also), "--text-column", "text,sentence", "--min-count", "1"]
    corpus = read_corpus(training_settings([*command(data, tmp_path / "1"), *options]))
    assert len(corpus.training.sequences) == 60 + 2 + 60
    assert corpus.training.targets[60:62].tolist() == [1, 0]
    assert corpus.validation.targets.tolist() == held.targets.tolist()
    known = corpus.tokenizer.encode(["quokka"])[0][0]
    assert [known in sequence for sequence in corpus.training.sequences[60:62]] == [True, True]
    trained(data, tmp_path / "toy" / "1", f"--also {also} --text-column text,sentence")
    card = (tmp_path / "toy" / "1" / "README.md").read_text()
    assert "--also sentences.tsv" in card
    assert "| `sentences.tsv` |" in card


def test_words_of_texts_without_labels_are_known(tmp_path: Path, data: Path) -> None:
    texts = write(tmp_path / "texts.csv", [("quokka quokka " * 20, "")])
    options = ["--data", str(data), "--out", str(tmp_path / "1"), "--pretrain", str(texts), "--pretrain-window", "9"]
    corpus = read_corpus(training_settings(options))
    assert len(set(np.concatenate(corpus.unlabelled).tolist())) == 1
    assert corpus.tokenizer.encode(["quokka"]) == [corpus.unlabelled[0][:1].tolist()]


@pytest.mark.parametrize(
    ("texts", "options", "reason"),
    [
        ([("two words", "")], "", "has fewer tokens than --pretrain-window"),
        ([(" ", "")], "", "row 2: the text is empty"),
        ([("word " * 99, "")], "--num-layers 2", "2 layers in both directions cannot be pretrained"),
    ],
)
def test_what_cannot_be_pretrained(
    tmp_path: Path,
    data: Path,
    capsys: pytest.CaptureFixture[str],
    texts: list[tuple[str, str]],
    options: str,
    reason: str,
) -> None:
    path = write(tmp_path / "texts.csv", texts)
    assert train.main(command(data, tmp_path / "1", f"--pretrain {path} --pretrain-window 20 {options}")) == 2
    assert reason in capsys.readouterr().err.splitlines()[-1]
    assert not working_folder(tmp_path / "1").exists()


def test_stacked_layers_that_read_one_way_can_be(tmp_path: Path, data: Path, texts: Path) -> None:
    trained(data, tmp_path / "1", f"--pretrain {texts} {LANGUAGE} --num-layers 2 --no-bidirectional")
    assert len(metrics(tmp_path / "1")["made_by"][0]["language"]["epochs"]) == 2


def tuning(tmp_path: Path, data: Path, options: str) -> Tuning:
    settings = training_settings([*command(data, tmp_path / "1", options), "--precision", "float32"])
    settings.device = "cpu"
    corpus = read_corpus(settings)
    torch.manual_seed(0)
    network = SequenceClassifier(train.make_config(settings, corpus))
    return Tuning(settings, corpus, network)


def changed(run: Tuning, rate: float) -> dict[str, float]:
    """How far a step moves each part, by the largest of its weights."""
    before = {name: weight.clone() for name, weight in run.network.state_dict().items()}
    run.step(run.batches()[0], rate)
    moved: dict[str, float] = {}
    for name, weight in run.network.state_dict().items():
        part = name.partition(".")[0]
        moved[part] = max(moved.get(part, 0.0), (weight - before[name]).abs().max().item())
    return moved


def test_deeper_parts_learn_more_slowly(tmp_path: Path, data: Path) -> None:
    moved = changed(tuning(tmp_path, data, "--layer-decay 0.5 --weight-decay 0"), 0.01)
    assert moved["linear"] == pytest.approx(0.01, rel=0.01)  # the first step of Adam is the rate
    assert moved["rnn"] == pytest.approx(0.005, rel=0.01)
    assert moved["embedding"] == pytest.approx(0.0025, rel=0.01)


def test_deeper_parts_learn_later(tmp_path: Path, data: Path) -> None:
    run = tuning(tmp_path, data, "--unfreeze 2")
    learning = []
    for epoch in range(5):
        run.epoch = epoch
        learning.append({part for part, moved in changed(run, 0.01).items() if moved})
    assert learning == [{"linear"}] * 2 + [{"linear", "rnn"}] * 2 + [{"linear", "rnn", "embedding"}]


def test_the_average_of_the_weights_is_judged_and_kept(tmp_path: Path, data: Path) -> None:
    run = tuning(tmp_path, data, "--average 0.75")
    expected: dict[str, torch.Tensor] = {}
    for number, batch in enumerate(run.batches()):
        run.step(batch, 0.01)
        decay = min(0.75, (1 + number) / (10 + number)) if number else 0.0
        for name, weight in run.network.state_dict().items():
            expected[name] = decay * expected[name] + (1 - decay) * weight if number else weight.clone()
    run.end_epoch(on_batch=lambda _: None)
    assert run.best_weights.keys() == expected.keys()
    for name, weight in expected.items():
        assert torch.allclose(run.best_weights[name], weight, atol=1e-6), name
        assert not torch.equal(run.best_weights[name], run.network.state_dict()[name])


def test_windows() -> None:
    assert windows(np.arange(11), 4).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]

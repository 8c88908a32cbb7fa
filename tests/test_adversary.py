"""Texts that are moved where it changes most what a network says of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from models import train
from models.adversary import virtual_adversarial_loss
from models.corpus import read_corpus
from models.network import SequenceClassifier
from models.options import training_settings
from models.tuning import Tuning
from tests.reviews import reviews, write
from tests.test_train import command, covered_bytes, interrupt_after, trained
from tests.tiny import tiny_config

TOKENS = torch.arange(2, 26).reshape(3, 8)
LENGTHS = torch.full((3,), 8)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def network(**fields: Any) -> SequenceClassifier:
    return SequenceClassifier(tiny_config(**{"pooling": ("max", "mean"), **fields}))


def divergence(judge: SequenceClassifier, moved: Tensor) -> float:
    said, now = (functional.log_softmax(judge(TOKENS, LENGTHS, move), dim=1) for move in (None, moved))
    return functional.kl_div(now, said, log_target=True, reduction="batchmean").item()


@pytest.mark.parametrize("fields", [{}, {"proj_size": 4}, {"cell": "gru", "num_layers": 2}])
def test_both_ways_through_the_network_move_alike(fields: dict[str, Any]) -> None:
    judge, moved = network(**fields), torch.randn(3, 8, 6)
    fused = judge.train()(TOKENS, LENGTHS, moved)
    assert torch.allclose(fused, judge.eval()(TOKENS, LENGTHS, moved), atol=1e-5)
    assert not torch.allclose(fused, judge(TOKENS, LENGTHS), atol=1e-3)
    short = torch.tensor([8, 3, 5])
    alone = torch.cat([judge(TOKENS[[row], :length], torch.tensor([length]), moved[[row], :length])
                       for row, length in enumerate(short.tolist())])  # fmt: skip
    assert torch.allclose(judge(TOKENS, short, moved), alone, atol=1e-5)


def test_the_move_is_worse_than_others_of_its_size() -> None:
    judge = network()
    found = virtual_adversarial_loss(judge, TOKENS, 0.5).item()
    norm = 0.5 * judge.embedding(TOKENS).norm(dim=2).mean()
    others = []
    for _ in range(50):
        move = torch.randn(3, 8, 6)
        others.append(divergence(judge, norm * move / move.flatten(1).norm(dim=1)[:, None, None]))
    assert found > max(others)
    assert found > 5 * np.mean(others)


@pytest.fixture
def moves(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Of all that is asked, by how much it was moved."""
    found = list[Tensor]()
    forward = SequenceClassifier.forward

    def noted(self: SequenceClassifier, tokens: Tensor, lengths: Tensor, moved: Tensor | None = None) -> Tensor:
        if moved is not None:
            found.append(moved)
        return forward(self, tokens, lengths, moved)

    monkeypatch.setattr(SequenceClassifier, "forward", noted)
    return found


def test_a_larger_embedding_does_not_help(moves: list[Tensor]) -> None:
    judge = network()
    for _ in range(2):
        virtual_adversarial_loss(judge, TOKENS, 0.3)
        norms = moves[-1].flatten(1).norm(dim=1) / judge.embedding(TOKENS).norm(dim=2).mean()
        assert norms.tolist() == pytest.approx([0.3] * 3, rel=1e-4)
        judge.embedding.weight.data *= 7


def test_dropout_is_off_and_then_as_it_was() -> None:
    judge = network(dropout=0.5, num_layers=2)
    assert virtual_adversarial_loss(judge, TOKENS, 1e-9).item() == pytest.approx(0, abs=1e-6)
    assert (judge.dropout.p, judge.rnn.dropout) == (0.5, 0.5)


def test_what_is_said_of_the_text_itself_is_no_part_of_the_gradient(moves: list[Tensor]) -> None:
    judge = network()
    virtual_adversarial_loss(judge, TOKENS, 0.5).backward()  # type: ignore[no-untyped-call]
    said, now = (judge(TOKENS, LENGTHS, move).softmax(dim=1) for move in (None, moves[-1]))
    gradient = judge.linear.bias.grad
    assert gradient is not None
    assert torch.allclose(gradient, (now - said).mean(dim=0), atol=1e-6)  # cross entropy's, of fixed targets


def test_texts_without_labels_have_this_loss_alone(tmp_path: Path) -> None:
    data = write(tmp_path / "reviews.csv", reviews(80))
    texts = write(tmp_path / "texts.csv", [(text, "") for text, _ in reviews(20, seed=1)])
    options = f"--pretrain {texts} --pretrain-epochs 0 --vat 0.5 --label-smoothing 0.2 --batch-size 1"
    settings = training_settings([*command(data, tmp_path / "1", options), "--precision", "float32"])
    settings.device = "cpu"
    corpus = read_corpus(settings)
    run = Tuning(settings, corpus, SequenceClassifier(train.make_config(settings, corpus)))
    assert sum(len(batch.rows) for batch in run.batches()) == 92
    batches = {int(batch.rows[0]): batch for batch in run.batches()}
    run.settings.vat = 0.0
    assert run.loss(batches[80], batches[80]).item() == 0
    assert run.loss(batches[3], batches[3]).item() > 0
    run.settings.vat = 0.5
    assert run.loss(batches[80], batches[80]).item() > 0


def test_a_run_with_it_resumes_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write(tmp_path / "reviews.csv", reviews(80))
    texts = write(tmp_path / "texts.csv", [(text, "") for text, _ in reviews(20, seed=1)])
    options = f"--pretrain {texts} --pretrain-epochs 0 --vat 1"
    trained(data, tmp_path / "2", options)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 12)
        assert train.main(command(data, tmp_path / "1", options)) == 130
    assert train.main([*command(data, tmp_path / "1", options), "--resume"]) == 0
    assert covered_bytes(tmp_path / "1") == covered_bytes(tmp_path / "2")
    trained(data, tmp_path / "3", f"--pretrain {texts} --pretrain-epochs 0")
    assert covered_bytes(tmp_path / "3") != covered_bytes(tmp_path / "2")

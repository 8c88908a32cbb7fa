import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from models.config import ModelConfig
from models.language import LanguageModel
from models.network import SequenceClassifier

VOCABULARY = 12


def model(values: dict[str, object] | None = None, negatives: int = 5, weight_drop: float = 0.0) -> LanguageModel:
    config = ModelConfig.model_validate(
        {
            "vocab_size": VOCABULARY,
            "embedding_dim": 6,
            "hidden_size": 5,
            "bidirectional": True,
            "labels": ("a", "b"),
            **(values or {}),
        }
    )
    made = LanguageModel(SequenceClassifier(config), torch.arange(VOCABULARY), negatives, weight_drop)
    nn.init.normal_(made.bias)
    return made


def tokens(batch: int = 3, length: int = 7) -> torch.Tensor:
    return torch.randint(0, VOCABULARY, (batch, length))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def expected_loss(made: LanguageModel, window: list[int]) -> float:
    """One window, token by token: each direction reads what it has passed, and foretells what it comes to."""
    losses = []
    for direction, suffix in enumerate(["", "_reverse"][: len(made.project)]):
        kind: type[nn.LSTM | nn.GRU] = nn.GRU if isinstance(made.rnn, nn.GRU) else nn.LSTM
        one = kind(made.rnn.input_size, made.rnn.hidden_size, batch_first=True)
        one.load_state_dict(
            {
                name.removesuffix("_reverse"): weight
                for name, weight in made.rnn.state_dict().items()
                if name.endswith("_reverse") == bool(suffix)
            }
        )
        read = window[::-1] if suffix else window
        for end in range(1, len(read)):
            hidden = one(made.embedding(torch.tensor([read[:end]])))[0][0, -1]
            logits = made.embedding.weight @ made.project[direction](hidden) + made.bias
            losses.append(-functional.log_softmax(logits, dim=0)[read[end]].item())
    return sum(losses) / len(losses)


@pytest.mark.parametrize("values", [{}, {"bidirectional": False}, {"cell": "gru"}])
def test_each_direction_foretells_what_it_has_not_seen(values: dict[str, object]) -> None:
    made, windows = model(values).eval(), tokens()
    right = sum(expected_loss(made, window) for window in windows.tolist()) / len(windows)
    assert made.loss(windows).item() == pytest.approx(right, rel=1e-4)


def test_with_many_wrong_tokens_the_sampled_loss_is_that_of_the_whole_vocabulary() -> None:
    made, windows = model(negatives=200_000).eval(), tokens()
    assert made.sampled_loss(windows, torch.Generator()).item() == pytest.approx(made.loss(windows).item(), rel=0.01)


def test_a_token_is_no_wrong_answer_to_itself() -> None:
    made = model(negatives=50).eval()
    windows = torch.full((2, 5), 3)
    made.log_expected.fill_(-math.inf)
    made.log_expected[3] = 0.0  # nothing else is drawn
    assert made.sampled_loss(windows, torch.Generator()).item() == 0


def test_what_is_dropped_is_dropped_at_all_tokens_and_only_in_training() -> None:
    made = model({"dropout": 0.5})
    values = torch.ones(4, 9, 6)
    kept = made._locked(values)
    assert torch.equal(kept, kept[:, :1].expand(4, 9, 6))
    assert set(kept.flatten().tolist()) == {0.0, 2.0}
    assert not torch.equal(kept[0], kept[1])
    assert torch.equal(made.eval()._locked(values), values)


def test_recurrent_weights_are_dropped_in_training_alone() -> None:
    made, windows = model(weight_drop=0.9), tokens()
    first, second = (made(windows)[0][0] for _ in range(2))
    assert not torch.equal(first, second)
    made.eval()
    first, second = (made(windows)[0][0] for _ in range(2))
    assert torch.equal(first, second)


def test_it_learns_what_it_shares() -> None:
    made = model(negatives=4)
    made.sampled_loss(tokens(), torch.Generator()).backward()  # type: ignore[no-untyped-call]
    for name, weight in made.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.abs().sum() > 0, name

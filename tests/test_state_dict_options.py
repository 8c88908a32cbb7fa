"""What shapes do not tell: pooling, labels, pad, nonlinearity, and names where shapes leave it open."""

from typing import Any

import pytest

from models.state_dict import identify
from tests.test_state_dict import foreign_shapes, options_of, refusal
from tests.tiny import tiny_config


@pytest.mark.parametrize(
    ("told", "columns", "reason"),
    [
        (
            ("last",),
            32,
            "--pooling last gives 16, 16 for each kind: it takes 2 of last, last_output, max, mean, as in ",
        ),
        (("last",), 48, "as in --pooling last,max,mean"),
        (("max", "mean"), 16, "--pooling max,mean gives 32, 16 for each kind: it takes 1 of"),
        (("last",), 8, "no pooling fits"),
        (("last",), 24, "no pooling fits"),
        (("last",), 80, "no pooling fits"),
    ],
)
def test_a_linear_that_does_not_fit_the_pooling(told: Any, columns: int, reason: str) -> None:
    config = tiny_config()
    shapes = foreign_shapes(config) | {"fc.weight": (2, columns)}
    message = refusal(shapes, options_of(config, pooling=told))
    assert message.startswith(f"fc.weight reads {columns} features, but ")
    assert reason in message


@pytest.mark.parametrize(
    ("rows", "labels", "output", "reason"),
    [
        (3, ("a", "b"), "softmax", "fc.weight gives 3 logits, but --labels names 2"),
        (1, ("a", "b"), "softmax", "--labels names 2: one logit for two labels is --output binary"),
        (1, ("a", "b", "c"), "sigmoid", "fc.weight gives 1 logit, but --labels names 3"),
        (2, ("a", "b"), "binary", "fc.weight gives 2 logits, but --output binary takes one"),
        (1, ("a", "b", "c"), "binary", "output binary takes 2 labels, not 3"),
        (1, ("a",), "softmax", "output softmax takes at least 2 labels"),
    ],
)
def test_labels_that_do_not_fit(rows: int, labels: tuple[str, ...], output: Any, reason: str) -> None:
    shapes = foreign_shapes(tiny_config()) | {"fc.weight": (rows, 16), "fc.bias": (rows,)}
    assert refusal(shapes, options_of(tiny_config(), labels=labels, output=output)).endswith(reason)


def test_the_pad_lies_within_the_embedding() -> None:
    config = tiny_config()
    reason = refusal(foreign_shapes(config), options_of(config, pad_id=40))
    assert reason == "pad_id 40 must be below vocab_size 40"


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_nonlinearity_is_for_a_plain_rnn(cell: Any) -> None:
    config = tiny_config(cell=cell)
    reason = refusal(foreign_shapes(config), options_of(config, nonlinearity="tanh"))
    assert reason == f"enc.rnn.weight_hh_l0 is that of a {cell}: --nonlinearity is for a plain RNN only"


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu", None])
def test_the_nonlinearity_of_a_plain_rnn_is_told(nonlinearity: Any) -> None:
    config = tiny_config(cell="rnn_tanh")
    found = identify(foreign_shapes(config), options_of(config, nonlinearity=nonlinearity))
    assert found.config.cell == f"rnn_{nonlinearity or 'tanh'}"


class TestShapesThatLeaveItOpen:
    """As many token ids as labels, as many inputs as features: either weight could be either."""

    config = tiny_config(vocab_size=3, embedding_dim=16, labels=("a", "b", "c"))

    def test_the_linear_is_the_one_with_a_bias(self) -> None:
        shapes = foreign_shapes(self.config, embedding="one", linear="other")
        found = identify(dict(reversed(shapes.items())), options_of(self.config))
        assert found.names["embedding.weight"] == "one.weight"
        assert found.names["linear.weight"] == "other.weight"

    @pytest.mark.parametrize("order", [1, -1])
    def test_then_names_decide(self, order: int) -> None:
        shapes = foreign_shapes(self.config, embedding="model.Embed_0", linear="model.decode")
        del shapes["model.decode.bias"]
        found = identify(dict(list(shapes.items())[::order]), options_of(self.config))
        assert found.names["embedding.weight"] == "model.Embed_0.weight"
        assert found.names["linear.weight"] == "model.decode.weight"
        assert found.config == self.config

    @pytest.mark.parametrize(("embedding", "linear"), [("one", "other"), ("emb_in", "emb_out")])
    def test_else_it_is_refused(self, embedding: str, linear: str) -> None:
        shapes = foreign_shapes(self.config, embedding=embedding, linear=linear)
        del shapes[f"{linear}.bias"]
        reason = refusal(shapes, options_of(self.config))
        assert f"{embedding}.weight [3, 16], {linear}.weight [3, 16]" in reason
        assert "which they are is open" in reason

    @pytest.mark.parametrize(
        ("linear", "reason"),
        [("fc", "fc.weight gives 3 logits, but --labels names 2"), ("emb_out", "which they are is open")],
    )
    def test_a_misfit_is_named_where_names_tell(self, linear: str, reason: str) -> None:
        shapes = foreign_shapes(self.config, linear=linear)
        del shapes[f"{linear}.bias"]
        assert reason in refusal(shapes, options_of(self.config, labels=("a", "b")))

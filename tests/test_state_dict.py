from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.config import ModelConfig
from models.state_dict import Options, StateDictError, identify
from tests.test_network import configs
from tests.tiny import tiny_config

Shapes = dict[str, tuple[int, ...]]


def options_of(config: ModelConfig, **changes: Any) -> Options:
    options = Options(
        labels=config.labels,
        pooling=config.pooling,
        output=config.output,
        pad_id=config.pad_id,
        max_length=config.max_length,
        nonlinearity="relu" if config.cell == "rnn_relu" else None,
    )
    return options._replace(**changes)


def foreign_shapes(config: ModelConfig, rnn: str = "enc.rnn.", **renamed: str) -> Shapes:
    """Shapes of the configuration's tensors; ``embedding`` and ``linear`` by other names where given."""
    names = {"embedding": "enc.emb", "linear": "fc", **renamed}
    shapes = {}
    for name, shape in config.tensor_shapes().items():
        module, _, parameter = name.partition(".")
        shapes[f"{rnn}{parameter}" if module == "rnn" else f"{names[module]}.{parameter}"] = shape
    return shapes


def refusal(shapes: Shapes, options: Options) -> str:
    with pytest.raises(StateDictError) as error:
        identify(shapes, options)
    assert "\n" not in str(error.value)
    return str(error.value)


@settings(deadline=None)
@given(
    configs(),
    st.sampled_from(["", "module.", "a.b.c.", "module.encoder.weight_ih_l0."]),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_every_configuration_is_read_off_its_shapes(
    config: ModelConfig, prefix: str, linear_bias: bool, random: Any
) -> None:
    shapes = foreign_shapes(config, f"{prefix}rnn.", embedding=f"{prefix}words", linear=f"{prefix}out.2")
    if not linear_bias:
        del shapes[f"{prefix}out.2.bias"]
    names = list(shapes)
    random.shuffle(names)
    found = identify({name: shapes[name] for name in names}, options_of(config))
    assert found.config == config
    assert {shapes[theirs] for theirs in found.names.values()} == set(shapes.values())
    for name, theirs in found.names.items():
        assert shapes[theirs] == config.tensor_shapes()[name]
        assert theirs.rsplit(".", 1)[1] == name.rsplit(".", 1)[1]
    assert ("linear.bias" in found.names) == linear_bias


@pytest.mark.parametrize("missing", [name for name in tiny_config(num_layers=2).tensor_shapes() if "rnn." in name])
def test_a_missing_piece_of_a_layer_is_named(missing: str) -> None:
    config = tiny_config(num_layers=2)
    shapes = foreign_shapes(config)
    theirs = missing.replace("rnn.", "enc.rnn.")
    del shapes[theirs]
    assert refusal(shapes, options_of(config)) == f"lacks {theirs}, which its other tensors call for"


@pytest.mark.parametrize(
    ("pieces", "missing"),
    [
        (["_l0", "_l0_reverse"], "enc.rnn.weight_hh_l0"),
        (["_l1", "_l1_reverse"], "enc.rnn.weight_ih_l1"),
        (["_l1_reverse"], "enc.rnn.weight_ih_l1_reverse"),
        (["_l0_reverse"], "enc.rnn.weight_ih_l0_reverse"),
    ],
)
def test_a_missing_layer_or_direction_is_named(pieces: list[str], missing: str) -> None:
    config = tiny_config(num_layers=3)
    shapes = {
        name: shape
        for name, shape in foreign_shapes(config).items()
        if not any(name.endswith(piece) for piece in pieces)
    }
    assert f"lacks {missing}" in refusal(shapes, options_of(config))


def test_a_missing_projection_of_one_layer_is_named() -> None:
    config = tiny_config(num_layers=2, proj_size=3)
    shapes = foreign_shapes(config)
    del shapes["enc.rnn.weight_hr_l1"]
    assert "lacks enc.rnn.weight_hr_l1," in refusal(shapes, options_of(config))


ATTENTION = {"attn.weight": (1, 16), "attn.bias": (1,)}
BATCH_NORM: Shapes = {"bn.weight": (16,), "bn.bias": (16,), "bn.running_mean": (16,), "bn.num_batches_tracked": ()}


@pytest.mark.parametrize(
    ("added", "named"),
    [
        ({"attention": (16,)}, ["attention [16]"]),
        (ATTENTION, ["attn.weight [1, 16]", "attn.bias [1]"]),
        (BATCH_NORM, ["bn.weight [16]", "bn.running_mean [16]", "bn.num_batches_tracked []"]),
        ({"hidden.weight": (16, 16), "hidden.bias": (16,)}, ["hidden.weight [16, 16]", "hidden.bias [16]"]),
        ({"conv.weight": (8, 6, 3), "conv.bias": (8,)}, ["conv.weight [8, 6, 3]"]),
        ({"second.weight_ih_l0": (32, 16)}, ["2 recurrent modules", "enc.rnn.", "second."]),
        ({"fc.weight_g": (2, 1)}, ["fc.weight_g [2, 1]"]),
        ({"enc.rnn.weight_hh_l0_g": (32, 1)}, ["enc.rnn.weight_hh_l0_g [32, 1]"]),
        ({"enc.rnn.bias_hr_l0": (3,)}, ["enc.rnn.bias_hr_l0 [3]"]),
        ({"enc.emb.parametrizations.weight.original0": (40, 6)}, ["enc.emb.parametrizations.weight.original0"]),
        ({"fc2.weight": (2, 16), "fc2.bias": (2,)}, ["fc.weight [2, 16]", "fc2.weight [2, 16]", "is open"]),
        ({"pos_emb.weight": (512, 6)}, ["enc.emb.weight [40, 6]", "pos_emb.weight [512, 6]", "is open"]),
        ({"mix.weight": (6, 6)}, ["mix.weight [6, 6]", "no part of"]),
    ],
)
def test_a_tensor_without_a_part_is_named(added: Shapes, named: list[str]) -> None:
    config = tiny_config()
    reason = refusal(foreign_shapes(config) | added, options_of(config))
    for name in named:
        assert name in reason


def test_a_head_of_two_linears_is_refused() -> None:
    config = tiny_config()
    shapes = foreign_shapes(config) | {"fc.weight": (9, 16), "fc.bias": (9,), "top.weight": (2, 9), "top.bias": (2,)}
    reason = refusal(shapes, options_of(config))
    assert "fc.weight [9, 16], top.weight [2, 9]: only one embedding and one linear are supported" in reason


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"enc.emb.weight": None},
            "holds no embedding: a weight without a bias and with the recurrent layer's 6 inputs",
        ),
        ({"enc.emb.weight": (40, 7)}, "holds no embedding"),
        ({"enc.emb.bias": (40,)}, "holds no embedding"),
        ({"enc.emb.weight": (0, 6)}, "vocab_size: Input should be greater than or equal to 1"),
        ({"fc.weight": None, "fc.bias": None}, "holds no linear layer beside the embedding enc.emb.weight"),
        ({"fc.bias": (3,)}, "fc.bias has shape [3], the other tensors and options call for [2]"),
        ({"enc.rnn.weight_hh_l0": (33, 8)}, "has 33 rows for 8 hidden units, not 4, 3 or 1 each (lstm, gru, rnn)"),
        ({"enc.rnn.weight_hh_l0": (32, 0)}, "enc.rnn.weight_hh_l0 has shape [32, 0]: not a matrix"),
        ({"enc.rnn.weight_ih_l0": (32,)}, "enc.rnn.weight_ih_l0 has shape [32]: not a matrix"),
        ({"enc.rnn.weight_ih_l0": (24, 6)}, "enc.rnn.weight_ih_l0 has shape [24, 6], the other tensors and options"),
        ({"enc.rnn.bias_hh_l0_reverse": (8,)}, "enc.rnn.bias_hh_l0_reverse has shape [8]"),
    ],
)
def test_shapes_that_do_not_fit(changes: dict[str, tuple[int, ...] | None], reason: str) -> None:
    config = tiny_config()
    changed = foreign_shapes(config) | changes
    assert reason in refusal({name: shape for name, shape in changed.items() if shape is not None}, options_of(config))


def test_without_a_recurrent_layer_there_is_nothing_to_bring_in() -> None:
    config = tiny_config()
    shapes = {name: shape for name, shape in foreign_shapes(config).items() if "rnn" not in name}
    assert refusal(shapes, options_of(config)).startswith("holds no recurrent layer")
    assert refusal({}, options_of(config)).startswith("holds no recurrent layer")


def test_more_layers_than_are_supported() -> None:
    config = tiny_config(num_layers=4)
    shapes = foreign_shapes(config)
    shapes |= {name.replace("_l3", "_l4"): shape for name, shape in shapes.items() if "_l3" in name}
    assert refusal(shapes, options_of(config)) == "num_layers: Input should be less than or equal to 4"

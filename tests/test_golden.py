import json

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer as HFTokenizer
from tokenizers import pre_tokenizers
from tokenizers.models import WordLevel

from models.golden import LENGTHS, SENTENCES, golden_cases
from models.tokenizer import Tokenizer
from tests.reference import reference_logits
from tests.tiny import TEXTS, tiny_network


def tiny_tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS, 40, min_count=1)


def test_cases_are_the_sentences_then_drawn_token_ids() -> None:
    network, tokenizer = tiny_network(max_length=100), tiny_tokenizer()
    cases = golden_cases(network, tokenizer)
    spoken, drawn = cases[: len(SENTENCES)], cases[len(SENTENCES) :]
    assert [case.text for case in spoken] == list(SENTENCES)
    assert [case.token_ids for case in spoken] == tokenizer.encode(SENTENCES)
    assert [case.text for case in drawn] == [None] * len(LENGTHS)
    assert [len(case.token_ids) for case in drawn] == [min(length, 100) for length in LENGTHS]


def test_logits_are_those_of_the_formulas_in_float32() -> None:
    network = tiny_network(cell="gru", num_layers=2, pooling=("last", "max"))
    weights = network.weights()
    for case in golden_cases(network, tiny_tokenizer()):
        assert [float(np.float32(logit)) for logit in case.logits] == case.logits
        expected = reference_logits(network.config, weights, case.token_ids)
        np.testing.assert_allclose(case.logits, expected, rtol=0, atol=1e-5)


def test_a_network_in_training_and_in_another_precision_gives_float32_evaluation() -> None:
    network = tiny_network(dropout=0.5).to(torch.bfloat16).train()
    exact = tiny_network(dropout=0.5)
    exact.load_state_dict({name: tensor.float() for name, tensor in network.state_dict().items()})
    assert golden_cases(network, None) == golden_cases(exact, None)
    assert network.training
    assert network.linear.weight.dtype == torch.bfloat16


def test_without_a_tokenizer_there_are_token_ids_only() -> None:
    assert [case.text for case in golden_cases(tiny_network(), None)] == [None] * len(LENGTHS)


def test_the_same_network_gives_the_same_cases() -> None:
    assert golden_cases(tiny_network(), tiny_tokenizer()) == golden_cases(tiny_network(), tiny_tokenizer())


def test_sentences_are_cut_to_the_models_length() -> None:
    cases = golden_cases(tiny_network(max_length=5), tiny_tokenizer())
    assert max(len(case.token_ids) for case in cases) == 5
    assert cases[2].token_ids == tiny_tokenizer().encode(SENTENCES)[2][:5]


def test_sentences_without_a_token_are_left_out() -> None:
    pipeline = HFTokenizer(WordLevel({"<pad>": 0, "<unk>": 1, "?": 2}, unk_token="<unk>"))
    pipeline.pre_tokenizer = pre_tokenizers.Split("?", behavior="removed")
    document = json.loads(pipeline.to_str())
    document["pre_tokenizer"] = {"type": "Split", "pattern": {"String": "?"}, "behavior": "Removed", "invert": True}
    cases = golden_cases(tiny_network(), Tokenizer.from_json(json.dumps(document)))
    assert [case.text for case in cases[: -len(LENGTHS)]] == [text for text in SENTENCES if "?" in text]


@pytest.mark.parametrize("pad_id", [0, 17, 39])
def test_the_pad_id_is_never_drawn(pad_id: int) -> None:
    cases = golden_cases(tiny_network(pad_id=pad_id, max_length=150), None)
    drawn = {token for case in cases for token in case.token_ids}
    assert pad_id not in drawn
    assert drawn <= set(range(40))
    assert len(drawn) > 30


def test_a_vocabulary_of_the_pad_alone_is_refused() -> None:
    with pytest.raises(ValueError, match="a vocabulary of the pad alone"):
        golden_cases(tiny_network(vocab_size=1), None)

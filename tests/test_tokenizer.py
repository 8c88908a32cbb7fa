import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as HFTokenizer
from tokenizers import pre_tokenizers
from tokenizers.models import WordLevel

from models.tokenizer import PAD, PAD_ID, UNK, UNK_ID, Tokenizer

TEXTS = ["The film isn't bad.", "The film<br /><br />is GOOD, very good!", "x_y costs 3.5"]


def trained(texts: list[str] = TEXTS, vocab_size: int = 100, min_count: int = 1) -> Tokenizer:
    return Tokenizer.train(texts, vocab_size, min_count)


def vocabulary(tokenizer: Tokenizer) -> dict[str, int]:
    vocab: dict[str, int] = json.loads(tokenizer.to_json())["model"]["vocab"]
    return vocab


def tokens(tokenizer: Tokenizer, text: str) -> list[str]:
    """Tokens of a text whose words are all known."""
    by_id = {token_id: token for token, token_id in vocabulary(tokenizer).items()}
    return [by_id[token_id] for token_id in tokenizer.encode([text])[0]]


def test_the_vocabulary_is_that_of_the_training_texts() -> None:
    vocab = vocabulary(trained())
    words = {"the", "film", "isn't", "bad", ".", "is", "good", ",", "very", "!", "x", "_", "y", "costs", "3", "5"}
    assert set(vocab) == {PAD, UNK, *words}
    assert (vocab[PAD], vocab[UNK]) == (PAD_ID, UNK_ID)
    assert sorted(vocab.values()) == list(range(len(vocab)))


def test_other_texts_add_nothing() -> None:
    tokenizer = trained()
    size = tokenizer.vocab_size
    assert tokenizer.encode(["an unheard film"])[0] == [UNK_ID, UNK_ID, vocabulary(tokenizer)["film"]]
    assert tokenizer.vocab_size == size


def test_the_most_frequent_tokens_are_kept() -> None:
    tokenizer = trained(["a a a a b b b c c d"], vocab_size=4)
    assert vocabulary(tokenizer) == {PAD: PAD_ID, UNK: UNK_ID, "a": 2, "b": 3}
    assert tokenizer.vocab_size == 4


def test_rare_tokens_are_left_out() -> None:
    assert set(vocabulary(trained(["a a a b b c"], min_count=2))) == {PAD, UNK, "a", "b"}
    assert set(vocabulary(trained(["a a a b b c"], min_count=3))) == {PAD, UNK, "a"}


@pytest.mark.parametrize("mark", ["<br />", "<br>", "<br/>", "<br  />", "<br /><br />", "<BR>", "<Br\n/>"])
def test_a_line_break_mark_is_white_space(mark: str) -> None:
    tokenizer = trained()
    assert tokens(tokenizer, f"good{mark}film") == ["good", "film"]
    assert "br" not in vocabulary(tokenizer)


@pytest.mark.parametrize("text", ["isn't", "ISN'T", "isn\u2019t", " isn't "])
def test_a_word_keeps_its_apostrophes(text: str) -> None:
    assert tokens(trained(), text) == ["isn't"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rock'n'roll 'tis boys' ''", ["rock'n'roll", "'", "tis", "boys", "'", "'", "'"]),
        ("good,good...", ["good", ",", "good", ".", ".", "."]),
        ("3.5", ["3", ".", "5"]),
        ("snake_case", ["snake", "_", "case"]),
        ("\ufb01lm \uff21\uff22", ["film", "ab"]),
        ("na\u00efve \u00c9T\u00c9", ["na\u00efve", "\u00e9t\u00e9"]),
        ("tabs\tand\nlines\u00a0apart", ["tabs", "and", "lines", "apart"]),
    ],
)
def test_splitting(text: str, expected: list[str]) -> None:
    assert tokens(trained([text]), text) == expected


@pytest.mark.parametrize("text", ["", " ", "\n\t\u00a0", "<br />", "<br><br />"])
def test_a_text_without_tokens_gives_none(text: str) -> None:
    assert trained().encode([text, "good"]) == [[], trained().encode(["good"])[0]]


def test_no_texts_give_no_ids() -> None:
    assert trained().encode([]) == []


texts = st.text(max_size=60) | st.lists(
    st.sampled_from([PAD, UNK, "good", "film", "isn't", "<br />", "pad", "unk", "<", ">", "'", "[PAD]", "\x00"]),
    max_size=12,
).map(" ".join)


@settings(deadline=None)
@given(texts)
@example(f"{PAD} good {PAD}{PAD} <{PAD}>")
@example(f"{UNK}{UNK.upper()}{PAD.upper()}")
def test_no_text_gives_the_pad_id(text: str) -> None:
    tokenizer = trained([*TEXTS, f"{PAD} {UNK} [PAD]"])
    (ids,) = tokenizer.encode([text])
    assert PAD_ID not in ids
    assert all(0 < token_id < tokenizer.vocab_size for token_id in ids)


def test_a_text_that_spells_pad_and_unknown_gives_their_words() -> None:
    tokenizer = trained([*TEXTS, f"{PAD} {UNK}"])
    assert tokens(tokenizer, f"{PAD} {UNK}") == ["<", "pad", ">", "<", "unk", ">"]


@settings(deadline=None)
@given(st.lists(texts, min_size=1, max_size=4), st.lists(texts, max_size=4))
def test_json_round_trip(training: list[str], others: list[str]) -> None:
    tokenizer = trained(training)
    copy = Tokenizer.from_json(tokenizer.to_json())
    assert copy.encode(training + others) == tokenizer.encode(training + others)
    assert copy.vocab_size == tokenizer.vocab_size
    assert copy.to_json() == tokenizer.to_json()


def test_training_is_repeatable() -> None:
    assert trained().to_json() == trained().to_json()


def foreign() -> HFTokenizer:
    pipeline = HFTokenizer(WordLevel({"[PAD]": 0, "[UNK]": 1, "good": 2, "film": 7}, unk_token="[UNK]"))
    pipeline.pre_tokenizer = pre_tokenizers.Whitespace()
    return pipeline


def test_padding_and_truncation_of_a_foreign_tokenizer_are_switched_off() -> None:
    pipeline = foreign()
    pipeline.enable_padding(length=8)
    pipeline.enable_truncation(max_length=2)
    tokenizer = Tokenizer.from_json(pipeline.to_str())
    assert tokenizer.encode(["good film good", "film"]) == [[2, 7, 2], [7]]
    document = json.loads(tokenizer.to_json())
    assert document["padding"] is None
    assert document["truncation"] is None


def test_the_vocabulary_size_counts_gaps_and_added_tokens() -> None:
    pipeline = foreign()
    assert Tokenizer(pipeline).vocab_size == 8
    pipeline.add_tokens(["bad"])
    assert Tokenizer(pipeline).vocab_size == max(pipeline.get_vocab(with_added_tokens=True).values()) + 1
    assert Tokenizer(HFTokenizer(WordLevel({}, unk_token="?"))).vocab_size == 0


@pytest.mark.parametrize(
    "document",
    ["", "{", "null", "[]", "{}", '{"version": "1.0"}', '"text"', trained().to_json()[:-1], trained().to_json() + "x"],
)
def test_what_is_no_tokenizer_is_refused(document: str) -> None:
    with pytest.raises(ValueError, match="not a Hugging Face tokenizer"):
        Tokenizer.from_json(document)


def test_a_smaller_vocabulary_has_what_texts_have_most_often() -> None:
    """All else is as before: a token that is no longer there is unknown."""
    whole = trained(["a b c d e f g h"] * 2 + ["a b c d"] * 2, 20, 1)
    known = whole.tokens()
    assert known[:2] == ["<pad>", "<unk>"]
    small = whole.trimmed(["g h h <pad>", "zebra", "c"], 6, 0)
    kept = small.tokens()
    assert kept == [token for token in known if token in {"<pad>", "<unk>", "g", "h", "c", known[2]}]
    text = "A b, c d e f g h zebra <pad>"
    expected = [kept.index(known[old]) if known[old] in kept else 1 for old in whole.encode([text])[0]]
    assert small.encode([text]) == [expected]
    assert small.unknown_id == 1


@pytest.mark.parametrize(
    ("model", "pad", "reason"),
    [
        ({"type": "BPE", "vocab": {"a": 0}, "merges": [], "unk_token": "a"}, 0, "is of type BPE"),
        ({"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "b"}, 0, "has no unknown token"),
        ({"type": "WordLevel", "vocab": {"a": 0, "b": 1}, "unk_token": "b"}, 2, "none for the pad"),
    ],
)
def test_a_vocabulary_that_cannot_be_smaller(model: dict[str, object], pad: int, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Tokenizer.from_json(json.dumps({"model": model})).trimmed([], 1, pad)

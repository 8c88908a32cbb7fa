from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from models.data import read_rows
from models.formats import DataError
from models.pairs import PairScore, read_pairs, score_pairs
from models.tokenizer import Tokenizer
from tests.reviews import write

ROOT = Path(__file__).parents[1]
LABELS = ("negative", "positive")
TOKENIZER = Tokenizer.train(["good bad fine poor"], 10, 1)
GOOD, BAD = ("good", "positive"), ("bad", "negative")


def test_a_pair_counts_where_both_texts_are_right(tmp_path: Path) -> None:
    path = write(tmp_path / "words.tsv", [GOOD, BAD, ("fine", "positive"), BAD, ("poor", "negative"), GOOD])
    (pairs,) = read_pairs([path], LABELS, TOKENIZER)
    negative = {TOKENIZER.encode([word])[0][0] for word in ("bad", "fine")}

    def predict(sequences: Sequence[Sequence[int]]) -> np.ndarray:
        return np.array([0 if tokens[0] in negative else 1 for tokens in sequences])

    assert score_pairs(pairs, predict) == PairScore("words", 1, 3)


def test_files_are_scored_apart_and_labels_may_be_indices(tmp_path: Path) -> None:
    paths = [write(tmp_path / "a.tsv", [GOOD, BAD]), write(tmp_path / "b.csv.gz", [("x", "0"), ("y", "1")])]
    first, second = read_pairs(paths, LABELS, TOKENIZER)
    assert (first.name, first.targets, second.name, second.targets) == ("a", [1, 0], "b", [0, 1])


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([GOOD, BAD, GOOD], r"row 4: has no second text: a pair is two rows"),
        ([GOOD, BAD, GOOD, ("fine", "positive")], r"row 5: has the class of the row before it"),
        ([GOOD, ("<br />", "negative")], r"row 3: the text has no tokens"),
        ([GOOD, ("bad", "awful")], r"row 3: unknown label 'awful'"),
    ],
)
def test_what_is_no_pair(tmp_path: Path, rows: list[tuple[str, str]], reason: str) -> None:
    path = write(tmp_path / "words.tsv", rows)
    with pytest.raises(DataError, match=reason):
        read_pairs([path], LABELS, TOKENIZER)


def test_ours_are_sixty_of_three_kinds_and_no_text_twice() -> None:
    files = sorted((ROOT / "models" / "pairs").iterdir())
    assert [(pairs.name, len(pairs.sequences)) for pairs in read_pairs(files, LABELS, TOKENIZER)] == [
        ("contrast", 40),
        ("intensity", 40),
        ("negation", 40),
    ]
    texts = [row.text for row in read_rows(files, "text", "label")]
    assert len(set(texts)) == len(texts) == 120

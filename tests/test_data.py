from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.data import Row, class_indices, class_names, read_rows, read_texts, split_rows
from models.formats import DataError
from tests.reviews import reviews, write


def rows_of(texts: list[str], labels: list[str] | None = None) -> list[Row]:
    given_labels = labels or ["x"] * len(texts)
    return [
        Row(Path("data.csv"), number, text, label)
        for number, (text, label) in enumerate(zip(texts, given_labels, strict=True), start=2)
    ]


def labelled(*labels: str) -> list[Row]:
    return rows_of(["text"] * len(labels), list(labels))


def test_files_follow_each_other(tmp_path: Path) -> None:
    first, second = reviews(5), reviews(7, seed=1)
    paths = [write(tmp_path / "a.csv", first), write(tmp_path / "b.jsonl.gz", second)]
    assert [(row.text, row.label) for row in read_rows(paths, "text", "label")] == first + second


def test_integer_labels_read_alike_in_every_format(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\na,0\nb, 1 \n")
    (tmp_path / "a.jsonl").write_text('{"text": "a", "label": 0}\n{"text": "b", "label": "1"}\n')
    for name in ("a.csv", "a.jsonl"):
        assert [row.label for row in read_rows([tmp_path / name], "text", "label")] == ["0", "1"]


def test_label_map_renames(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", [("a", "neg"), ("b", "pos"), ("c", "other")])
    rows = read_rows([path], "text", "label", {"neg": "negative", "pos": "positive"})
    assert [row.label for row in rows] == ["negative", "positive", "other"]


def test_class_names_are_sorted_integers_as_numbers() -> None:
    assert class_names(labelled("10", "9", "-1", "9")) == ("-1", "9", "10")
    assert class_names(labelled("10", "9", "b")) == ("10", "9", "b")


def test_names_win_over_indices() -> None:
    assert class_indices(labelled("a", "1", "0"), ("a", "b")) == [0, 1, 0]
    assert class_indices(labelled("1", "0", "2"), ("1", "0", "5")) == [0, 1, 2]


def test_an_unknown_label_is_named_with_its_row() -> None:
    for label in ("c", "2", "-1", "01"):
        with pytest.raises(DataError, match=rf"^data.csv, row 3: unknown label '{label}'.*a, b.*--label-map"):
            class_indices(labelled("a", label), ("a", "b"))


@given(
    texts=st.lists(
        st.sampled_from("abcdefgh").flatmap(lambda c: st.sampled_from([c, f" {c}\n", f"{c} x", f"{c}\tx "]))
    ),
    seed=st.integers(0, 5),
    data=st.data(),
)
def test_split_keeps_equal_texts_together(texts: list[str], seed: int, data: st.DataObject) -> None:
    texts += [f"single {number}" for number in range(12)]
    wanted = data.draw(st.integers(1, 11))
    training, validation = split_rows(rows_of(texts), wanted, seed)
    assert sorted(training + validation) == list(range(len(texts)))
    assert (training, validation) == (sorted(training), sorted(validation))
    assert len(validation) == wanted  # there are texts enough that occur once
    words = [tuple(text.split()) for text in texts]
    assert not {words[index] for index in training} & {words[index] for index in validation}
    assert (training, validation) == split_rows(rows_of(texts), wanted, seed)


def test_split_by_fraction_is_drawn_by_seed_from_everywhere() -> None:
    rows = rows_of([str(number) for number in range(1000)])
    splits = [split_rows(rows, 0.25, seed)[1] for seed in range(20)]
    assert {len(split) for split in splits} == {250}
    assert len(set(map(tuple, splits))) == 20
    counts = Counter(index // 100 for split in splits for index in split)
    assert all(350 < count < 650 for count in counts.values())


def test_a_split_without_both_sides_is_refused() -> None:
    for texts, size in ((["a", "b"], 2), (["a", "b"], 0.01), (["same", " same"], 1)):
        with pytest.raises(DataError, match=r"rows are left for training.*--validation"):
            split_rows(rows_of(texts), size, 0)


@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl", "parquet"])
def test_of_several_columns_the_first_that_a_file_has(tmp_path: Path, form: str) -> None:
    paths = [
        write(tmp_path / f"a.{form}", reviews(3)),
        write(tmp_path / f"b.{form}", reviews(4, seed=1), ("sentence", "class")),
        write(tmp_path / f"c.{form}", reviews(5, seed=2), ("sentence,text", "label")),
    ]
    for path, expected in zip(paths, [reviews(3), reviews(4, seed=1), reviews(5, seed=2)], strict=True):
        assert [(row.text, row.label) for row in read_rows([path], "sentence,text", "label,class")] == expected
    with pytest.raises(DataError, match="has no column 'body,title': choose with --text-column"):
        read_rows(paths, "body,title", "label")
    assert read_texts(paths[:2], "text,sentence") == [text for text, _ in [*reviews(3), *reviews(4, seed=1)]]

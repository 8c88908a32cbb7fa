"""Small labelled data for tests, in every format."""

import csv
import gzip
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

WORDS = {
    "negative": ("bad", "dull", "awful", "slow", "wooden"),
    "positive": ("good", "bright", "lovely", "quick", "warm"),
    "mixed": ("uneven", "long", "odd", "fine", "so-so"),
}
FILLERS = ("the", "film", "was", "and", "its", "end", "a", "story", "of", "two", "sisters", ",", '"really"', "said")


def reviews(rows: int, classes: int = 2, seed: int = 0) -> list[tuple[str, str]]:
    """Texts of 3 to 60 words whose words tell the label, and labels."""
    draw = np.random.default_rng(seed)
    labels = list(WORDS)[:classes]
    made = []
    for number in range(rows):
        label = labels[number % classes]
        words = draw.choice(FILLERS, draw.integers(2, 59)).tolist()
        words.insert(int(draw.integers(0, len(words))), str(draw.choice(WORDS[label])))
        made.append((" ".join(words), label))
    return made


def write(path: Path, rows: list[tuple[str, str]], columns: tuple[str, str] = ("text", "label")) -> Path:
    """Writes `rows` in the format that the suffix says."""
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        texts, labels = zip(*rows, strict=True)
        parquet.write_table(pa.table({columns[0]: texts, columns[1]: labels}), path)
        return path
    if name.endswith(".csv"):
        buffer = io.StringIO()
        csv.writer(buffer).writerows([columns, *rows])
        content = buffer.getvalue()
    elif name.endswith(".tsv"):
        content = "".join(f"{text}\t{label}\n" for text, label in [columns, *rows])
    else:
        content = "".join(json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in rows)
    path.write_bytes(gzip.compress(content.encode()) if path.suffix == ".gz" else content.encode())
    return path

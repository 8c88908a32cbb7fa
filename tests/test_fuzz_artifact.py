"""Every file of a version, damaged, lying or malign: a clean refusal, or a version that gives what it promises."""

import json
import math
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.artifact import CONFIG, GOLDEN, MOST_BYTES, MOST_HEADER, SUMS, TOKENIZER, WEIGHTS, write_artifact
from tests.fuzzing import MOST_MEMORY, SCALE, SEED
from tests.fuzzing_files import PARTS, WRONG
from tests.test_artifact import change_json, refusal, seal
from tests.tiny import tiny_artifact, tiny_config, write_tiny

CASES = 10_000 * SCALE

SMALL = 256 << 20
"""Bytes by which the process may grow over all cases, whose files are small."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A version to be changed."""
    write_tiny(tmp_path / "imdb" / "1")
    return tmp_path / "imdb" / "1"


def in_a_child(folder: Path, *command: str) -> dict[str, Any]:
    """What a process prints that may come to a bad end."""
    environment = {**os.environ, "RUST_BACKTRACE": "0", "OMP_NUM_THREADS": "1"}
    note = folder.parent / "case"
    note.write_text("the start")
    try:
        child = subprocess.run(
            [sys.executable, *command], env=environment, capture_output=True, text=True, timeout=900 * SCALE
        )
    except subprocess.TimeoutExpired:
        pytest.fail(f"hangs in {note.read_text()}")
    assert child.returncode == 0, f"{note.read_text()}: ends with {child.returncode}\n{child.stderr[-4000:]}"
    found: dict[str, Any] = json.loads(child.stdout)
    return found


def test_a_damaged_version_is_refused_or_holds(folder: Path) -> None:
    if SCALE > 1:
        print(f"FUZZ_SEED={SEED}")
    found = in_a_child(folder, "-m", "tests.fuzzing_artifact", str(folder), str(SEED), "0", str(CASES))
    counts = found["counts"]
    assert counts["loaded"] + counts["refused"] == CASES
    assert counts["loaded"] > CASES // 50
    for name, kinds in WRONG.items():
        for kind in kinds:
            assert counts[f"refused {name} {kind.__name__}"] > CASES // 200
            if name != SUMS:
                assert counts[f"loaded {name} {kind.__name__}"] > 0, (
                    "nothing but refusals: is it the parser that refuses?"
                )
    assert counts["refused kind of file"] > CASES // 200
    assert found["grown"] <= SMALL


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS, TOKENIZER, GOLDEN, SUMS])
@pytest.mark.parametrize("size", [1 << 33, 1 << 42])
def test_a_file_over_its_limit_is_not_read(folder: Path, name: str, size: int) -> None:
    limit = MOST_BYTES[name]
    if name == WEIGHTS:
        limit = 4 * sum(map(math.prod, tiny_config().tensor_shapes().values())) + MOST_HEADER
    os.truncate(folder / name, size)  # sparse
    assert refusal(folder, name) == f"has {size} bytes, at most {limit} are read"


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS, TOKENIZER, GOLDEN])
def test_a_pipe_is_not_waited_for(folder: Path, name: str) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)
    assert refusal(folder, name) == "is not a regular file"


@pytest.mark.parametrize("target", ["/dev/zero", "/dev/tty", "/"])
def test_a_link_to_what_has_no_end_is_not_read(folder: Path, target: str) -> None:
    (folder / GOLDEN).unlink()
    (folder / GOLDEN).symlink_to(target)
    assert refusal(folder, GOLDEN) == "is not a regular file"


def test_a_header_of_lies_is_not_read(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes((1 << 62).to_bytes(8, "little") + content[8:])
    seal(folder)
    assert refusal(folder, WEIGHTS) == f"is not a safetensors file of float tensors: its header has {1 << 62} bytes"


@pytest.mark.parametrize("name", [CONFIG, TOKENIZER, GOLDEN])
def test_nested_without_end(folder: Path, name: str) -> None:
    (folder / name).write_text("[" * 100_000)
    seal(folder)
    assert "recursion limit exceeded" in refusal(folder, name)


def test_what_a_message_repeats_is_one_short_line(folder: Path) -> None:
    change_json(folder / CONFIG, lambda document: document["model"].update({"\n\x1b[31m" + "x" * 9999: 1}))
    assert refusal(folder, CONFIG) == ("model.  [31m" + "x" * 9999)[:400]
    change_json(folder / CONFIG, lambda document: document.update(format_version=10**4000))
    assert len(refusal(folder, CONFIG)) == 400


@pytest.mark.parametrize(
    ("part", "number", "reason"),
    [
        ("normalizer", 0, "its normalizers may make 1000000000000 bytes of one, at most 128 are taken"),
        ("normalizer", 1, "has more than 64 normalizers and pre-tokenizers"),
        ("normalizer", 3, "its normalizers may make 1000000 bytes of one, at most 128 are taken"),
        ("normalizer", 8, "its precompiled_charsmap is damaged"),
        ("normalizer", 9, "its precompiled_charsmap is damaged"),
        ("normalizer", 12, "its normalizers may make 396 bytes of one, at most 128 are taken"),
        ("model", 1, "its model has a dropout: the same text would give other tokens each time"),
        ("model", 11, "has pieces of more than 1024 bytes, or of 4194304 together"),
        ("post_processor", 0, "its template does not hold the text once"),
        ("post_processor", 2, "its template does not hold the text once"),
    ],
)
def test_a_tokenizer_that_would_take_memory_without_end(folder: Path, part: str, number: int, reason: str) -> None:
    change_json(folder / TOKENIZER, lambda document: document.update({part: PARTS[part][number]}))
    assert refusal(folder, TOKENIZER) == f"not a Hugging Face tokenizer: {reason}"


def test_a_key_that_stands_twice_counts_as_it_was_checked(folder: Path) -> None:
    document = json.loads((folder / TOKENIZER).read_text())
    harmless = json.dumps(document["normalizer"])
    for first, last, holds in ((PARTS["normalizer"][0], harmless, True), (harmless, PARTS["normalizer"][0], False)):
        both = [part if isinstance(part, str) else json.dumps(part) for part in (first, last)]
        rest = json.dumps({name: value for name, value in document.items() if name != "normalizer"})
        (folder / TOKENIZER).write_text(f'{{"normalizer": {both[0]}, "normalizer": {both[1]}, {rest[1:]}')
        seal(folder)
        if not holds:
            assert "its normalizers may make" in refusal(folder, TOKENIZER)


def test_a_tokenizer_that_reads_otherwise_than_the_golden_cases_say(folder: Path) -> None:
    change_json(folder / TOKENIZER, lambda document: document.update(normalizer=None))
    assert "has other token ids than tokenizer.json gives its text" in refusal(folder, GOLDEN)


@pytest.mark.parametrize(
    ("part", "replacement"),
    [
        ("pre_tokenizer", {"type": "FixedLength", "length": 0}),  # a panic of the library
        ("model", {"type": "WordLevel", "vocab": {}, "unk_token": "?"}),
    ],
)
def test_a_tokenizer_that_fails(folder: Path, part: str, replacement: object) -> None:
    change_json(folder / TOKENIZER, lambda document: document.update({part: replacement}))
    assert refusal(folder, GOLDEN).startswith("a text cannot be tokenised: ")


LARGEST = """
import json, sys
from pathlib import Path
from models.artifact import ArtifactError, read_artifact
from tests.fuzzing import bounded, largest

folder = Path(sys.argv[1])
try:
    read_artifact(folder.with_name("whole"))
    before = bounded()
    read_artifact(folder)
    reason = ""
except ArtifactError as error:
    reason = str(error)
print(json.dumps({"reason": reason, "grown": largest() - before}))
"""


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_large_weights_take_two_and_a_half_times_their_size(folder: Path, dtype: type[np.floating]) -> None:
    write_tiny(folder.with_name("whole"))
    artifact = tiny_artifact(vocab_size=1 << 19, embedding_dim=64)
    write_artifact(folder.with_name("large"), artifact, weights_dtype=dtype)
    found = in_a_child(folder, "-c", LARGEST, str(folder.with_name("large")))
    assert not found["reason"]
    assert found["grown"] <= 2.5 * sum(weight.nbytes for weight in artifact.weights.values())


def unigram() -> dict[str, Any]:
    """Of as many different pieces, as long, as are taken: what takes most memory of all."""
    draw = random.Random(0)
    pieces = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=1024)) for _ in range(4095)]
    return {"model": {"type": "Unigram", "unk_id": 0, "vocab": [[piece, -1.0] for piece in pieces]}}


def added() -> dict[str, Any]:
    """Tokens to be found in texts, as long as there is room."""
    draw = random.Random(0)
    contents = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=10_000)) for _ in range(1600)]
    return {"added_tokens": [{"id": 0, "content": each, "special": False} for each in contents]}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (TOKENIZER, unigram),
        (TOKENIZER, added),
        (TOKENIZER, lambda: {"more": [[]] * (MOST_BYTES[TOKENIZER] // 4 - 1000)}),
        (GOLDEN, lambda: {"cases": [{"token_ids": [1], "logits": [1e5]}] * (MOST_BYTES[GOLDEN] // 44)}),
        (GOLDEN, lambda: {"cases": [], **{f"{number:x}": 0 for number in range(MOST_BYTES[GOLDEN] // 12)}}),
        (GOLDEN, lambda: {"cases": [[]] * (MOST_BYTES[GOLDEN] // 4 - 1000)}),
        (CONFIG, lambda: {"model": {"labels": [1] * (MOST_BYTES[CONFIG] // 4)}}),
        (CONFIG, lambda: {f"{number:x}": 0 for number in range(MOST_BYTES[CONFIG] // 12)}),
    ],
)
def test_the_largest_files_take_no_more_memory_than_is_promised(
    folder: Path, name: str, content: Callable[[], dict[str, Any]]
) -> None:
    write_tiny(folder.with_name("whole"))
    change_json(folder / name, lambda document: document.update(content()))
    assert MOST_BYTES[name] // 4 < (folder / name).stat().st_size <= MOST_BYTES[name]
    found = in_a_child(folder, "-c", LARGEST, str(folder))
    assert found["reason"]
    assert "memory" not in found["reason"]
    assert found["grown"] <= MOST_MEMORY

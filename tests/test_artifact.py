import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

from models.artifact import (
    CONFIG,
    GOLDEN,
    SUMS,
    TOKENIZER,
    WEIGHTS,
    Artifact,
    ArtifactError,
    read_artifact,
    write_artifact,
)
from models.tokenizer import Tokenizer
from tests.tiny import TEXTS, tiny_artifact, write_tiny

COVERED = (CONFIG, GOLDEN, WEIGHTS, TOKENIZER)


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    return tiny_artifact()


@pytest.fixture
def folder(tmp_path: Path, artifact: Artifact) -> Path:
    """A version to be changed."""
    write_artifact(tmp_path / "tiny" / "1", artifact)
    return tmp_path / "tiny" / "1"


def seal(folder: Path) -> None:
    """Covers the folder's files as they are now, so that their content is what is judged."""
    names = [name for name in COVERED if (folder / name).exists()]
    lines = [f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (folder / SUMS).write_text("".join(lines))


def refusal(folder: Path, file: str) -> str:
    """The reason for which the version is refused, said of the given file."""
    with pytest.raises(ArtifactError) as error:
        read_artifact(folder)
    message = str(error.value)
    assert message.startswith(f"{folder / file}: ")
    assert "\n" not in message
    return message.removeprefix(f"{folder / file}: ")


def change_json(path: Path, change: Callable[[Any], object]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    seal(path.parent)


def change_weights(folder: Path, **tensors: Any) -> None:
    """Replaces tensors (``__`` stands for a dot), or takes them out where None is given."""
    weights = safetensors.numpy.load((folder / WEIGHTS).read_bytes())
    weights |= {name.replace("__", "."): tensor for name, tensor in tensors.items()}
    (folder / WEIGHTS).write_bytes(safetensors.numpy.save({k: v for k, v in weights.items() if v is not None}))
    seal(folder)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"cell": "gru", "num_layers": 3, "bias": False, "pooling": ("mean", "last")},
        {"proj_size": 3, "output": "binary", "temperature": 1.5},
        {"cell": "rnn_relu", "output": "sigmoid", "labels": ("\u00e9t\u00e9", "b", "c"), "pad_id": 7},
    ],
)
@pytest.mark.parametrize("with_tokenizer", [True, False])
def test_round_trip(tmp_path: Path, fields: dict[str, Any], with_tokenizer: bool) -> None:
    written = write_tiny(tmp_path / "1", with_tokenizer=with_tokenizer, **fields)
    read = read_artifact(tmp_path / "1")
    assert read.config == written.config
    assert read.golden == written.golden
    assert list(read.weights) == list(written.config.tensor_shapes())
    for name, weight in written.weights.items():
        np.testing.assert_array_equal(read.weights[name], weight, strict=True)
    if written.tokenizer is None:
        assert read.tokenizer is None
    else:
        assert read.tokenizer is not None
        assert read.tokenizer.encode(TEXTS) == written.tokenizer.encode(TEXTS)


def test_float16_storage_halves_the_file_and_reads_as_float32(tmp_path: Path) -> None:
    artifact = tiny_artifact(hidden_size=64)
    write_artifact(tmp_path / "32", artifact)
    write_artifact(tmp_path / "16", artifact, weights_dtype=np.float16)
    read = read_artifact(tmp_path / "16")
    for name, weight in artifact.weights.items():
        np.testing.assert_array_equal(read.weights[name], weight.astype(np.float16).astype(np.float32), strict=True)
    assert (tmp_path / "16" / WEIGHTS).stat().st_size < 0.6 * (tmp_path / "32" / WEIGHTS).stat().st_size


def test_weights_that_are_views_are_stored_as_they_look(tmp_path: Path, artifact: Artifact) -> None:
    views = {name: np.asfortranarray(weight) for name, weight in artifact.weights.items()}
    write_artifact(tmp_path / "1", artifact._replace(weights=views))
    for name, weight in read_artifact(tmp_path / "1").weights.items():
        np.testing.assert_array_equal(weight, artifact.weights[name])


def test_files_on_disk(tmp_path: Path, artifact: Artifact) -> None:
    write_artifact(tmp_path / "a" / "b" / "1", artifact, extras={"README.md": b"card"})
    folder = tmp_path / "a" / "b" / "1"
    assert {path.name for path in folder.iterdir()} == {*COVERED, SUMS, "README.md"}
    assert (folder / "README.md").read_bytes() == b"card"
    lines = (folder / SUMS).read_text().splitlines()
    digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in sorted(COVERED)}
    assert lines == [f"{digest}  {name}" for name, digest in digests.items()]
    assert [path.name for path in folder.parent.iterdir()] == ["1"]


def test_what_is_not_covered_may_change(folder: Path) -> None:
    (folder / "README.md").write_text("changed")
    (folder / "loss.png").write_bytes(b"\x89PNG")
    read_artifact(folder)


def test_a_model_is_not_a_version(folder: Path, artifact: Artifact) -> None:
    for number in (9, 10):
        write_artifact(folder.with_name(str(number)), artifact)
    (folder.with_name("11")).mkdir()
    reason = f"is not a version (no SHA256SUMS): name one, such as {folder.with_name('10')}"
    with pytest.raises(ArtifactError) as error:
        read_artifact(folder.parent)
    assert str(error.value) == f"{folder.parent}: {reason}"


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such folder"):
        read_artifact(tmp_path / "1")
    (tmp_path / "1").write_text("a file")
    with pytest.raises(ArtifactError, match="no such folder"):
        read_artifact(tmp_path / "1")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda config: config.update(format_version=2), "has format version 2, newer than 1: it needs a newer"),
        (lambda config: config.update(format_version=0), "format_version: "),
        (lambda config: config.update(format_version="1"), "format_version: "),
        (lambda config: config.pop("format_version"), "format_version: Field required"),
        (lambda config: config.pop("model"), "model: Field required"),
        (lambda config: config.update(author="me"), "author: Extra inputs are not permitted"),
        (lambda config: config["model"].update(attention=4), "model.attention: Extra inputs are not permitted"),
        (lambda config: config["model"].update(cell="mamba"), "model.cell: "),
        (lambda config: config["model"].update(hidden_size=8.5), "model.hidden_size: "),
        (lambda config: config["model"].pop("labels"), "model.labels: Field required"),
        (lambda config: config["model"].update(pad_id=40), "model: pad_id 40 must be below vocab_size 40"),
    ],
)
def test_a_configuration_that_is_not_understood(folder: Path, change: Callable[[Any], object], reason: str) -> None:
    change_json(folder / CONFIG, change)
    assert refusal(folder, CONFIG).startswith(reason)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"null", b"[]", b"1"])
def test_a_configuration_that_is_no_json_object(folder: Path, content: bytes) -> None:
    (folder / CONFIG).write_bytes(content)
    seal(folder)
    assert "is not a JSON object" in refusal(folder, CONFIG)


def test_a_newer_format_is_named_even_where_the_rest_is_unknown(folder: Path) -> None:
    (folder / CONFIG).write_text('{"format_version": 7, "network": {"cells": []}}')
    seal(folder)
    assert refusal(folder, CONFIG) == "has format version 7, newer than 1: it needs a newer lstm-serve"


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({"linear__bias": None}, "has no tensor linear.bias, which the configuration asks for"),
        ({"attention": np.zeros(3, np.float32)}, "has a tensor attention, which the configuration does not know"),
        (
            {"linear__weight": np.zeros((2, 17), np.float32)},
            "linear.weight has shape [2, 17], the configuration says [2, 16]",
        ),
        (
            {"linear__weight": np.zeros((16, 2), np.float32)},
            "linear.weight has shape [16, 2], the configuration says [2, 16]",
        ),
        ({"linear__bias": np.zeros(2, np.float64)}, "linear.bias is float64, not float32 or float16"),
        ({"linear__bias": np.zeros(2, np.int64)}, "linear.bias is int64, not float32 or float16"),
        ({"linear__bias": np.array([0, np.nan], np.float32)}, "linear.bias holds values that are not finite"),
        ({"linear__bias": np.array([0, np.inf], np.float16)}, "linear.bias holds values that are not finite"),
    ],
)
def test_weights_that_do_not_fit(folder: Path, tensors: dict[str, Any], reason: str) -> None:
    change_weights(folder, **tensors)
    assert refusal(folder, WEIGHTS) == reason


@pytest.mark.parametrize(
    "content",
    [b"", b"\x00" * 8, b"text", safetensors.torch.save({"linear.bias": torch.zeros(2, dtype=torch.bfloat16)})],
)
def test_weights_that_are_no_safetensors_of_floats(folder: Path, content: bytes) -> None:
    (folder / WEIGHTS).write_bytes(content)
    seal(folder)
    assert "is not a safetensors file of float tensors" in refusal(folder, WEIGHTS)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"[1]"])
def test_a_tokenizer_that_is_none(folder: Path, content: bytes) -> None:
    (folder / TOKENIZER).write_bytes(content)
    seal(folder)
    assert refusal(folder, TOKENIZER)


def test_a_tokenizer_beyond_the_embedding(folder: Path) -> None:
    tokenizer = Tokenizer.train([" ".join(f"w{number}" for number in range(60))], 50, min_count=1)
    (folder / TOKENIZER).write_text(tokenizer.to_json())
    seal(folder)
    assert refusal(folder, TOKENIZER) == "gives token ids up to 49, the embedding has 40 rows"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda cases: cases[1]["token_ids"].append(40), "case 1 has a token id outside the vocabulary of 40"),
        (lambda cases: cases[0]["token_ids"].append(-1), "case 0 has a token id outside the vocabulary of 40"),
        (lambda cases: cases[2]["logits"].append(0.5), "case 2 has 3 logits, the model 2"),
        (lambda cases: cases[2]["logits"].pop(), "case 2 has 1 logits, the model 2"),
        (lambda cases: cases[0]["token_ids"].extend([1] * 64), "case 0 is longer than the model's 64 tokens"),
        (lambda cases: cases[0].update(token_ids=[]), "cases.0.token_ids: "),
        (lambda cases: cases[0].update(token_ids=[1.5]), "cases.0.token_ids.0: "),
        (lambda cases: cases[0].update(logits=["0.5", 1]), "cases.0.logits.0: "),
        (lambda cases: cases[0].update(logits=[float("nan"), 1]), "cases.0.logits.0: "),
        (lambda cases: cases[0].update(label="good"), "cases.0.label: Extra inputs are not permitted"),
        (lambda cases: cases.clear(), "cases: "),
    ],
)
def test_golden_cases_that_do_not_fit(folder: Path, change: Callable[[Any], object], reason: str) -> None:
    change_json(folder / GOLDEN, lambda document: change(document["cases"]))
    assert refusal(folder, GOLDEN).startswith(reason)


def test_golden_cases_that_are_no_json(folder: Path) -> None:
    (folder / GOLDEN).write_bytes(b"[")
    seal(folder)
    assert refusal(folder, GOLDEN)

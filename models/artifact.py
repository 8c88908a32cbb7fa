"""One model version on disk: config, weights, tokenizer and golden cases, sealed by their digests. No torch.

    config.json         {"format_version": 1, "model": ModelConfig}
    model.safetensors   PyTorch parameter names; float32 or float16
    tokenizer.json      Hugging Face tokenizers; absent where the version serves token ids only
    golden.json         {"cases": [{"text", "token_ids", "logits"}]}: float32 logits of the torch CPU reference
    SHA256SUMS          digests of the above, in the form of sha256sum(1), written last: no version without it

Anything else in the folder (README.md, plots, metrics) is not covered. The digests detect damage, not forgery.

Whatever the files hold, to read a version takes 2 GiB at most, beside two and a half times its weights in float32: a
file over its limit in `MOST_BYTES` is not read, nor weights larger than the configuration's tensors.
"""

import contextlib
import hashlib
import json
import math
import re
import secrets
import shutil
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.types import FailFast
from pydantic_core import from_json

from models.config import ModelConfig, first_error
from models.durable import sync_folder, write_durably
from models.tokenizer import Tokenizer

FORMAT_VERSION = 1
CONFIG, WEIGHTS, TOKENIZER, GOLDEN, SUMS = (
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "golden.json",
    "SHA256SUMS",
)
CARD = "README.md"
REQUIRED = (CONFIG, WEIGHTS, GOLDEN)
MOST_HEADER = 1 << 20
"""Bytes that describe the tensors in a weights file, at most."""
MOST_BYTES = {CONFIG: 1 << 20, WEIGHTS: 1 << 32, TOKENIZER: 1 << 24, GOLDEN: 1 << 22, SUMS: 1 << 12}
"""Of each file; a multiple of them is taken in memory while they are read."""
NAME, VERSION = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII), re.compile(r"[1-9][0-9]{0,9}", re.ASCII)
"""Names of the two folders of a version in a store, NAME/VERSION; others are not served."""
Weights = Mapping[str, npt.NDArray[np.float32]]


MOST_REASON = 400
"""Characters of what is said of a file, which may repeat what stands in it."""


class ArtifactError(ValueError):
    """A folder that is not a whole and consistent model version; the message names the file and the reason."""

    def __init__(self, path: Path, reason: str) -> None:
        line = "".join(character if character.isprintable() else " " for character in reason[:MOST_REASON])
        super().__init__(f"{path}: {line}")


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class GoldenCase(_Document):
    """An input and the reference's float32 logits ``[num_logits]``."""

    text: str | None = None
    token_ids: Annotated[list[int], Field(min_length=1), FailFast()]
    logits: Annotated[list[Annotated[float, Field(allow_inf_nan=False)]], FailFast()]


class _Golden(_Document):
    cases: Annotated[list[GoldenCase], Field(min_length=1), FailFast()]


class _Config(_Document):
    format_version: Literal[1]
    model: ModelConfig


class Artifact(NamedTuple):
    """A verified model version; `weights` are float32 with the names of `config.tensor_shapes()`."""

    config: ModelConfig
    weights: Weights
    tokenizer: Tokenizer | None
    golden: list[GoldenCase]


def complete_versions(folder: Path) -> list[int]:
    """The complete versions of the model in `folder`, the highest first: those with their digests, written last.

    What cannot be read is not complete.
    """
    try:
        names = [path.name for path in folder.iterdir() if VERSION.fullmatch(path.name)]
    except OSError:
        return []
    return sorted((int(name) for name in names if _is_file(folder / name / SUMS)), reverse=True)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # its folder cannot be entered
        return False


def version_digest(folder: Path) -> str:
    """Of the list of the version's digests: another one, and it is not the same version any more. Raises OSError."""
    with (folder / SUMS).open("rb") as file:
        return hashlib.sha256(file.read(MOST_BYTES[SUMS] + 1)).hexdigest()


def read_artifact(folder: Path) -> Artifact:
    """Reads and verifies a version; each file is read once, so what was verified is what is used.

    Raises ArtifactError, naming the file and the reason.
    """
    sums = _sums(folder)

    def covered(name: str, most: int = 1 << 62) -> tuple[Path, bytes]:
        content = _read(folder / name, min(most, MOST_BYTES[name]))
        if hashlib.sha256(content).hexdigest() != sums[name]:
            raise ArtifactError(folder / name, f"differs from its digest in {SUMS}: damaged, or changed afterwards")
        return folder / name, content

    config = _read_config(*covered(CONFIG))
    values = sum(map(math.prod, config.tensor_shapes().values()))
    weights = _read_weights(*covered(WEIGHTS, 4 * values + MOST_HEADER), config)
    tokenizer = _read_tokenizer(*covered(TOKENIZER), config) if TOKENIZER in sums else None
    return Artifact(config, weights, tokenizer, _read_golden(*covered(GOLDEN), config, tokenizer))


def write_artifact(
    folder: Path,
    artifact: Artifact,
    *,
    extras: Mapping[str, bytes] | None = None,
    weights_dtype: type[np.floating] = np.float32,
) -> None:
    """Writes a version that appears under its name whole or not at all, and with it the folders above.

    `extras` are uncovered files (model card, plots). Raises ArtifactError when `folder` is there already, or when what
    was written cannot be read back (weights beyond float16); OSError.
    """
    if folder.exists():
        raise ArtifactError(folder, "exists already; versions never change: write the next number")
    config = {"format_version": FORMAT_VERSION, "model": artifact.config.model_dump(mode="json")}
    golden = _Golden(cases=artifact.golden).model_dump(mode="json")
    with np.errstate(over="ignore"):
        stored = {name: np.ascontiguousarray(array, weights_dtype) for name, array in artifact.weights.items()}
    covered = {CONFIG: _json(config), WEIGHTS: safetensors.numpy.save(stored), GOLDEN: _json(golden)}
    if artifact.tokenizer is not None:
        covered[TOKENIZER] = artifact.tokenizer.to_json().encode()
    sums = "".join(f"{hashlib.sha256(covered[name]).hexdigest()}  {name}\n" for name in sorted(covered))
    made = [parent for parent in folder.parents if not parent.exists()]
    partial = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
        for name, content in {**(extras or {}), **covered, SUMS: sums.encode()}.items():
            write_durably(partial / name, content)
        read_artifact(partial)
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        _remove_empty(made)
        raise
    for entry in (folder, *made):
        sync_folder(entry.parent)


def _remove_empty(folders: Iterable[Path]) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):  # never made, or somebody else's by now
            folder.rmdir()


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


def _sums(folder: Path) -> dict[str, str]:
    """The digest of each covered file."""
    if not folder.is_dir():
        raise ArtifactError(folder, "no such folder")
    if not (folder / SUMS).exists() and (versions := complete_versions(folder)):
        raise ArtifactError(folder, f"is not a version (no {SUMS}): name one, such as {folder / str(versions[0])}")
    sums = _read_sums(folder / SUMS)
    if missing := [name for name in REQUIRED if name not in sums]:
        raise ArtifactError(folder / SUMS, f"does not cover {missing[0]}")
    if TOKENIZER not in sums and (folder / TOKENIZER).exists():
        raise ArtifactError(folder / TOKENIZER, f"is not covered by {SUMS}")
    return sums


def _read(path: Path, most: int) -> bytes:
    """The content of a file of at most so many bytes; a pipe or a device would never come to its end."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ArtifactError(path, "is not a regular file")
        if status.st_size > most:
            raise ArtifactError(path, f"has {status.st_size} bytes, at most {most} are read")
        with path.open("rb") as file:
            return file.read(status.st_size)
    except OSError as error:
        raise ArtifactError(path, f"cannot be read: {error.strerror}") from error


def _read_sums(path: Path) -> dict[str, str]:
    sums: dict[str, str] = {}
    *lines, rest = _read(path, MOST_BYTES[SUMS]).decode(errors="replace").split("\n")
    if rest or not lines:
        raise ArtifactError(path, "is cut short: the version is not complete")
    for number, line in enumerate(lines, start=1):
        match = re.fullmatch(r"([0-9a-f]{64})  (\S+)", line)
        if match is None or match[2] not in (*REQUIRED, TOKENIZER) or match[2] in sums:
            raise ArtifactError(path, f"line {number} is not a digest of one of the version's files")
        sums[match[2]] = match[1]
    return sums


def _read_config(path: Path, content: bytes) -> ModelConfig:
    try:
        version = from_json(content).get("format_version")
    except (ValueError, AttributeError) as error:
        raise ArtifactError(path, f"is not a JSON object: {error}") from error
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise ArtifactError(
            path, f"has format version {version}, newer than {FORMAT_VERSION}: it needs a newer lstm-serve"
        )
    try:
        return _Config.model_validate_json(content).model
    except ValidationError as error:
        raise ArtifactError(path, first_error(error)) from error


def _read_weights(path: Path, content: bytes, config: ModelConfig) -> Weights:
    if (header := int.from_bytes(content[:8], "little")) > MOST_HEADER:
        raise ArtifactError(path, f"is not a safetensors file of float tensors: its header has {header} bytes")
    try:
        tensors = safetensors.numpy.load(content)
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise ArtifactError(path, f"is not a safetensors file of float tensors: {error}") from error
    expected = config.tensor_shapes()
    if missing := sorted(expected.keys() - tensors.keys()):
        raise ArtifactError(path, f"has no tensor {missing[0]}, which the configuration asks for")
    if unknown := sorted(tensors.keys() - expected.keys()):
        raise ArtifactError(path, f"has a tensor {unknown[0]}, which the configuration does not know")
    weights = {}
    for name, shape in expected.items():
        tensor = tensors[name]
        if tensor.shape != shape:
            raise ArtifactError(path, f"{name} has shape {list(tensor.shape)}, the configuration says {list(shape)}")
        if tensor.dtype not in (np.float16, np.float32):
            raise ArtifactError(path, f"{name} is {tensor.dtype}, not float32 or float16")
        weights[name] = tensor.astype(np.float32, copy=False)
        if not np.isfinite(weights[name]).all():
            raise ArtifactError(path, f"{name} holds values that are not finite")
    return weights


def _read_tokenizer(path: Path, content: bytes, config: ModelConfig) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_json(content.decode())
    except ValueError as error:
        raise ArtifactError(path, str(error)) from error
    if tokenizer.vocab_size > config.vocab_size:
        raise ArtifactError(
            path, f"gives token ids up to {tokenizer.vocab_size - 1}, the embedding has {config.vocab_size} rows"
        )
    return tokenizer


def _read_golden(path: Path, content: bytes, config: ModelConfig, tokenizer: Tokenizer | None) -> list[GoldenCase]:
    try:
        cases = _Golden.model_validate_json(content).cases
    except ValidationError as error:
        raise ArtifactError(path, first_error(error)) from error
    for number, case in enumerate(cases):
        if len(case.logits) != config.num_logits:
            raise ArtifactError(path, f"case {number} has {len(case.logits)} logits, the model {config.num_logits}")
        if len(case.token_ids) > config.max_length:
            raise ArtifactError(path, f"case {number} is longer than the model's {config.max_length} tokens")
        if not all(0 <= token < config.vocab_size for token in case.token_ids):
            raise ArtifactError(path, f"case {number} has a token id outside the vocabulary of {config.vocab_size}")
    if tokenizer is not None:
        _check_texts(path, cases, config, tokenizer)
    return cases


def _check_texts(path: Path, cases: list[GoldenCase], config: ModelConfig, tokenizer: Tokenizer) -> None:
    """Raises ArtifactError where the tokenizer reads the text of a case otherwise than it was read."""
    spoken = [(number, case.text) for number, case in enumerate(cases) if case.text is not None]
    try:
        read = tokenizer.encode([text for _, text in spoken])
    except (ValueError, RuntimeError) as error:
        raise ArtifactError(path, f"a text cannot be tokenised: {error}") from error
    for (number, _), token_ids in zip(spoken, read, strict=True):
        if token_ids[: config.max_length] != cases[number].token_ids:
            raise ArtifactError(path, f"case {number} has other token ids than {TOKENIZER} gives its text")

"""One model version on disk: config, weights, tokenizer and golden cases, sealed by their digests. No torch.

    config.json         {"format_version": 1, "model": ModelConfig}
    model.safetensors   PyTorch parameter names; float32 or float16
    tokenizer.json      Hugging Face tokenizers; absent where the version serves token ids only
    golden.json         {"cases": [{"text", "token_ids", "logits"}]}: float32 logits of the torch CPU reference
    SHA256SUMS          digests of the above, in the form of sha256sum(1), written last: no version without it

Anything else in the folder (README.md, plots, metrics) is not covered. The digests detect damage, not forgery.
"""

import contextlib
import hashlib
import json
import re
import secrets
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy
from pydantic import BaseModel, ConfigDict, Field, ValidationError

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
NAME, VERSION = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII), re.compile(r"[1-9][0-9]{0,9}", re.ASCII)
"""Names of the two folders of a version in a store, NAME/VERSION; others are not served."""
Weights = Mapping[str, npt.NDArray[np.float32]]


class ArtifactError(ValueError):
    """A folder that is not a whole and consistent model version; the message names the file and the reason."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class GoldenCase(_Document):
    """An input and the reference's float32 logits ``[num_logits]``."""

    text: str | None = None
    token_ids: list[int] = Field(min_length=1)
    logits: list[Annotated[float, Field(allow_inf_nan=False)]]


class _Golden(_Document):
    cases: list[GoldenCase] = Field(min_length=1)


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
    return hashlib.sha256((folder / SUMS).read_bytes()).hexdigest()


def read_artifact(folder: Path) -> Artifact:
    """Reads and verifies a version; each file is read once, so what was verified is what is used.

    Raises ArtifactError, naming the file and the reason.
    """
    files = _read_files(folder)
    config = _read_config(folder / CONFIG, files[CONFIG])
    weights = _read_weights(folder / WEIGHTS, files[WEIGHTS], config)
    tokenizer = _read_tokenizer(folder / TOKENIZER, files[TOKENIZER], config) if TOKENIZER in files else None
    return Artifact(config, weights, tokenizer, _read_golden(folder / GOLDEN, files[GOLDEN], config))


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


def _read_files(folder: Path) -> dict[str, bytes]:
    """Contents of the covered files, each of which has the digest that SHA256SUMS gives."""
    if not folder.is_dir():
        raise ArtifactError(folder, "no such folder")
    if not (folder / SUMS).exists() and (versions := complete_versions(folder)):
        raise ArtifactError(folder, f"is not a version (no {SUMS}): name one, such as {folder / str(versions[0])}")
    sums = _read_sums(folder / SUMS)
    if missing := [name for name in REQUIRED if name not in sums]:
        raise ArtifactError(folder / SUMS, f"does not cover {missing[0]}")
    if TOKENIZER not in sums and (folder / TOKENIZER).exists():
        raise ArtifactError(folder / TOKENIZER, f"is not covered by {SUMS}")
    files = {}
    for name, digest in sums.items():
        files[name] = _read(folder / name)
        if hashlib.sha256(files[name]).hexdigest() != digest:
            raise ArtifactError(folder / name, f"differs from its digest in {SUMS}: damaged, or changed afterwards")
    return files


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ArtifactError(path, f"cannot be read: {error.strerror}") from error


def _read_sums(path: Path) -> dict[str, str]:
    sums: dict[str, str] = {}
    *lines, rest = _read(path).decode(errors="replace").split("\n")
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
        version = json.loads(content).get("format_version")
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


def _read_golden(path: Path, content: bytes, config: ModelConfig) -> list[GoldenCase]:
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
    return cases

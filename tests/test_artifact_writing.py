"""Writing a version: whole or not at all."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.artifact import SUMS, Artifact, ArtifactError, read_artifact, write_artifact, write_durably
from tests.tiny import tiny_artifact, write_tiny

FILES = ("config.json", "model.safetensors", "golden.json", "tokenizer.json", "SHA256SUMS", "README.md")


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    return tiny_artifact()


def test_a_version_never_changes(tmp_path: Path, artifact: Artifact) -> None:
    folder = tmp_path / "1"
    write_tiny(folder, seed=1)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ArtifactError, match="exists already; versions never change"):
        write_artifact(folder, artifact)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    empty = folder.parent / "2"
    empty.mkdir()
    with pytest.raises(ArtifactError, match="exists already"):
        write_artifact(empty, artifact)


class Fault:
    """Raises at the n-th call of a function, and counts the calls."""

    def __init__(self, function: Callable[..., Any], at: int, error: BaseException) -> None:
        self.function, self.at, self.error, self.calls = function, at, error, 0

    def __call__(self, *arguments: Any) -> Any:
        self.calls += 1
        if self.calls == self.at:
            raise self.error
        return self.function(*arguments)


def faults() -> Iterator[tuple[str, int, BaseException]]:
    for call, calls in (("fsync", len(FILES)), ("rename", len(FILES) + 1)):
        for at in range(1, calls + 1):
            yield call, at, OSError(28, "No space left on device") if at % 2 else KeyboardInterrupt()


@pytest.mark.parametrize(("call", "at", "error"), list(faults()))
def test_a_failed_write_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, artifact: Artifact, call: str, at: int, error: BaseException
) -> None:
    fault = Fault(os.fsync if call == "fsync" else Path.rename, at, error)
    with monkeypatch.context() as patch:
        if call == "fsync":
            patch.setattr(os, "fsync", fault)
        else:
            patch.setattr(Path, "rename", lambda self, target: fault(self, target))
        with pytest.raises(type(error)):
            write_artifact(tmp_path / "1", artifact, extras={"README.md": b"card"})
    assert list(tmp_path.iterdir()) == []
    write_artifact(tmp_path / "1", artifact, extras={"README.md": b"card"})
    read_artifact(tmp_path / "1")


def test_the_faults_above_are_all_there_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, artifact: Artifact
) -> None:
    synced, renamed = Fault(os.fsync, 0, OSError()), Fault(Path.rename, 0, OSError())
    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "rename", lambda self, target: renamed(self, target))
    write_artifact(tmp_path / "1", artifact, extras={"README.md": b"card"})
    assert (synced.calls, renamed.calls) == (len(FILES), len(FILES) + 1)


def test_the_digests_are_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, artifact: Artifact) -> None:
    order: list[str] = []
    rename = Path.rename

    def record(path: Path, target: Path) -> Path:
        order.append(target.name)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", record)
    write_artifact(tmp_path / "1", artifact, extras={"README.md": b"card"})
    assert order[-2:] == [SUMS, "1"]


def test_a_failed_write_of_a_file_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metrics.json"
    write_durably(path, b"old")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", Fault(os.fsync, 1, OSError(5, "Input/output error")))
        with pytest.raises(OSError, match="Input/output error"):
            write_durably(path, b"new")
    assert path.read_bytes() == b"old"
    write_durably(path, b"new")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("metrics.json", b"new")]


def test_what_cannot_be_read_back_gets_no_name(tmp_path: Path, artifact: Artifact) -> None:
    weights = {name: array * np.float32(1e6) for name, array in artifact.weights.items()}
    with pytest.raises(ArtifactError, match=r"embedding\.weight holds values that are not finite"):
        write_artifact(tmp_path / "1", artifact._replace(weights=weights), weights_dtype=np.float16)
    assert list(tmp_path.iterdir()) == []

"""Writing a version: whole or not at all."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.artifact import SUMS, Artifact, ArtifactError, read_artifact, write_artifact
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

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self.calls += 1
        if self.calls == self.at:
            raise self.error
        return self.function(*arguments, **options)


def inject(patch: pytest.MonkeyPatch, call: str, at: int, error: BaseException) -> Fault:
    """Faults in ``os.fsync``, or in ``Path.rename`` or ``Path.mkdir``."""
    owner: Any = os if call == "fsync" else Path
    fault = Fault(getattr(owner, call), at, error)
    patch.setattr(owner, call, lambda *arguments, **options: fault(*arguments, **options))
    return fault


def faults() -> Iterator[tuple[str, int, BaseException]]:
    for call, calls in (("fsync", 2 * len(FILES)), ("rename", len(FILES) + 1), ("mkdir", 4)):
        for at in range(1, calls + 1):
            yield call, at, OSError(28, "No space left on device") if at % 2 else KeyboardInterrupt()


@pytest.mark.parametrize(("call", "at", "error"), list(faults()))
def test_a_failed_write_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, artifact: Artifact, call: str, at: int, error: BaseException
) -> None:
    folder = tmp_path / "store" / "tiny" / "1"
    with monkeypatch.context() as patch:
        inject(patch, call, at, error)
        with pytest.raises(type(error)):
            write_artifact(folder, artifact, extras={"README.md": b"card"})
    assert list(tmp_path.iterdir()) == []
    write_artifact(folder, artifact, extras={"README.md": b"card"})
    read_artifact(folder)


def test_the_faults_above_are_all_there_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, artifact: Artifact
) -> None:
    """But for the last syncs, of the names of the version and of the two folders above it."""
    synced, renamed, made = (inject(monkeypatch, call, 0, OSError()) for call in ("fsync", "rename", "mkdir"))
    write_artifact(tmp_path / "store" / "tiny" / "1", artifact, extras={"README.md": b"card"})
    assert (synced.calls, renamed.calls, made.calls) == (2 * len(FILES) + 3, len(FILES) + 1, 4)


def test_a_version_whose_name_cannot_be_synced_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, artifact: Artifact
) -> None:
    with monkeypatch.context() as patch:
        inject(patch, "fsync", 2 * len(FILES) - 1, OSError(5, "Input/output error"))
        with pytest.raises(OSError, match="Input/output error"):
            write_artifact(tmp_path / "1", artifact)
    assert [path.name for path in tmp_path.iterdir()] == ["1"]
    read_artifact(tmp_path / "1")


def test_folders_that_were_there_or_are_in_use_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, artifact: Artifact
) -> None:
    (tmp_path / "store").mkdir()
    rename = Path.rename

    def fail(path: Path, target: Path) -> Path:
        if target.name != "1":
            return rename(path, target)
        (tmp_path / "store" / "tiny" / "2").mkdir()  # by another process
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", fail)
        with pytest.raises(OSError, match="No space left"):
            write_artifact(tmp_path / "store" / "tiny" / "1", artifact)
    assert [path.name for path in tmp_path.rglob("*")] == ["store", "tiny", "2"]
    (tmp_path / "store" / "tiny" / "2").rmdir()
    (tmp_path / "store" / "tiny").rmdir()
    inject(monkeypatch, "rename", 1, OSError(28, "No space left on device"))
    with pytest.raises(OSError, match="No space left"):
        write_artifact(tmp_path / "store" / "tiny" / "1", artifact)
    assert [path.name for path in tmp_path.rglob("*")] == ["store"]


@pytest.mark.parametrize(("mask", "folder_mode", "file_mode"), [(0o027, 0o750, 0o640), (0o002, 0o775, 0o664)])
def test_the_umask_decides_who_may_read(
    tmp_path: Path, artifact: Artifact, mask: int, folder_mode: int, file_mode: int
) -> None:
    before = os.umask(mask)
    try:
        write_artifact(tmp_path / "1", artifact)
    finally:
        os.umask(before)
    assert (tmp_path / "1").stat().st_mode & 0o777 == folder_mode
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "1").iterdir()} == {file_mode}


def test_the_digests_are_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, artifact: Artifact) -> None:
    order: list[str] = []
    rename = Path.rename

    def record(path: Path, target: Path) -> Path:
        order.append(target.name)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", record)
    write_artifact(tmp_path / "1", artifact, extras={"README.md": b"card"})
    assert order[-2:] == [SUMS, "1"]


def test_what_cannot_be_read_back_gets_no_name(tmp_path: Path, artifact: Artifact) -> None:
    weights = {name: array * np.float32(1e6) for name, array in artifact.weights.items()}
    with pytest.raises(ArtifactError, match=r"embedding\.weight holds values that are not finite"):
        write_artifact(tmp_path / "1", artifact._replace(weights=weights), weights_dtype=np.float16)
    assert list(tmp_path.iterdir()) == []

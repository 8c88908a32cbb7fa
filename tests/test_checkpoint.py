"""A checkpoint is one file: whatever ends the process, the run can be resumed or started."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from models.checkpoint import (
    CHECKPOINT,
    CheckpointError,
    check_new,
    has_checkpoint,
    load_checkpoint,
    remove_checkpoint,
    save_checkpoint,
    working_folder,
)

SETTINGS = {"seed": 0, "labels": ["a", "b"], "label_map": {"a": "b"}, "threads": None, "dropout": 0.5}


class Killed(BaseException):
    """As SIGKILL, after which nothing is tidied up."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return working_folder(tmp_path / "1")


def test_round_trip(folder: Path) -> None:
    assert not has_checkpoint(folder)
    for epoch in (1, 2):
        save_checkpoint(folder, SETTINGS, {"epoch": epoch, "weights": torch.ones(3)})
    assert [path.name for path in folder.iterdir()] == [CHECKPOINT]
    state = load_checkpoint(folder, SETTINGS)
    assert state["epoch"] == 2
    assert state["weights"].tolist() == [1, 1, 1]
    remove_checkpoint(folder)
    assert not folder.exists()


@pytest.mark.parametrize("at", range(1, 6))
@pytest.mark.parametrize("saved", [False, True])
def test_a_run_killed_while_it_saves_can_be_resumed_or_started(
    folder: Path, monkeypatch: pytest.MonkeyPatch, saved: bool, at: int
) -> None:
    """Killed at the `at`-th of: making the folder, opening the file, its fsync, its rename, the folder's fsync."""
    if saved:
        save_checkpoint(folder, SETTINGS, {"epoch": 1})
    calls = 0

    def killing(function: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == at:
                raise Killed
            return function(*arguments, **options)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", lambda *_, **__: None)
        for owner, name in ((Path, "mkdir"), (Path, "open"), (os, "fsync"), (Path, "rename")):
            patch.setattr(owner, name, killing(getattr(owner, name)))
        with pytest.raises(Killed):
            save_checkpoint(folder, SETTINGS, {"epoch": 2})
    if has_checkpoint(folder):
        assert load_checkpoint(folder, SETTINGS)["epoch"] == (2 if at == 5 else 1)
        with pytest.raises(CheckpointError, match="go on with --resume"):
            check_new(folder)
    else:
        assert not saved
        check_new(folder)
        with pytest.raises(CheckpointError, match="leave --resume out"):
            load_checkpoint(folder, SETTINGS)
    save_checkpoint(folder, SETTINGS, {"epoch": 3})
    remove_checkpoint(folder)
    assert not folder.exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"seed": 1}, "made with --seed 0, not 1"),
        ({"labels": ["b", "a"]}, r'made with --labels \["a", "b"\], not \["b", "a"\]'),
        ({"label_map": {}}, r'made with --label-map {"a": "b"}, not {}'),
        ({"threads": 2}, "made with --threads null, not 2"),
        ({"cell": "gru"}, 'made with --cell null, not "gru"'),
    ],
)
def test_other_settings_are_refused(folder: Path, change: dict[str, Any], reason: str) -> None:
    save_checkpoint(folder, SETTINGS, {})
    with pytest.raises(CheckpointError, match=f"^{folder}: {reason}; resume with the same settings"):
        load_checkpoint(folder, SETTINGS | change)


@pytest.mark.parametrize("content", [{"epoch": 1}, [], torch.zeros(2)])
def test_what_is_no_checkpoint_is_damaged(folder: Path, content: Any) -> None:
    folder.mkdir(parents=True)
    torch.save(content, folder / CHECKPOINT)
    with pytest.raises(CheckpointError, match="the checkpoint is damaged"):
        load_checkpoint(folder, SETTINGS)


def test_what_else_is_in_the_folder_is_kept(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("mine")
    check_new(folder)
    save_checkpoint(folder, SETTINGS, {})
    remove_checkpoint(folder)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


def test_a_file_in_the_folder_s_place_is_refused(folder: Path) -> None:
    folder.write_text("a file")
    with pytest.raises(CheckpointError, match="is not a folder, but checkpoints go there"):
        check_new(folder)

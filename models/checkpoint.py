"""The state of an unfinished training run on disk: ``<out>.training/`` beside the version folder it will become."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from models.durable import write_durably

CHECKPOINT = "checkpoint.pt"
"""Settings and state in one file, which is replaced as one."""


class CheckpointError(ValueError):
    """A run that cannot be started or resumed; the message names the folder and the remedy."""


def working_folder(out: Path) -> Path:
    return out.with_name(f"{out.name}.training")


def has_checkpoint(folder: Path) -> bool:
    return (folder / CHECKPOINT).exists()


def save_checkpoint(folder: Path, settings: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Replaces the folder's checkpoint, whole or not at all. `settings` is plain data, `state` holds tensors too."""
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    torch.save({"settings": dict(settings), "state": dict(state)}, buffer)
    write_durably(folder / CHECKPOINT, buffer.getvalue())


def load_checkpoint(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The saved state, tensors on the CPU. Raises CheckpointError, also where it was made with other settings."""
    if not has_checkpoint(folder):
        raise CheckpointError(f"{folder}: no checkpoint to resume; leave --resume out to start from the beginning")
    try:
        checkpoint = torch.load(folder / CHECKPOINT, map_location="cpu", weights_only=True)
        saved: dict[str, Any] = checkpoint["settings"]
        state: dict[str, Any] = checkpoint["state"]
    except Exception as error:  # whatever the bytes make torch stumble over: KeyError, EOFError, RuntimeError, ...
        kind = type(error).__name__
        raise CheckpointError(
            f"{folder}: the checkpoint is damaged ({kind}); delete the folder to start again"
        ) from error
    for name in sorted(saved.keys() | settings.keys()):
        if saved.get(name) != settings.get(name):
            raise CheckpointError(
                f"{folder}: made with --{name.replace('_', '-')} {_shown(saved.get(name))}, not "
                f"{_shown(settings.get(name))}; resume with the same settings, or delete the folder to start again"
            )
    return state


def check_new(folder: Path) -> None:
    """Raises CheckpointError where an unfinished run would be overwritten."""
    if has_checkpoint(folder):
        raise CheckpointError(
            f"{folder}: holds an unfinished run; go on with --resume, or delete the folder to start again"
        )
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder}: is not a folder, but checkpoints go there; remove it")


def remove_checkpoint(folder: Path) -> None:
    """Removes the folder too where nothing else is in it."""
    (folder / CHECKPOINT).unlink()
    if not any(folder.iterdir()):
        folder.rmdir()


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)

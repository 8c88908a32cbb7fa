"""The state of an unfinished training run on disk: ``<out>.training/`` beside the version folder it will become."""

import io
import json
import pickle
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from models.artifact import write_durably

CHECKPOINT, SETTINGS = "checkpoint.pt", "settings.json"


class CheckpointError(ValueError):
    """A run that cannot be started or resumed; the message names the folder and the remedy."""


def working_folder(out: Path) -> Path:
    return out.with_name(f"{out.name}.training")


def save_checkpoint(folder: Path, settings: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Replaces the folder's checkpoint, whole or not at all. `state` holds tensors and plain data."""
    folder.mkdir(parents=True, exist_ok=True)
    write_durably(folder / SETTINGS, (json.dumps(settings, indent=1, ensure_ascii=False) + "\n").encode())
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    write_durably(folder / CHECKPOINT, buffer.getvalue())


def load_checkpoint(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The saved state, tensors on the CPU. Raises CheckpointError, also where it was made with other settings."""
    if not (folder / CHECKPOINT).exists():
        raise CheckpointError(f"{folder}: no checkpoint to resume; leave --resume out to start from the beginning")
    try:
        saved = json.loads((folder / SETTINGS).read_bytes())
        state: dict[str, Any] = torch.load(folder / CHECKPOINT, map_location="cpu", weights_only=True)
    except (ValueError, OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
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
    if folder.exists():
        raise CheckpointError(
            f"{folder}: holds an unfinished run; go on with --resume, or delete the folder to start again"
        )


def remove_checkpoint(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)

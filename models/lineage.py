"""The training runs that have made a version, one after another, as its ``metrics.json`` has them. No torch."""

import json
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

METRICS = "metrics.json"

Finite = Annotated[float, Field(allow_inf_nan=False)]


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True)


class LanguageEpoch(_Document):
    epoch: int
    train_loss: Finite
    validation_loss: Finite
    perplexity: Finite


class Language(_Document):
    """What a run has learned from texts without labels, of which there were `unlabelled`."""

    unlabelled: int
    epochs: Annotated[list[LanguageEpoch], Field(min_length=1)]


class Making(_Document):
    """One run: `files` are names and SHA-256 digests of what it read."""

    command: str
    seconds: Finite
    hardware: str
    files: list[tuple[str, str]]
    language: Language | None = None


_MAKINGS = TypeAdapter(list[Making])


def read_lineage(folder: Path) -> list[Making]:
    """Of a version, the first run first; none of one that training has not made, or of which nobody knows."""
    try:
        return _MAKINGS.validate_json(json.dumps(json.loads((folder / METRICS).read_bytes())["made_by"]))
    except (OSError, ValueError, KeyError, TypeError):  # the version's digests do not cover this file
        return []

"""The models that serve, in memory: one version of each, swapped whole."""

from collections import deque
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import NamedTuple

from models.artifact import GoldenCase
from models.config import ModelConfig
from models.tokenizer import Tokenizer
from service.errors import UnknownModel


class Model(NamedTuple):
    """A version that serves. Whoever has it keeps it, and its weights, until he lets go of it."""

    name: str
    version: int
    config: ModelConfig
    weights: Hashable
    precision: str
    tokenizer: Tokenizer | None = None
    tokenizer_digest: str = ""
    """Of the file; empty without a tokenizer. Token ids mean the same in two versions where it is the same."""
    unknown_id: int | None = None
    """The token id of what is not in the vocabulary, where there is one."""
    golden: tuple[GoldenCase, ...] = ()
    digest: str = ""
    """Of the list of its files' digests: what the version is, whatever its number."""
    folder: Path | None = None
    """Where it was read from."""


class Repository:
    """The models that serve, by name; the one named `default` answers where a route names none.

    `keep` token sequences of each model are kept of those that were answered last, to try a new version on.
    """

    def __init__(self, default: str, *, keep: int = 0) -> None:
        self.default = default
        self._keep = keep
        self._models: dict[str, Model] = {}
        self._served: dict[str, deque[tuple[str, list[int]]]] = {}

    def get(self, name: str | None = None, version: int | None = None) -> Model:
        """Raises UnknownModel."""
        try:
            model = self._models[name or self.default]
        except KeyError as error:
            raise UnknownModel(f"no model {name or self.default!r}; there are: {self._names()}") from error
        if version not in (None, model.version):
            raise UnknownModel(f"version {version} of {model.name!r} does not serve: {model.version} does")
        return model

    def put(self, model: Model) -> None:
        """From the next request on it serves, in the place of the version that did."""
        self._models[model.name] = model

    def remove(self, name: str) -> Model:
        """What served. Raises UnknownModel."""
        model = self.get(name)
        del self._models[name]
        self._served.pop(name, None)
        return model

    def note(self, model: Model, token_ids: list[list[int]]) -> None:
        """Sequences that it has answered."""
        if self._keep and model.name in self._models:
            served = self._served.setdefault(model.name, deque(maxlen=self._keep))
            served.extend((model.tokenizer_digest, tokens) for tokens in token_ids)

    def served(self, model: Model) -> list[list[int]]:
        """The sequences kept for its name whose token ids mean the same to it."""
        return [tokens for digest, tokens in self._served.get(model.name, ()) if digest == model.tokenizer_digest]

    def __iter__(self) -> Iterator[Model]:
        return iter(self._models.values())

    def __contains__(self, name: str) -> bool:
        return name in self._models

    def _names(self) -> str:
        return ", ".join(self._models) or "none"

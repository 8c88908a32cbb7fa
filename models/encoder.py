"""What a network begins with instead of chance: the tokenizer, the embedding and the recurrent layers of a version."""

from pathlib import Path
from typing import Any, NamedTuple, Self

from models.artifact import ArtifactError, Weights, read_artifact
from models.config import ModelConfig
from models.lineage import Making, read_lineage
from models.settings import OF_ENCODER, TrainingSettings
from models.tokenizer import Tokenizer


class Encoder(NamedTuple):
    config: ModelConfig
    tokenizer: Tokenizer
    weights: Weights
    made_by: list[Making]

    @property
    def sizes(self) -> dict[str, Any]:
        """Settings of a training run that it decides."""
        return {name: value for name, value in self.config if name in OF_ENCODER}

    def reading(self, tokenizer: Tokenizer) -> Self:
        """With the rows of `tokenizer`, whose tokens are among its own."""
        if tokenizer is self.tokenizer:
            return self
        old, new = self.tokenizer.tokens(), tokenizer.tokens()
        ids = {token: number for number, token in enumerate(old)}
        rows = self.weights["embedding.weight"][[ids[token] for token in new]]
        config = self.config.model_copy(
            update={"vocab_size": len(new), "pad_id": new.index(old[self.config.pad_id])},
        )
        return self._replace(config=config, tokenizer=tokenizer, weights={**self.weights, "embedding.weight": rows})


def read_encoder(folder: Path, settings: TrainingSettings) -> Encoder:
    """`settings` are those of the training that it is for. Raises ArtifactError."""
    config, weights, tokenizer, _ = read_artifact(folder)
    if tokenizer is None:
        raise ArtifactError(folder, "has no tokenizer and reads token ids only: texts cannot train it further")
    if settings.word_dropout and tokenizer.unknown_id is None:
        raise ArtifactError(folder, "its tokenizer has no unknown token to show for others: give --word-dropout 0")
    return Encoder(config, tokenizer, weights, read_lineage(folder))

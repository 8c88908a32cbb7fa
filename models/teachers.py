"""What other model versions say of texts: targets from which a network learns to judge as they do."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from models.artifact import ArtifactError, read_artifact
from models.batches import predict_sequences
from models.network import SequenceClassifier
from models.scores import scores

Scores = npt.NDArray[np.float64]


def teach(
    teachers: Sequence[Path],
    labels: Sequence[str],
    texts: Sequence[str],
    device: torch.device,
    on_batch: Callable[[int], object] = lambda texts: None,
) -> Scores:
    """The mean of the teachers' scores ``[texts, labels]`` (distillation, Hinton et al. 2015).

    Each has its own tokenizer; of a text in which it finds no token its scores are equal. `on_batch` is told how many
    texts each batch had. Raises ArtifactError, also for a teacher of other classes.
    """
    total = np.zeros((len(texts), len(labels)))
    for folder in teachers:
        config, weights, tokenizer, _ = read_artifact(folder)
        if tokenizer is None:
            raise ArtifactError(folder, "has no tokenizer and reads token ids only: it cannot teach from texts")
        if config.output == "sigmoid" or config.labels != tuple(labels):
            raise ArtifactError(
                folder, f"tells {', '.join(config.labels)} apart, not {', '.join(labels)}: it cannot teach these"
            )
        network = SequenceClassifier.from_weights(config, weights).to(device)
        sequences = [tokens[: config.max_length] for tokens in tokenizer.encode(list(texts))]
        readable = [index for index, tokens in enumerate(sequences) if tokens]
        said = np.full_like(total, 1 / len(labels))
        logits = predict_sequences(network, [sequences[index] for index in readable], on_batch=on_batch)
        said[readable] = scores(logits, config)
        total += said / len(teachers)
    return total

"""The torch engine: packed sequences through ``nn.LSTM/GRU/RNN``, on CPU or GPU; any configuration."""

import torch

from models.artifact import Artifact
from models.network import SequenceClassifier
from service.errors import EngineFailed
from service.sequence import Outcome, Sequence


def cuda_available() -> bool:
    return torch.cuda.is_available()


def prepare() -> None:
    """Sets torch up for engine threads of one core each.

    torch's own threads would be made anew for every engine thread and all contend for the same cores.
    """
    torch.set_num_threads(1)
    # full float32 products: a GPU's TF32 would break the golden cases
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def load(artifact: Artifact, device: str) -> SequenceClassifier:
    """The version's network on `device`, read-only, shared by all engine threads."""
    return SequenceClassifier.from_weights(artifact.config, artifact.weights).to(device)


class PackedEngine:
    """Runs whole sequences: a step takes as many as the budget covers, at least one, and runs them to the end."""

    def __init__(self) -> None:
        self._started: dict[Sequence, None] = {}

    def start(self, sequence: Sequence) -> None:
        self._started[sequence] = None

    def cancel(self, sequence: Sequence) -> None:
        del self._started[sequence]

    def step(self, budget: int) -> list[Outcome]:
        """Runs the oldest sequences of one version, of at most `budget` tokens together."""
        batch: list[Sequence] = []
        for sequence in self._started:
            budget -= len(sequence.token_ids)
            if batch and (budget < 0 or sequence.weights is not batch[0].weights):
                break
            batch.append(sequence)
        for sequence in batch:
            del self._started[sequence]
        return _run(batch) if batch else []


def _run(batch: list[Sequence]) -> list[Outcome]:
    network = batch[0].weights
    assert isinstance(network, SequenceClassifier)
    try:
        logits = network.predict([sequence.token_ids for sequence in batch])
    except Exception as error:
        if len(batch) == 1:
            return [Outcome(batch[0], error)]
        # one sequence that cannot be computed must not fail its neighbours
        return [outcome for sequence in batch for outcome in _run([sequence])]
    return [
        Outcome(sequence, row if (row - row == 0).all() else EngineFailed("the model's logits are not finite"))
        for sequence, row in zip(batch, logits, strict=True)
    ]

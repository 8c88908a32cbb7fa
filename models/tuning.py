"""The stage that learns the classes, from labelled texts."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel

from models.adversary import virtual_adversarial_loss
from models.batches import Batch, predict_sequences, training_batches
from models.corpus import Corpus
from models.metrics import measure
from models.network import SequenceClassifier
from models.processes import ALONE, Processes
from models.run import DivergedError, Outcome, Record, Run
from models.scores import scores
from models.settings import TrainingSettings
from models.teachers import Scores


class Tuning(Run):
    """Keeps the weights of its best epoch, and ends some epochs after it."""

    name, rate_option = "classes", "--learning-rate"

    def __init__(
        self,
        settings: TrainingSettings,
        corpus: Corpus,
        network: SequenceClassifier,
        taught: Scores | None = None,
        processes: Processes = ALONE,
    ) -> None:
        """`taught` ``[texts, classes]``: what teachers say of the corpus's texts."""
        optimiser = torch.optim.AdamW(_groups(settings, network), weight_decay=settings.weight_decay, fused=True)
        super().__init__(
            settings,
            network,
            optimiser,
            epochs=settings.epochs,
            learning_rate=settings.learning_rate,
            processes=processes,
        )
        self.corpus, self.network, self._unknown = corpus, network, corpus.tokenizer.unknown_id
        self.average = AveragedModel(network, avg_fn=self._averaged) if settings.average else None
        self._sequences = corpus.training.sequences
        if settings.vat or taught is not None:
            self._sequences = [*self._sequences, *corpus.unlabelled]
        self._targets = torch.from_numpy(_targets(settings, corpus, taught)).float()
        self._lengths = np.array([len(sequence) for sequence in self._sequences])
        self.best_epoch, self.best_weights = 0, dict[str, Tensor]()

    @property
    def title(self) -> str:
        return f"{self.name} (seed {self.settings.seed})" if self.settings.runs > 1 else self.name

    def begin(self) -> None:
        super().begin()
        if not self.best_epoch:
            self.best_weights = _copied(self.network)

    def batches(self) -> list[Batch]:
        return training_batches(
            self._lengths,
            crop=self.settings.crop,
            batch_size=self.settings.batch_size,
            batch_tokens=self.settings.batch_tokens,
            seed=self.settings.seed,
            epoch=self.epoch,
        )

    def loss(self, batch: Batch, mine: Batch) -> Tensor:
        windows = [
            self._sequences[row][start : start + mine.length] for row, start in zip(mine.rows, mine.starts, strict=True)
        ]
        tokens = torch.from_numpy(np.stack(windows))
        if self._unknown is not None:
            tokens[torch.rand(tokens.shape) < self.settings.word_dropout] = self._unknown
        lengths = torch.full((len(windows),), batch.length)
        logits = self.network(tokens.to(self.device), lengths)
        targets = self._targets[mine.rows].to(self.device)
        labelled = self._targets[batch.rows].sum().clamp(min=1).to(self.device)
        loss = functional.cross_entropy(logits.float(), targets, reduction="sum") / labelled
        if self.settings.vat:
            moved = virtual_adversarial_loss(self.network, tokens.to(self.device), self.settings.vat_size)
            loss = loss + self.settings.vat * moved * (len(mine.rows) / len(batch.rows))
        return loss

    def step(self, batch: Batch, rate: float) -> float:
        value = super().step(batch, rate)
        if self.average:
            self.average.update_parameters(self.network)
        return value

    @property
    def judged(self) -> SequenceClassifier:
        """What is validated, and kept: the average of the weights where there is one."""
        if self.average is None:
            return self.network
        assert isinstance(self.average.module, SequenceClassifier)
        return self.average.module

    def validate(self, on_batch: Callable[[int], object]) -> Record:
        """On whole texts, in float32."""
        sequences, targets = self.corpus.validation
        logits = predict_sequences(self.judged.eval(), sequences, on_batch=on_batch)
        if not np.isfinite(logits).all():
            raise DivergedError(
                f"the logits of epoch {self.epoch + 1} are not finite: lower {self.rate_option} or --clip"
            )
        metrics = measure(targets, scores(logits, self.network.config))
        return {"validation_loss": metrics.log_loss, "validation_accuracy": metrics.accuracy}

    def describe(self, record: Record) -> str:
        return (
            f"train loss {record['train_loss']:.4f}, validation loss {record['validation_loss']:.4f}, "
            f"accuracy {record['validation_accuracy']:.4f}" + (" (best)" if self.epoch == self.best_epoch else "")
        )

    def end_epoch(self, *, on_batch: Callable[[int], object]) -> Record:
        record = super().end_epoch(on_batch=on_batch)
        if max(self.history, key=judgement) is record:
            self.best_epoch = self.epoch
            self.best_weights = _copied(self.judged)
        return record

    def outcome(self) -> Outcome:
        return Outcome(self.settings.seed, self.best_weights, self.best_epoch, self.history, self.seconds())

    def finished(self) -> bool:
        return super().finished() or self.epoch - self.best_epoch >= self.settings.patience

    def state(self) -> dict[str, Any]:
        average = self.average.state_dict() if self.average else None
        own = {"average": average, "best_epoch": self.best_epoch, "best_weights": self.best_weights}
        return {**super().state(), **own}

    def load(self, state: dict[str, Any]) -> None:
        super().load(state)
        if self.average:
            self.average.load_state_dict(state["average"])
        self.best_epoch, self.best_weights = state["best_epoch"], state["best_weights"]

    def _averaged(self, average: Tensor, weight: Tensor, steps: Tensor | int) -> Tensor:
        """Exponential, over no more steps than there have been."""
        decay = min(self.settings.average, (1 + int(steps)) / (10 + int(steps)))
        return decay * average + (1 - decay) * weight


def judgement(record: Record) -> tuple[float, float]:
    """The more the better."""
    return record["validation_accuracy"], -record["validation_loss"]


def _copied(network: SequenceClassifier) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def _targets(settings: TrainingSettings, corpus: Corpus, taught: Scores | None) -> Scores:
    """``[texts, classes]``, of a sum of 1; of 0 for a text of which neither a label nor a teacher tells."""
    classes, smoothing = len(corpus.labels), settings.label_smoothing
    labelled = (1 - smoothing) * np.eye(classes)[corpus.training.targets] + smoothing / classes
    if taught is None:
        return np.concatenate([labelled, np.zeros((len(corpus.unlabelled), classes))])
    weight = settings.distil_weight
    return np.concatenate([(1 - weight) * labelled + weight * taught[: len(labelled)], taught[len(labelled) :]])


def _groups(settings: TrainingSettings, network: SequenceClassifier) -> list[dict[str, Any]]:
    """What lies deeper learns more slowly, each part by the same factor, and later (Howard & Ruder 2018, section 3)."""
    parts = [network.linear, network.rnn, network.embedding]
    return [
        {"params": list(part.parameters()), "scale": settings.layer_decay**depth, "first": settings.unfreeze * depth}
        for depth, part in enumerate(parts)
    ]

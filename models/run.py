"""One training run: all that changes while it trains, and so all that a checkpoint holds."""

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from models.batches import Batch, predict_sequences, training_batches
from models.corpus import Corpus
from models.metrics import measure
from models.network import SequenceClassifier
from models.options import TrainingSettings
from models.scores import scores
from models.tokenizer import UNK_ID


class DivergedError(ValueError):
    """A loss, or logits in validation, that are not finite."""


class Run:
    def __init__(
        self,
        settings: TrainingSettings,
        corpus: Corpus,
        network: SequenceClassifier,
        optimiser: torch.optim.Optimizer,
    ) -> None:
        self.settings, self.corpus, self.network, self.optimiser = settings, corpus, network, optimiser
        self.device = network.linear.weight.device
        self.epoch, self.position, self.loss_sum = 0, 0, 0.0
        self.history: list[dict[str, float]] = []
        self.best_epoch, self.best_weights = 0, dict[str, torch.Tensor]()
        self._seconds, self._started = 0.0, time.monotonic()

    def batches(self) -> list[Batch]:
        """Those of the current epoch, of which `position` are done."""
        return training_batches(
            self.corpus.training.lengths,
            crop=self.settings.crop,
            batch_size=self.settings.batch_size,
            batch_tokens=self.settings.batch_tokens,
            seed=self.settings.seed,
            epoch=self.epoch,
        )

    def step(self, batch: Batch, rate: float) -> float:
        """One step of the optimiser; gives the batch's mean loss in nats. Raises DivergedError."""
        sequences, targets = self.corpus.training
        windows = [
            sequences[row][start : start + batch.length] for row, start in zip(batch.rows, batch.starts, strict=True)
        ]
        tokens = torch.from_numpy(np.stack(windows))
        tokens[torch.rand(tokens.shape) < self.settings.word_dropout] = UNK_ID
        lengths = torch.full((len(windows),), batch.length)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.precision == "bfloat16"):
            logits = self.network(tokens.to(self.device), lengths)
        target = torch.from_numpy(targets[batch.rows]).to(self.device)
        loss = functional.cross_entropy(logits.float(), target, label_smoothing=self.settings.label_smoothing)
        value = loss.item()
        if not math.isfinite(value):
            raise DivergedError(f"the loss of epoch {self.epoch + 1} is not finite: lower --learning-rate or --clip")
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.clip)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        self.position += 1
        self.loss_sum += value * len(windows)
        return value

    def end_epoch(self, on_batch: Callable[[int], object]) -> bool:
        """Validates, on whole texts in float32; says whether this epoch is the best so far.

        Nothing has changed when `on_batch`, told the texts of each batch, raises. Raises DivergedError.
        """
        sequences, targets = self.corpus.validation
        logits = predict_sequences(self.network.eval(), sequences, on_batch=on_batch)
        if not np.isfinite(logits).all():
            raise DivergedError(f"the logits of epoch {self.epoch + 1} are not finite: lower --learning-rate or --clip")
        metrics = measure(targets, scores(logits, self.network.config))
        record = {
            "epoch": self.epoch + 1,
            "train_loss": self.loss_sum / len(self.corpus.training.sequences),
            "validation_loss": metrics.log_loss,
            "validation_accuracy": metrics.accuracy,
        }
        self.history.append(record)
        best = max(self.history, key=lambda each: (each["validation_accuracy"], -each["validation_loss"])) is record
        self.epoch, self.position, self.loss_sum = self.epoch + 1, 0, 0.0
        if best:
            self.best_epoch = self.epoch
            self.best_weights = {name: tensor.clone() for name, tensor in self.network.state_dict().items()}
        return best

    def finished(self) -> bool:
        return self.epoch == self.settings.epochs or self.epoch - self.best_epoch >= self.settings.patience

    def seconds(self) -> float:
        """Time spent, in all processes that the run has had."""
        return self._seconds + time.monotonic() - self._started

    def state(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state() if self.device.type == "cuda" else None,
            "progress": [self.epoch, self.position, self.loss_sum, self.best_epoch, self.seconds()],
            "history": self.history,
            "best_weights": self.best_weights,
        }

    def load(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        torch.set_rng_state(state["random"])
        if state["random_cuda"] is not None:
            torch.cuda.set_rng_state(state["random_cuda"])
        self.epoch, self.position, self.loss_sum, self.best_epoch, self._seconds = state["progress"]
        self.history, self.best_weights = state["history"], state["best_weights"]

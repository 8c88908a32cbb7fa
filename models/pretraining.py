"""The stage that learns a language, from texts without labels: the embedding and recurrent layers come out of it."""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.batches import Batch
from models.corpus import Corpus
from models.language import LanguageModel
from models.network import SequenceClassifier
from models.processes import ALONE, Processes
from models.run import DivergedError, Outcome, Record, Run
from models.settings import TrainingSettings

VALIDATION_WINDOWS = 256
"""Of the validation part's texts, for the perplexity; their labels are not looked at."""


class Pretraining(Run):
    """Texts follow each other in an order of each epoch's own and are cut into windows of one length."""

    name, rate_option = "language", "--pretrain-learning-rate"

    def __init__(
        self,
        settings: TrainingSettings,
        corpus: Corpus,
        network: SequenceClassifier,
        processes: Processes = ALONE,
    ) -> None:
        self._texts = [*corpus.training.sequences, *corpus.unlabelled]
        self._window = settings.pretrain_window
        counts = np.bincount(np.concatenate(self._texts), minlength=network.config.vocab_size)
        model = LanguageModel(network, torch.from_numpy(counts), settings.negatives, settings.weight_drop)
        model.to(network.linear.weight.device)
        optimiser = torch.optim.AdamW(model.parameters(), weight_decay=0.0, fused=True)
        super().__init__(
            settings,
            model,
            optimiser,
            epochs=settings.pretrain_epochs,
            learning_rate=settings.pretrain_learning_rate,
            processes=processes,
        )
        self._model, self._network = model, network
        held = np.concatenate(corpus.validation.sequences)
        self._validation = windows(held, min(self._window, len(held)))[:VALIDATION_WINDOWS]
        self._drawn: tuple[int, npt.NDArray[np.int64]] | None = None

    def batches(self) -> list[Batch]:
        number = sum(map(len, self._texts)) // self._window
        order = np.random.default_rng((self.settings.seed, self.epoch, 1)).permutation(number)
        size = max(1, min(self.settings.batch_size, self.settings.batch_tokens // self._window))
        parts = np.array_split(order, math.ceil(number / size))
        return [Batch(part, np.zeros_like(part), self._window) for part in parts]

    def loss(self, batch: Batch, mine: Batch) -> Tensor:
        tokens = torch.from_numpy(self._windows()[mine.rows]).to(self.device)
        seed = np.random.SeedSequence((self.settings.seed, self.epoch, self.position)).generate_state(1, np.uint64)
        generator = torch.Generator(self.device).manual_seed(int(seed[0]))
        return self._model.sampled_loss(tokens, generator) * (len(mine.rows) / len(batch.rows))

    def validate(self, on_batch: Callable[[int], object]) -> Record:
        losses = []
        self._model.eval()
        with torch.inference_mode():
            for first in range(0, len(self._validation), 16):
                tokens = torch.from_numpy(self._validation[first : first + 16]).to(self.device)
                losses.append(self._model.loss(tokens).item())
                on_batch(len(tokens))
        loss = float(np.mean(losses))
        if not math.isfinite(loss):
            raise DivergedError(f"the loss of epoch {self.epoch + 1} is not finite: lower {self.rate_option} or --clip")
        return {"validation_loss": loss, "perplexity": math.exp(min(loss, 700))}

    def outcome(self) -> Outcome:
        weights = self._network.state_dict()
        return Outcome(self.settings.seed, weights, self.epoch, self.history, self.seconds())

    def describe(self, record: Record) -> str:
        return f"train loss {record['train_loss']:.4f} (sampled), validation perplexity {record['perplexity']:.1f}"

    def _windows(self) -> npt.NDArray[np.int64]:
        """Of the current epoch, ``[windows, length]``."""
        if self._drawn is None or self._drawn[0] != self.epoch:
            order = np.random.default_rng((self.settings.seed, self.epoch)).permutation(len(self._texts))
            self._drawn = self.epoch, windows(np.concatenate([self._texts[index] for index in order]), self._window)
        return self._drawn[1]


def windows(tokens: npt.NDArray[np.int64], length: int) -> npt.NDArray[np.int64]:
    """``[windows, length]``; what is left at the end is dropped."""
    return tokens[: len(tokens) // length * length].reshape(-1, length)

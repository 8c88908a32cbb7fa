"""The stages of a training run, in their order: the language where it is asked for, then the classes."""

from collections.abc import Sequence

import torch

from models.artifact import Weights
from models.config import ModelConfig
from models.corpus import Corpus
from models.network import SequenceClassifier
from models.pretraining import Pretraining
from models.processes import ALONE, Processes
from models.run import Outcome, Run
from models.settings import TrainingSettings
from models.teachers import Scores
from models.tuning import Tuning


class Stages:
    """The classes are learned `settings.runs` times, each with a seed of its own and from the same encoder."""

    def __init__(
        self,
        settings: TrainingSettings,
        config: ModelConfig,
        corpus: Corpus,
        device: torch.device,
        *,
        encoder: Weights | None = None,
        taught: Scores | None = None,
        processes: Processes = ALONE,
    ) -> None:
        """`encoder`: what the first stage begins with, weights by their names in the network."""
        self._settings, self._config, self._corpus, self._device = settings, config, corpus, device
        self._encoder = {name: torch.from_numpy(array) for name, array in (encoder or {}).items()}
        self._taught, self._processes = taught, processes
        self._language = int(settings.learns_language)

    def __len__(self) -> int:
        return self._language + self._settings.runs

    def run(self, done: Sequence[Outcome]) -> Run:
        """The stage that comes after those that are `done`, at its beginning; torch's random state is its own."""
        number = len(done) - self._language
        settings = TrainingSettings(**vars(self._settings))
        settings.seed += max(number, 0)
        torch.manual_seed(settings.seed)
        network = SequenceClassifier(self._config)
        torch.nn.init.normal_(network.embedding.weight, std=0.1)
        learned = done[0].weights if done and self._language else self._encoder
        inner = {name: tensor for name, tensor in learned.items() if not name.startswith("linear.")}
        network.load_state_dict(network.state_dict() | inner)
        network.to(self._device)
        run: Run
        if number < 0:
            run = Pretraining(settings, self._corpus, network, self._processes)
        else:
            run = Tuning(settings, self._corpus, network, self._taught, self._processes)
        if self._processes.rank:
            torch.manual_seed((settings.seed << 16) + self._processes.rank)  # what is dropped is drawn by each alone
        return run

    def language(self, done: Sequence[Outcome]) -> Sequence[Outcome]:
        """Of the stages that are `done` the one that learned the language, if there is one."""
        return done[: self._language]

    def classes(self, done: Sequence[Outcome]) -> Sequence[Outcome]:
        """Of the stages that are `done` those that learned the classes."""
        return done[self._language :]

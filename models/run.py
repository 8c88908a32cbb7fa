"""One stage of a training run: all that changes while it trains, and so all that a checkpoint holds of it."""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from models.batches import Batch
from models.processes import Processes
from models.settings import TrainingSettings

Record = dict[str, float]
"""What an epoch came to: its number from 1, `train_loss` and figures of the stage's own."""


class Outcome(NamedTuple):
    """What a stage has come to: `weights`, by their names in the network, are those of `best_epoch`, from 1."""

    seed: int
    weights: dict[str, Tensor]
    best_epoch: int
    history: list[Record]
    seconds: float

    @property
    def best(self) -> Record:
        """The record of the best epoch; empty where there was none."""
        return self.history[self.best_epoch - 1] if self.history else {}


class DivergedError(ValueError):
    """A loss, or logits in validation, that are not finite."""


class Run(ABC):
    """`module` is what is trained, by groups of `optimiser`.

    A group's ``scale`` multiplies the rate of a step, and until its epoch ``first``, counted from 0, it stays as it is.
    """

    name: ClassVar[str]
    """Of the stage."""
    rate_option: ClassVar[str]
    """What sets its learning rate."""

    def __init__(
        self,
        settings: TrainingSettings,
        module: nn.Module,
        optimiser: torch.optim.Optimizer,
        *,
        epochs: int,
        learning_rate: float,
        processes: Processes,
    ) -> None:
        """`learning_rate`: the highest."""
        self.settings, self.module, self.optimiser, self.processes = settings, module, optimiser, processes
        self.epochs, self.learning_rate = epochs, learning_rate
        self.device = next(module.parameters()).device
        self.epoch, self.position, self.loss_sum, self.rows, self.steps = 0, 0, 0.0, 0, 0
        self.history: list[Record] = []
        self._seconds, self._began = 0.0, math.nan

    @property
    def title(self) -> str:
        """The stage as progress calls it."""
        return self.name

    @abstractmethod
    def batches(self) -> list[Batch]:
        """Those of the current epoch, of which `position` are done; as many in every epoch."""

    @abstractmethod
    def loss(self, batch: Batch, mine: Batch) -> Tensor:
        """What `mine`, a part of the batch, has in the batch's mean loss, in nats."""

    @abstractmethod
    def validate(self, on_batch: Callable[[int], object]) -> Record:
        """Figures of the epoch that has ended. `on_batch` is told how many texts each batch had.

        Raises DivergedError.
        """

    @abstractmethod
    def outcome(self) -> Outcome:
        """Once it is finished."""

    @abstractmethod
    def describe(self, record: Record) -> str:
        """An epoch in words."""

    def step(self, batch: Batch, rate: float) -> float:
        """One step of the optimiser, by all processes; gives the batch's loss. Raises DivergedError."""
        mine = self.processes.share(batch)
        self.optimiser.zero_grad()
        loss = torch.zeros((), device=self.device)
        if len(mine.rows):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.precision == "bfloat16"):
                loss = self.loss(batch, mine)
            loss.backward()  # type: ignore[no-untyped-call]
        value = self.processes.add_up(loss, self.module.parameters())
        if not math.isfinite(value):
            raise DivergedError(f"the loss of epoch {self.epoch + 1} is not finite: lower {self.rate_option} or --clip")
        nn.utils.clip_grad_norm_(self.module.parameters(), self.settings.clip)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group.get("scale", 1.0) * (self.epoch >= group.get("first", 0))
        self.optimiser.step()
        self.position += 1
        self.steps += 1
        self.rows += len(batch.rows)
        self.loss_sum += value * len(batch.rows)
        return value

    def end_epoch(self, *, on_batch: Callable[[int], object]) -> Record:
        """Nothing has changed when `on_batch` raises. Raises DivergedError."""
        validated = self.processes.of_first(self.validate(on_batch))
        record = {"epoch": self.epoch + 1, "train_loss": self.loss_sum / self.rows, **validated}
        self.history.append(record)
        self.epoch, self.position, self.loss_sum, self.rows = self.epoch + 1, 0, 0.0, 0
        return record

    def finished(self) -> bool:
        return self.epoch == self.epochs

    def begin(self) -> None:
        """From now the stage's time counts."""
        self._began = time.monotonic()

    def seconds(self) -> float:
        """Time spent since the stage began, in all processes that it has had."""
        return self._seconds + (0.0 if math.isnan(self._began) else time.monotonic() - self._began)

    def state(self) -> dict[str, Any]:
        """Alike in all processes, which have to ask for it together."""
        cuda = torch.cuda.get_rng_state() if self.device.type == "cuda" else None
        return {
            "module": self.module.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "random": self.processes.of_all((torch.get_rng_state(), cuda)),
            "progress": [self.epoch, self.position, self.loss_sum, self.rows, self.steps, self.seconds()],
            "history": self.history,
        }

    def load(self, state: dict[str, Any]) -> None:
        self.module.load_state_dict(state["module"])
        self.optimiser.load_state_dict(state["optimiser"])
        random, cuda = state["random"][self.processes.rank]
        torch.set_rng_state(random)
        if cuda is not None:
            torch.cuda.set_rng_state(cuda)
        self.epoch, self.position, self.loss_sum, self.rows, self.steps, self._seconds = state["progress"]
        self.history = state["history"]

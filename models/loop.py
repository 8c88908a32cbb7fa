"""Steps, epochs and stages of a training run, one after another, and when they are saved."""

import contextlib
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from models.checkpoint import save_checkpoint
from models.processes import Processes
from models.progress import TrainingProgress
from models.run import Outcome, Run
from models.settings import TrainingSettings
from models.stages import Stages

WARM_UP = 0.05
"""Share of all steps in which the learning rate rises."""


class Stop:
    """What the signals asked for; `requested` is set only while they are deferred."""

    requested = False
    deferring = False

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """The first signal within only sets `requested`, for whoever looks; at the latest the end interrupts."""
        self.deferring = True
        try:
            yield
        finally:
            self.deferring = False
        if self.requested:
            raise KeyboardInterrupt


class Loop:
    """Saves wherever it can go on from; KeyboardInterrupt leaves a checkpoint of the last step."""

    def __init__(
        self, settings: TrainingSettings, identity: Mapping[str, Any], folder: Path, processes: Processes, stop: Stop
    ) -> None:
        """`folder` is that of the checkpoint, `identity` what it is of."""
        self._settings, self._identity, self._folder = settings, identity, folder
        self._processes, self._stop = processes, stop
        self._done: list[Outcome] = []
        self._next_save = math.inf

    def run(self, stages: Stages, saved: Mapping[str, Any] | None, console: Console) -> list[Outcome]:
        """Of all stages; `saved` is the state of a checkpoint. Raises DivergedError."""
        self._done = [Outcome(**outcome) for outcome in saved["done"]] if saved else []
        state = saved["run"] if saved else None
        self._next_save = time.monotonic() + self._settings.checkpoint_seconds
        while len(self._done) < len(stages):
            run = stages.run(self._done)
            if state:
                run.load(state)
            state = None
            with contextlib.ExitStack() as stack:
                progress = stack.enter_context(TrainingProgress(console, run, self._logs()))
                stack.enter_context(self._stop.deferred())
                self._stage(run, progress)
                self._done.append(run.outcome())
                self._save(None)  # outlives a version that cannot be written
        return self._done

    def _stage(self, run: Run, progress: TrainingProgress) -> None:
        """From where the run is to its end."""
        run.begin()
        total = run.epochs * len(run.batches())
        while not run.finished():
            run.module.train()
            progress.start_epoch()
            for batch in run.batches()[run.position :]:
                rate = learning_rate(run.learning_rate, run.steps, total)
                loss = run.step(batch, rate)
                progress.step(loss, rate, batch.length * len(batch.rows))
                self._checkpoint(run)
            progress.end_epoch(run.end_epoch(on_batch=lambda _: self._checkpoint(run)))

    def _checkpoint(self, run: Run) -> None:
        """All processes save, or stop, at the same step: those that are asked for it."""
        due = self._processes.rank == 0 and time.monotonic() >= self._next_save
        stop, save = self._processes.any(self._stop.requested, due)
        if stop or save:
            self._save(run)
            self._next_save = time.monotonic() + self._settings.checkpoint_seconds
        if stop:
            self._stop.requested = True
            raise KeyboardInterrupt

    def _save(self, run: Run | None) -> None:
        state = {"done": [outcome._asdict() for outcome in self._done], "run": run.state() if run else None}
        if self._processes.rank == 0:
            save_checkpoint(self._folder, self._identity, state)

    def _logs(self) -> Path | None:
        return self._settings.tensorboard if self._processes.rank == 0 else None


def learning_rate(highest: float, step: int, total: int) -> float:
    """Linear warm-up, then half a cosine down towards zero (Loshchilov & Hutter 2017); `step` counts from 0."""
    warm_up = WARM_UP * total
    if step < warm_up:
        return highest * (step + 1) / (warm_up + 1)
    return highest * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / (total - warm_up)))

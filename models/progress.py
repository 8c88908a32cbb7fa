"""How far training is: a live bar on a terminal, sparse lines elsewhere; both on standard error."""

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

LINE_SECONDS = 30.0


class TrainingProgress:
    def __init__(self, console: Console, epochs: int, steps: int, done: int) -> None:
        """`steps` of all `epochs`, `done` of them before this process."""
        self._console, self._epochs, self._steps = console, epochs, steps
        self._done, self._loss, self._tokens, self._rate = done, 0.0, 0, 0.0
        self._started = self._printed = time.monotonic()
        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            TextColumn("loss {task.fields[loss]:.4f}  {task.fields[rate]:,.0f} tokens/s"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=steps, completed=done, epoch="", loss=0.0, rate=0.0)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def start_epoch(self) -> None:
        self._started, self._tokens = time.monotonic(), 0

    def step(self, epoch: int, loss: float, tokens: int) -> None:
        """One batch of epoch number `epoch`, from 1, is done."""
        now = time.monotonic()
        self._loss = loss if self._tokens == 0 else 0.98 * self._loss + 0.02 * loss
        self._tokens += tokens
        self._done += 1
        self._rate = self._tokens / max(now - self._started, 1e-9)
        where = f"{epoch}/{self._epochs}"
        self._bar.update(self._task, advance=1, epoch=where, loss=self._loss, rate=self._rate)
        if not self._console.is_terminal and now - self._printed >= LINE_SECONDS:
            self._printed = now
            share = self._done / self._steps
            self.line(f"epoch {where}  {share:.0%} of all  loss {self._loss:.4f}  {self._rate:,.0f} tokens/s")

    def end_epoch(self, record: Mapping[str, float], *, best: bool) -> None:
        self.line(
            f"epoch {record['epoch']}: train loss {record['train_loss']:.4f}, validation loss "
            f"{record['validation_loss']:.4f}, accuracy {record['validation_accuracy']:.4f}, "
            f"{self._rate:,.0f} tokens/s" + (" (best)" if best else "")
        )

    def line(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

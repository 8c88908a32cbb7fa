"""How far training is: a live bar on a terminal, sparse lines elsewhere; both on standard error."""

import time
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from models.logs import TrainingLogs
from models.run import Record, Run

LINE_SECONDS = 30.0


class TrainingProgress:
    """Of one stage, from where its run is."""

    def __init__(self, console: Console, run: Run, logs: Path | None = None) -> None:
        """`logs`: the folder that TensorBoard shows."""
        self._console, self._run = console, run
        self._logs = TrainingLogs(logs, run) if logs else None
        self._steps, self._done = run.epochs * len(run.batches()), run.steps
        self._before = self._done
        self._loss, self._tokens, self._rate = 0.0, 0, 0.0
        self._began = self._started = self._printed = time.monotonic()
        self._bar = Progress(
            TextColumn("{task.fields[stage]}, epoch {task.fields[epoch]}"),
            BarColumn(),
            TextColumn("loss {task.fields[loss]:.4f}  {task.fields[rate]:,.0f} tokens/s"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(
            "", total=self._steps, completed=self._done, stage=run.title, epoch="", loss=0.0, rate=0.0
        )

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
        if self._logs:
            self._logs.close()

    def start_epoch(self) -> None:
        self._started, self._tokens = time.monotonic(), 0

    def step(self, loss: float, rate: float, tokens: int) -> None:
        """One batch of so many tokens is done, at this learning rate."""
        if self._logs:
            self._logs.step(loss, rate)
        now = time.monotonic()
        self._loss = loss if self._tokens == 0 else 0.98 * self._loss + 0.02 * loss
        self._tokens += tokens
        self._done += 1
        self._rate = self._tokens / max(now - self._started, 1e-9)
        where = f"{self._run.epoch + 1}/{self._run.epochs}"
        self._bar.update(self._task, advance=1, epoch=where, loss=self._loss, rate=self._rate)
        if not self._console.is_terminal and now - self._printed >= LINE_SECONDS:
            self._printed = now
            left = (now - self._began) * (self._steps - self._done) / (self._done - self._before)
            self.line(
                f"{self._run.title}, epoch {where}  {self._done / self._steps:.0%} of all  loss {self._loss:.4f}  "
                f"{self._rate:,.0f} tokens/s  {timedelta(seconds=round(left))} left"
            )

    def end_epoch(self, record: Record) -> None:
        if self._logs:
            self._logs.end_epoch(record)
        described = self._run.describe(record)
        self.line(f"{self._run.title}, epoch {record['epoch']}: {described}, {self._rate:,.0f} tokens/s")

    def line(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

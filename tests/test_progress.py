import io

import pytest
from rich.console import Console

from models.progress import TrainingProgress
from models.run import Record


class Halfway:
    """A run that has done two of eight batches."""

    title, epochs, epoch, steps = "language", 2, 0, 2

    def batches(self) -> list[int]:
        return [0] * 4

    def describe(self, record: Record) -> str:
        return f"perplexity {record['perplexity']}"


def test_progress_shows_a_bar_on_a_terminal_and_sparse_lines_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    for terminal in (True, False):
        screen = io.StringIO()
        console = Console(file=screen, force_terminal=terminal, width=120)
        monkeypatch.setattr("models.progress.LINE_SECONDS", 0.0)
        with TrainingProgress(console, Halfway()) as progress:  # type: ignore[arg-type]
            progress.start_epoch()
            for _ in range(2):
                progress.step(0.5, 0.01, 1000)
            progress.end_epoch({"epoch": 1, "perplexity": 7.0})
        shown = screen.getvalue()
        assert "0.5000" in shown
        assert "tokens/s" in shown
        assert "language, epoch 1/2" in shown
        assert "language, epoch 1: perplexity 7.0" in shown
        assert ("━" in shown) == terminal
        assert ("50% of all" in shown) != terminal
        assert ("0:00:00 left" in shown) != terminal

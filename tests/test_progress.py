import io

import pytest
from rich.console import Console

from models.progress import TrainingProgress


def test_progress_shows_a_bar_on_a_terminal_and_sparse_lines_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    for terminal in (True, False):
        screen = io.StringIO()
        console = Console(file=screen, force_terminal=terminal, width=120)
        monkeypatch.setattr("models.progress.LINE_SECONDS", 0.0)
        with TrainingProgress(console, epochs=2, steps=8, done=2) as progress:
            progress.start_epoch()
            for _ in range(2):
                progress.step(1, 0.5, 1000)
        shown = screen.getvalue()
        assert "0.5000" in shown
        assert "tokens/s" in shown
        assert ("━" in shown) == terminal
        assert ("50% of all" in shown) != terminal

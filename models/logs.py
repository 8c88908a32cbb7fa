"""What TensorBoard shows of a training run: one folder of events for each stage."""

from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from models.run import Record, Run


class TrainingLogs:
    """Of one stage, from where its run is: what an earlier process has written of later steps no longer counts."""

    def __init__(self, folder: Path, run: Run) -> None:
        self._run = run
        out = run.settings.out
        stage = folder / f"{out.parent.name}-{out.name}" / f"{run.name}-{run.settings.seed}"
        self._writer = SummaryWriter(stage, purge_step=run.steps + 1)

    def close(self) -> None:
        self._writer.close()

    def step(self, loss: float, rate: float) -> None:
        """One batch is done."""
        self._writer.add_scalar("loss", loss, self._run.steps)
        self._writer.add_scalar("learning_rate", rate, self._run.steps)

    def end_epoch(self, record: Record) -> None:
        for name in record.keys() - {"epoch"}:
            self._writer.add_scalar(name, record[name], self._run.steps)

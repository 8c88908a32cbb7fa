"""The processes of one training run, as torchrun starts them: all do the same, but for their share of each batch."""

import contextlib
import os
from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch
from torch import Tensor, distributed

from models.batches import Batch

Value = TypeVar("Value")


class Processes:
    """`size` of them, `local` on each machine, of which this is number `rank`; a single one waits for nobody.

    Gradients are added up once a step and not by torch's DistributedDataParallel, whose hooks expect one forward pass
    in each.
    """

    def __init__(self, rank: int = 0, size: int = 1, local: int = 1) -> None:
        self.rank, self.size, self.local = rank, size, local
        self._passed: Tensor | None = None
        """Of which gloo's threads may be the last to let go, and then need the interpreter."""

    def share(self, batch: Batch) -> Batch:
        """This process's sequences of a batch; none, where there are fewer than processes."""
        return batch._replace(rows=batch.rows[self.rank :: self.size], starts=batch.starts[self.rank :: self.size])

    def add_up(self, loss: Tensor, parameters: Iterable[torch.nn.Parameter]) -> float:
        """Makes all gradients the sum of those that the processes have, and gives the sum of their losses."""
        if self.size == 1:
            return loss.item()
        weights = list(parameters)
        parts = [weight.grad if weight.grad is not None else torch.zeros_like(weight) for weight in weights]
        flat = torch.cat([loss.detach().float().reshape(1), *(part.flatten() for part in parts)])
        self._passed = flat
        distributed.all_reduce(flat)
        totals = torch.split(flat[1:], [weight.numel() for weight in weights])
        for weight, total in zip(weights, totals, strict=True):
            weight.grad = total.view_as(weight)
        return flat[0].item()

    def any(self, *mine: bool) -> list[bool]:
        """Of each question whether one of the processes says yes."""
        if self.size == 1:
            return list(mine)
        said = torch.tensor(mine, dtype=torch.int32, device=_device())
        self._passed = said
        distributed.all_reduce(said, distributed.ReduceOp.MAX)
        return [bool(answer) for answer in said.tolist()]

    def of_first(self, mine: Value) -> Value:
        """What the first process has."""
        if self.size == 1:
            return mine
        held = [mine]
        distributed.broadcast_object_list(held, src=0)
        return held[0]

    def of_all(self, mine: Value) -> list[Value]:
        """What each process has, by rank."""
        if self.size == 1:
            return [mine]
        held: list[Value] = [mine] * self.size
        distributed.all_gather_object(held, mine)
        return held


ALONE = Processes()


def _device() -> str:
    """Of what the backend passes on."""
    return "cuda" if distributed.get_backend() == "nccl" else "cpu"


def started() -> Processes:
    """Those that torchrun says there are (its environment variables)."""
    rank, size, local = (int(os.environ.get(name, 1)) for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    return Processes(rank, size, local) if size > 1 else ALONE


@contextlib.contextmanager
def joined(processes: Processes, device: torch.device) -> Iterator[None]:
    """They can talk to each other within."""
    if processes.size == 1:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
        distributed.barrier()  # one that ends earlier may be aborted by gloo's threads
    finally:
        distributed.destroy_process_group()

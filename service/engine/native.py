"""The native engine: sequences stepped together in lanes by threads of C++ (``native/``), without the interpreter."""

from collections.abc import Callable, Hashable
from typing import NamedTuple
from weakref import ref

import service.engine._core as _core  # not `from`: what is missing then is this module
from models.artifact import Artifact
from models.config import ModelConfig
from service.engine import Pulse, Work
from service.engine.bell import Bell
from service.errors import BackendError, DeadlineExceeded, EngineFailed, EngineLost
from service.sequence import Outcome, Sequence

DONE = int(_core.Ending.DONE)
ERRORS: dict[int, Callable[[], Exception]] = {
    int(_core.Ending.OVERDUE): DeadlineExceeded,
    int(_core.Ending.NOT_FINITE): lambda: EngineFailed("the model's logits are not finite"),
    int(_core.Ending.NO_MEMORY): lambda: EngineFailed("there is not enough memory for the sequence"),
    int(_core.Ending.LOST): EngineLost,
}
"""What becomes of a sequence without logits, but for one that was cancelled: of that nothing is heard."""


class Table(NamedTuple):
    """What the table of a model takes, and the model whose place that one took."""

    model: ref[_core.Model]
    size: int  # bytes
    replaces: ref[_core.Model] | None


class NativeEngine:
    """Weights are folded into tables of at most `table_mb` MiB in all: the models loaded first get what they need.

    One step is one of a direction of a layer of a model, by one thread; a lane step of it is one token of a sequence.
    Raises BackendError where this CPU does not have `precision` (auto, float32, bfloat16).
    """

    name = "native"
    device = "cpu"

    def __init__(self, *, threads: int, lanes: int, precision: str, table_mb: int) -> None:
        fastest = {kind: path for path, kind in reversed(_core.paths())}
        wanted = ("bfloat16", "float32") if precision == "auto" else (precision,)
        self.precisions = {kind: fastest[kind] for kind in wanted if kind in fastest}
        if not self.precisions:
            raise BackendError(
                f"LSTMSERVE_PRECISION={precision}: this CPU has no {precision} products; set "
                "LSTMSERVE_PRECISION=float32 or auto"
            )
        self.threads = threads
        self._table_bytes = table_mb << 20
        self._tables: list[Table] = []  # for `load` alone, which may run beside all else
        self._capacity = 2 * threads * lanes  # more than have lanes: the engine fills a free one by itself
        self._held: dict[int, Sequence | None] = {}
        self._tickets: dict[Sequence, int] = {}
        self._bell = Bell()
        try:
            self._core = _core.Engine(threads, lanes, self._bell.far)
        except RuntimeError as error:
            self._bell.close()
            raise BackendError(
                f"{threads} engine threads cannot be started ({error}): set fewer (LSTMSERVE_THREADS)"
            ) from error

    @property
    def work(self) -> Work:
        return Work(*self._core.work())

    @property
    def pulses(self) -> list[Pulse]:
        return [Pulse(*pulse) for pulse in self._core.pulses()]

    @property
    def failures(self) -> int:
        return self._core.failures()

    def load(self, artifact: Artifact, precision: str, replaces: Hashable | None = None) -> _core.Model:
        assert replaces is None or isinstance(replaces, _core.Model)
        path, sizes = self.precisions[precision], sizes_of(artifact.config)
        row_bytes = _core.row_bytes(path, sizes)
        rows = min(artifact.config.vocab_size, self._table_room(replaces) // row_bytes)
        model = _core.Model(path, sizes, artifact.weights, rows, self.threads)
        self._tables.append(Table(ref(model), rows * row_bytes, ref(replaces) if replaces else None))
        return model

    def _table_room(self, replaces: _core.Model | None) -> int:
        """Bytes for the table of a new model: what no living model takes, or one only whose successor lives."""
        self._tables = [table for table in self._tables if table.model()]
        leaving = {replaces, *(table.replaces() for table in self._tables if table.replaces)}
        return self._table_bytes - sum(table.size for table in self._tables if table.model() not in leaving)

    @property
    def room(self) -> int:
        return self._capacity - len(self._held)

    def start(self, sequence: Sequence) -> None:
        assert isinstance(sequence.weights, _core.Model)
        ticket = self._core.start(sequence.weights, sequence.token_ids, sequence.deadline)
        self._held[ticket] = sequence
        self._tickets[sequence] = ticket

    def cancel(self, sequence: Sequence) -> None:
        ticket = self._tickets.pop(sequence)
        self._held[ticket] = None
        self._core.cancel(ticket)

    def fileno(self) -> int:
        return self._bell.fileno()

    def collect(self) -> list[Outcome]:
        self._bell.silence()
        outcomes = []
        for ticket, ending, started, logits in self._core.collect():
            sequence = self._held.pop(ticket)
            if sequence is None:
                continue
            del self._tickets[sequence]
            sequence.started = started
            outcomes.append(Outcome(sequence, logits if ending == DONE else ERRORS[ending]()))
        return outcomes

    def close(self) -> bool:
        ended = self._core.close()
        self._bell.close()
        return ended


def sizes_of(config: ModelConfig) -> dict[str, object]:
    """What the native core asks of a configuration."""
    names = ("cell", "vocab_size", "embedding_dim", "hidden_size", "num_layers", "num_directions", "proj_size")
    return {name: getattr(config, name) for name in (*names, "pooling", "num_logits")}

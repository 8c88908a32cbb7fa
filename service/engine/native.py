"""The native engine: sequences stepped together in lanes by threads of C++ (``native/``), without the interpreter."""

from collections.abc import Callable
from weakref import WeakKeyDictionary

import service.engine._core as _core  # not `from`: what is missing then is this module
from models.artifact import Artifact
from models.config import ModelConfig
from service.engine.bell import Bell
from service.errors import BackendError, DeadlineExceeded, EngineFailed
from service.sequence import Outcome, Sequence

DONE = int(_core.Ending.DONE)
ERRORS: dict[int, Callable[[], Exception]] = {
    int(_core.Ending.OVERDUE): DeadlineExceeded,
    int(_core.Ending.NOT_FINITE): lambda: EngineFailed("the model's logits are not finite"),
    int(_core.Ending.NO_MEMORY): lambda: EngineFailed("there is not enough memory for the sequence"),
}
"""What becomes of a sequence without logits, but for one that was cancelled: of that nothing is heard."""


class NativeEngine:
    """Weights are folded into tables of at most `table_mb` MiB in all: the models loaded first get what they need.

    Raises BackendError where this CPU does not have `precision` (auto, float32, bfloat16).
    """

    name = "native"
    device = "cpu"
    healthy = True  # a C++ thread ends with the process or by `close`

    def __init__(self, *, threads: int, lanes: int, precision: str, table_mb: int) -> None:
        fastest = {kind: path for path, kind in reversed(_core.paths())}
        wanted = ("bfloat16", "float32") if precision == "auto" else (precision,)
        self.precisions = {kind: fastest[kind] for kind in wanted if kind in fastest}
        if not self.precisions:
            raise BackendError(f"precision {precision}: this CPU has no {precision} products; set float32 or auto")
        self.threads = threads
        self._table_bytes = table_mb << 20
        self._tables: WeakKeyDictionary[_core.Model, int] = WeakKeyDictionary()
        self._capacity = 2 * threads * lanes  # more than have lanes: the engine fills a free one by itself
        self._held: dict[int, Sequence | None] = {}
        self._tickets: dict[Sequence, int] = {}
        self._bell = Bell()
        try:
            self._core = _core.Engine(threads, lanes, self._bell.far)
        except RuntimeError as error:
            self._bell.close()
            raise BackendError(f"{threads} engine threads cannot be started ({error}): set fewer threads") from error

    def load(self, artifact: Artifact, precision: str) -> _core.Model:
        path, sizes = self.precisions[precision], sizes_of(artifact.config)
        row_bytes = _core.row_bytes(path, sizes)
        room = self._table_bytes - sum(self._tables.values())
        rows = min(artifact.config.vocab_size, room // row_bytes)
        model = _core.Model(path, sizes, artifact.weights, rows, self.threads)
        self._tables[model] = rows * row_bytes
        return model

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
        self._core.close()
        self._bell.close()
        return True


def sizes_of(config: ModelConfig) -> dict[str, object]:
    """What the native core asks of a configuration."""
    names = ("cell", "vocab_size", "embedding_dim", "hidden_size", "num_layers", "num_directions", "proj_size")
    return {name: getattr(config, name) for name in (*names, "pooling", "num_logits")}

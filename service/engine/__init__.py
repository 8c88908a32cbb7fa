"""The seam between serving and computing, and the choice of what stands behind it."""

import importlib.util
import logging
import os
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from models.artifact import Artifact
from service.engine.cores import usable_cores
from service.errors import BackendError
from service.sequence import Outcome, Sequence
from service.settings import Settings

log = logging.getLogger(__name__)

NOT_BUILT = "the native engine is not built (needs a C++17 compiler when lstm-serve is installed)"
NO_TORCH = "torch is not installed: pip install 'lstm-serve[torch]'"


class Work(NamedTuple):
    """How much an engine has computed since its start; both only grow.

    `lane_steps` are the lanes that were live in the `steps`, summed: over `steps`, the live lanes per step. What a lane
    is depends on the engine: each says so.
    """

    steps: int
    lane_steps: int


class Pulse(NamedTuple):
    """Of one thread: `beats` grows with every bounded piece of its work, and it is `busy` while it holds any."""

    beats: int
    busy: bool


class Engine(Protocol):
    """Computes sequences on threads of its own; this side of it is used from one thread, but for two methods.

    `load` may be called from another thread, one load at a time, while all else is used; weights may be let go of in
    any thread, also during a load. `close` may be called from another thread too, as it waits; from then on only `work`
    may be asked for.

    Every started sequence comes back from `collect` exactly once, unless it was cancelled: then never. A thread that
    fails is replaced; what it held comes back with EngineLost.
    """

    name: str
    device: str
    threads: int

    @property
    def precisions(self) -> Mapping[str, str]:
        """What `load` takes, the preferred one first (``bfloat16``, ``float32``), and what computes in it."""

    @property
    def work(self) -> Work:
        """What all threads have computed, told without blocking; a sequence that was collected is in it."""

    def load(self, artifact: Artifact, precision: str, replaces: Hashable | None = None) -> Hashable:
        """A version's weights made ready for all threads. Raises RuntimeError or MemoryError where they do not fit.

        `replaces`: what an earlier load gave for the version that this one takes the place of. It goes soon, so what
        it takes of a limit on memory is there for this one.
        """

    @property
    def room(self) -> int:
        """Sequences that it takes now; grows only with `collect`."""

    def start(self, sequence: Sequence) -> None:
        """Takes a sequence; never blocks. Raises for one that it cannot take, and holds nothing of it then."""

    def cancel(self, sequence: Sequence) -> None:
        """A started sequence that has not come back never will; a later `collect` frees its place."""

    def fileno(self) -> int:
        """A descriptor that is readable while there may be something to collect, a cancelled one's place included."""

    def collect(self) -> list[Outcome]:
        """What came to its end since the last call, `started` set; never blocks.

        A sequence that cannot be computed ends with an error of its own; raising means that the engine is broken.
        """

    @property
    def pulses(self) -> list[Pulse]:
        """Of every thread, told without blocking."""

    @property
    def failures(self) -> int:
        """Threads that have failed and were replaced since the start."""

    def close(self) -> bool:
        """Ends the threads after the step or batch that each is in, within a bounded time. False: one is stuck."""


def choose(settings: Settings) -> Engine:
    """The engine that `settings` ask for: packed on cuda, native on the CPU, packed there too where it must be.

    Raises BackendError.
    """
    if _device(settings) == "cuda":
        return _packed(settings, "cuda")
    if settings.engine == "packed":
        return _packed(settings, "cpu")
    if engine := _native(settings):
        return engine
    if settings.engine == "native":
        raise BackendError(
            f"LSTMSERVE_ENGINE=native: {NOT_BUILT}; install a compiler and lstm-serve again, or set "
            "LSTMSERVE_ENGINE=auto"
        )
    if not _torch_installed():
        raise BackendError(f"no engine to run on: {NOT_BUILT}; and {NO_TORCH}")
    engine = _packed(settings, "cpu")
    log.warning("%s: serving on packed, which is slower", NOT_BUILT)
    return engine


def gpu_visible(devices: Path = Path("/dev")) -> bool:
    """Whether torch is there and may find a GPU: told without importing it, which takes seconds and memory."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1", "NoDevFiles")
    nodes = [*devices.glob("nvidia[0-9]*"), *devices.glob("dxg")]
    return bool(nodes) and not hidden and _torch_installed()


def _torch_installed() -> bool:
    return importlib.util.find_spec("torch") is not None


def _device(settings: Settings) -> str:
    if settings.engine == "native" and settings.device == "cuda":
        raise BackendError(
            "LSTMSERVE_ENGINE=native computes on the CPU: set LSTMSERVE_DEVICE=cpu or auto, or LSTMSERVE_ENGINE=auto "
            "or packed"
        )
    if settings.engine == "native" or settings.device == "cpu" or (settings.device == "auto" and not gpu_visible()):
        return "cpu"
    if not _torch_installed():
        raise BackendError(f"LSTMSERVE_DEVICE=cuda: {NO_TORCH}")
    from service.engine import packed

    if packed.cuda_available():
        return "cuda"
    if settings.device == "cuda":
        raise BackendError(
            "LSTMSERVE_DEVICE=cuda: torch sees no GPU; set LSTMSERVE_DEVICE=auto or cpu, or install torch's CUDA build"
        )
    return "cpu"


def _packed(settings: Settings, device: str) -> Engine:
    if settings.precision == "bfloat16":
        raise BackendError(
            f"LSTMSERVE_PRECISION=bfloat16: the engine here is packed on {device}, which computes in float32; set "
            "LSTMSERVE_PRECISION=float32 or auto, or LSTMSERVE_ENGINE=native"
        )
    if not _torch_installed():
        raise BackendError(f"LSTMSERVE_ENGINE=packed: {NO_TORCH}")
    from service.engine import packed

    threads = settings.threads or (usable_cores() if device == "cpu" else 1)
    return packed.PackedEngine(device, threads, settings.lanes, settings.step_tokens)


def _native(settings: Settings) -> Engine | None:
    """None where it is not built."""
    try:
        from service.engine import native
    except ModuleNotFoundError as error:
        if error.name != "service.engine._core":
            raise
        return None
    return native.NativeEngine(
        threads=settings.threads or usable_cores(),
        lanes=settings.lanes,
        precision=settings.precision,
        table_mb=settings.table_mb,
    )

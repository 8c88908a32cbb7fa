"""The seam between serving and computing, and the choice of what stands behind it."""

import importlib.util
import logging
import os
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Protocol

from models.artifact import Artifact
from service.engine.cores import usable_cores
from service.errors import BackendError
from service.sequence import Outcome, Sequence
from service.settings import Settings

log = logging.getLogger(__name__)

NOT_BUILT = "the native engine is not built (needs a C++17 compiler when lstm-serve is installed)"
NO_TORCH = "torch is not installed: pip install 'lstm-serve[torch]'"


class Engine(Protocol):
    """Computes sequences on threads of its own; this side of it is used from one thread.

    Every started sequence comes back from `collect` exactly once, unless it was cancelled: then never.
    """

    name: str
    device: str
    threads: int

    @property
    def precisions(self) -> Mapping[str, str]:
        """What `load` takes, the preferred one first (``bfloat16``, ``float32``), and what computes in it."""

    def load(self, artifact: Artifact, precision: str) -> Hashable:
        """A version's weights made ready for all threads. Raises RuntimeError or MemoryError where they do not fit."""

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
    def healthy(self) -> bool:
        """Whether every thread is alive."""

    def close(self) -> bool:
        """Ends the threads after the step or batch that each is in, within a bounded time. False: one is stuck.

        May be called from another thread, as it waits; nothing else may be called from then on.
        """


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
        raise BackendError(f"engine native: {NOT_BUILT}; install a compiler and lstm-serve again, or set engine auto")
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
        raise BackendError("engine native computes on the CPU: set device cpu or auto, or engine auto or packed")
    if settings.engine == "native" or settings.device == "cpu" or (settings.device == "auto" and not gpu_visible()):
        return "cpu"
    if not _torch_installed():
        raise BackendError(f"device cuda: {NO_TORCH}")
    from service.engine import packed

    if packed.cuda_available():
        return "cuda"
    if settings.device == "cuda":
        raise BackendError("device cuda: torch sees no GPU; choose auto or cpu, or install torch's CUDA build")
    return "cpu"


def _packed(settings: Settings, device: str) -> Engine:
    if settings.precision == "bfloat16":
        raise BackendError(
            f"precision bfloat16: the engine here is packed on {device}, which computes in float32; "
            "set precision float32 or auto, or engine native"
        )
    if not _torch_installed():
        raise BackendError(f"engine packed: {NO_TORCH}")
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

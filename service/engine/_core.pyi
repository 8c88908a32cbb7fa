"""The compiled module (native/bindings.cpp)."""

from collections.abc import Mapping, Sequence
from enum import IntEnum

import numpy as np
import numpy.typing as npt

class Ending(IntEnum):
    DONE = 1
    CANCELLED = 2
    OVERDUE = 3
    NOT_FINITE = 4
    NO_MEMORY = 5
    LOST = 6

class Model:
    def __init__(
        self,
        path: str,
        sizes: Mapping[str, object],
        weights: Mapping[str, npt.NDArray[np.float32]],
        table_rows: int,
        threads: int,
    ) -> None: ...

class Engine:
    def __init__(self, threads: int, lanes: int, bell: int) -> None: ...
    def start(self, model: Model, token_ids: Sequence[int], deadline: float) -> int: ...
    def cancel(self, ticket: int) -> None: ...
    def collect(self) -> list[tuple[int, int, float, list[float]]]: ...
    def work(self) -> tuple[int, int]: ...
    def pulses(self) -> list[tuple[int, bool]]: ...
    def failures(self) -> int: ...
    def close(self) -> bool: ...

def paths() -> list[tuple[str, str]]: ...
def row_bytes(path: str, sizes: Mapping[str, object]) -> int: ...

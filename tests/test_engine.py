"""Which engine is chosen, and what is said where none can run."""

import logging
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from service import engine
from service.engine import Engine, choose, gpu_visible, packed
from service.engine.cores import usable_cores
from service.errors import BackendError
from service.settings import Settings

Choose = Callable[..., Engine]


class Native:
    """Stands for the native engine: keeps what it was made with."""

    name, device = "native", "cpu"

    def __init__(self, **options: Any) -> None:
        self.options = options

    def close(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """No GPU is seen, whatever the machine has."""
    monkeypatch.setattr(engine, "gpu_visible", lambda: False)
    monkeypatch.setattr(packed, "cuda_available", lambda: False)


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> None:
    """The native engine is built."""
    module = types.ModuleType("service.engine.native")
    module.NativeEngine = Native  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "service.engine.native", module)
    monkeypatch.setattr(engine, "native", module, raising=False)


@pytest.fixture
def not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing service.engine._core fails, with it the native engine."""
    monkeypatch.delattr(engine, "native", raising=False)
    monkeypatch.delitem(sys.modules, "service.engine.native", raising=False)

    class Missing:
        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            if name == "service.engine.native":
                raise ModuleNotFoundError("No module named 'service.engine._core'", name="service.engine._core")

    monkeypatch.setattr(sys, "meta_path", [Missing(), *sys.meta_path])


@pytest.fixture
def without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "service.engine.packed")
    monkeypatch.delattr(engine, "packed")
    monkeypatch.setitem(sys.modules, "torch", None)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that torch sees; nothing is computed on it."""
    monkeypatch.setattr(engine, "gpu_visible", lambda: True)
    monkeypatch.setattr(packed, "cuda_available", lambda: True)


@pytest.fixture
def chosen() -> Iterator[Choose]:
    """The engine for the given settings, closed at the end."""
    made: list[Engine] = []

    def one(**settings: Any) -> Engine:
        made.append(choose(Settings(**settings)))
        return made[-1]

    yield one
    assert all(engine.close() for engine in made)


def what(engine: Engine) -> tuple[str, str, int]:
    return engine.name, engine.device, engine.threads


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize("name", ["auto", "native"])
@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_native_on_the_cpu(chosen: Choose, name: str, device: str) -> None:
    engine = chosen(engine=name, device=device, threads=3, lanes=7, precision="bfloat16", table_mb=5)
    assert isinstance(engine, Native)
    assert engine.options == {"threads": 3, "lanes": 7, "precision": "bfloat16", "table_mb": 5}
    engine = chosen(engine=name, device=device)
    assert isinstance(engine, Native)
    assert engine.options == {"threads": usable_cores(), "lanes": 64, "precision": "auto", "table_mb": 192}


@pytest.mark.usefixtures("built", "without_torch")
def test_native_needs_no_torch(chosen: Choose) -> None:
    assert chosen().name == "native"


@pytest.mark.usefixtures("built", "gpu")
def test_a_gpu_is_for_packed(chosen: Choose) -> None:
    assert what(chosen()) == what(chosen(device="cuda")) == what(chosen(engine="packed")) == ("packed", "cuda", 1)
    assert chosen(engine="native").name == chosen(device="cpu").name == "native"
    assert what(chosen(engine="packed", device="cpu", threads=2)) == ("packed", "cpu", 2)


@pytest.mark.usefixtures("built")
def test_a_gpu_that_torch_does_not_see_is_none(chosen: Choose, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "gpu_visible", lambda: True)
    assert chosen().name == "native"
    assert what(chosen(engine="packed", threads=1)) == ("packed", "cpu", 1)


@pytest.mark.usefixtures("not_built")
def test_packed_where_native_is_not_built(chosen: Choose, caplog: pytest.LogCaptureFixture) -> None:
    torch.set_num_threads(2)
    assert what(chosen()) == ("packed", "cpu", usable_cores())
    assert torch.get_num_threads() == 1
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (
            logging.WARNING,
            "the native engine is not built (needs a C++17 compiler when lstm-serve is installed): serving on packed, "
            "which is slower",
        )
    ]


def test_packed_when_asked_for_is_not_remarked_upon(chosen: Choose, caplog: pytest.LogCaptureFixture) -> None:
    assert what(chosen(engine="packed", threads=1)) == ("packed", "cpu", 1)
    assert not caplog.records


@pytest.mark.parametrize(
    ("fixtures", "settings", "message"),
    [
        (
            [],
            {"engine": "native", "device": "cuda"},
            r"LSTMSERVE_ENGINE=native computes on the CPU: set LSTMSERVE_DEVICE=cpu or auto, or LSTMSERVE_ENGINE=auto",
        ),
        (
            [],
            {"device": "cuda"},
            r"LSTMSERVE_DEVICE=cuda: torch sees no GPU; set LSTMSERVE_DEVICE=auto or cpu, or .* torch's CUDA build",
        ),
        (
            ["without_torch"],
            {"device": "cuda"},
            r"LSTMSERVE_DEVICE=cuda: torch is not installed: pip install 'lstm-serve\[torch\]'",
        ),
        (
            ["not_built"],
            {"engine": "native"},
            r"LSTMSERVE_ENGINE=native: .* not built \(needs a C\+\+17 compiler .*\); install a compiler and .*, "
            r"or set LSTMSERVE_ENGINE=auto",
        ),
        (
            ["without_torch"],
            {"engine": "packed"},
            r"LSTMSERVE_ENGINE=packed: torch is not .*: pip install 'lstm-serve\[torch\]'",
        ),
        (["not_built", "without_torch"], {}, r"no engine .* C\+\+17 compiler .* pip install 'lstm-serve\[torch\]'"),
        (
            [],
            {"engine": "packed", "precision": "bfloat16"},
            r"LSTMSERVE_PRECISION=bfloat16: .* packed on cpu, .* set LSTMSERVE_PRECISION=float32 or auto, or "
            r"LSTMSERVE_ENGINE=native",
        ),
        (["not_built"], {"precision": "bfloat16"}, r"LSTMSERVE_PRECISION=bfloat16: .* packed on cpu"),
        (["gpu"], {"precision": "bfloat16"}, r"LSTMSERVE_PRECISION=bfloat16: .* packed on cuda"),
    ],
)
def test_the_remedy_is_named(
    request: pytest.FixtureRequest, fixtures: list[str], settings: dict[str, Any], message: str
) -> None:
    for fixture in fixtures:
        request.getfixturevalue(fixture)
    with pytest.raises(BackendError, match=message) as caught:
        choose(Settings(**settings))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.usefixtures("not_built")
def test_another_module_that_is_missing_is_not_taken_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Missing:
        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            if name == "service.engine.native":
                raise ModuleNotFoundError("No module named 'numpy'", name="numpy")

    monkeypatch.setattr(sys, "meta_path", [Missing(), *sys.meta_path])
    with pytest.raises(ModuleNotFoundError, match="numpy"):
        choose(Settings())


def test_a_gpu_is_seen_by_its_device_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (tmp_path / "nvidiactl").touch()
    assert not gpu_visible(tmp_path)
    (tmp_path / "nvidia0").touch()
    assert gpu_visible(tmp_path)
    for hidden in ("", "-1", "NoDevFiles"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert not gpu_visible(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert gpu_visible(tmp_path)
    (tmp_path / "nvidia0").rename(tmp_path / "dxg")
    assert gpu_visible(tmp_path)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert not gpu_visible(tmp_path), "without torch it is of no use"

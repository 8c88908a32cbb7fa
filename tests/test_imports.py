"""Imports run one way, and torch is imported only where it is needed. Read off the syntax trees of all files."""

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

ALLOWED = {
    "service.__main__": {"service.serve", "service.signals"},
    "service.cli": {"service.keyring", "service.serve", "service.signals", "service.score"},
    "service.serve": {
        "service.app",
        "service.engine",
        "service.garbage",
        "service.logs",
        "service.repository",
        "service.server",
    },
    "service.server": {"service.connections", "service.protocol", "service.tls"},
    "service.protocol": {
        "service.authorization",
        "service.body",
        "service.connections",
        "service.dialects",
        "service.joining",
        "service.logs",
        "service.scheduler",
    },
    "service.connections": {"service.batcher"},
    "service.joining": set(),
    "service.garbage": set(),
    "service.app": {
        "service.access",
        "service.authorization",
        "service.batcher",
        "service.dialects",
        "service.engine",
        "service.health",
        "service.judgements",
        "service.keys",
        "service.loader",
        "service.logs",
        "service.openapi",
        "service.repository",
        "service.routes",
        "service.store",
        "service.tracing",
        "service.turns",
        "service.verification",
        "service.watcher",
    },
    "service.routes": {
        "service.batcher",
        "service.body",
        "service.comparison",
        "service.dialects",
        "service.explain",
        "service.health",
        "service.judgements",
        "service.keys",
        "service.loader",
        "service.repository",
        "service.scheduler",
        "service.statistics",
        "service.store",
        "service.tensors",
        "service.texts",
        "service.tracing",
        "service.verdict",
    },
    "service.score": {
        "service.batcher",
        "service.engine",
        "service.repository",
        "service.sequence",
        "service.store",
        "service.texts",
        "service.verdict",
        "service.verification",
        "service.watchdog",
    },
    "service.health": {
        "service.batcher",
        "service.engine",
        "service.repository",
        "service.verification",
        "service.watchdog",
    },
    "service.watchdog": {"service.engine"},
    "service.authorization": {"service.dialects", "service.keys", "service.logs", "service.rate"},
    "service.keyring": {"service.keys"},
    "service.keys": set(),
    "service.rate": set(),
    "service.tls": set(),
    "service.turns": set(),
    "service.watcher": {"service.loader"},
    "service.loader": {"service.comparison", "service.repository", "service.store", "service.verification"},
    "service.verification": {"service.batcher", "service.engine", "service.repository"},
    "service.comparison": {"service.repository", "service.verdict"},
    "service.explain": {"service.texts", "service.verdict"},
    "service.judgements": {"service.repository", "service.texts"},
    "service.texts": {"service.repository"},
    "service.batcher": {"service.scheduler", "service.engine", "service.sequence"},
    "service.scheduler": {"service.sequence"},
    "service.engine": {"service.sequence"},
    "service.access": {"service.dialects", "service.logs", "service.tracing"},
    "service.body": set(),
    "service.client": set(),
    "service.dialects": set(),
    "service.logs": set(),
    "service.openapi": {"service.authorization"},
    "service.repository": set(),
    "service.sequence": set(),
    "service.signals": set(),
    "service.statistics": set(),
    "service.store": set(),
    "service.tensors": set(),
    "service.tracing": set(),
    "service.verdict": set(),
    "service.schemas": set(),
    "service.settings": set(),
    "service.errors": set(),
    "service.metrics": set(),
}
"""What a module of the service may import from it, besides the leaves below."""

LEAVES = {"service.schemas", "service.settings", "service.errors", "service.metrics"}
"""They import none of ours, but that schemas may raise errors."""

FROM_MODELS = {
    "service.cli": {
        "models.arguments",
        "models.convert",
        "models.evaluate",
        "models.options",
        "models.parser",
        "models.train",
    },
    "service.serve": {"models.artifact"},
    "service.routes.admin": {"models.artifact"},
    "service.routes.models": {"models.artifact"},
    "service.comparison": set[str](),
    "service.engine": {"models.artifact"},
    "service.engine.native": {"models.artifact", "models.config"},
    "service.engine.packed": {"models.artifact", "models.network"},
    "service.explain": {"models.config"},
    "service.judgements": {"models.config", "models.scores"},
    "service.keyring": {"models.parser"},
    "service.loader": {"models.artifact"},
    "service.repository": {"models.artifact", "models.config", "models.tokenizer"},
    "service.score.command": {
        "models.artifact",
        "models.command",
        "models.extras",
        "models.formats",
    },
    "service.score.files": {"models.formats"},
    "service.score.model": {"models.artifact"},
    "service.score.options": {"models.parser"},
    "service.score.parquet": {"models.extras", "models.formats"},
    "service.score.partial": {"models.durable"},
    "service.score.pipeline": {"models.config"},
    "service.store": {"models.artifact"},
    "service.verdict": {"models.config", "models.scores"},
    "service.watcher": {"models.artifact"},
    "service.verification": {"models.artifact", "models.config"},
}

TORCH = {
    "models.adversary",
    "models.checkpoint",
    "models.convert",
    "models.device",
    "models.golden",
    "models.language",
    "models.logs",
    "models.loop",
    "models.network",
    "models.pretraining",
    "models.processes",
    "models.report",
    "models.run",
    "models.stages",
    "models.teachers",
    "models.train",
    "models.tuning",
    "models.weights_file",
    "service.engine.packed",
}
"""Modules that may import torch; others may reach it through these."""

WITHOUT_TORCH = {
    *(
        f"models.{name}"
        for name in (
            "arguments",
            "artifact",
            "calibration",
            "command",
            "config",
            "data",
            "encoder",
            "lineage",
            "metrics",
            "options",
            "pairs",
            "scores",
            "settings",
            "state_dict",
            "tokenizer",
            "values",
        )
    ),
    *(
        f"service.{name}"
        for name in ("__main__", "serve", "app", "cli", "engine", "client", "score.command", "score.options")
    ),
    *(f"service.engine.{name}" for name in ("bell", "cores", "native")),
}
"""Modules from which torch is not even reached; with what they import, all that serving and reading files need."""


def modules() -> dict[str, Path]:
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for package in ("models", "service")
        for path in (ROOT / package).rglob("*.py")
    }


MODULES = modules()


def imports(path: Path, *, on_import: bool = False) -> Iterator[str]:
    """Every module that a file imports, inside functions too unless only those that happen `on_import`."""
    tree = ast.parse(path.read_text(), str(path))
    inside = {
        child
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for child in ast.walk(function)
    }
    for node in ast.walk(tree):
        if on_import and node in inside:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            assert node.module is not None
            submodules = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from [name if name in MODULES else node.module for name in submodules]


def ours(name: str, *, on_import: bool = False) -> set[str]:
    return {found for found in imports(MODULES[name], on_import=on_import) if found in MODULES}


def room(name: str) -> str:
    """The module, or the package that stands for its parts."""
    for package in ("service.routes", "service.engine", "service.schemas", "service.score"):
        if name.startswith(package + "."):
            return package
    return name


def test_there_is_something_to_check() -> None:
    assert {"service.app", "service.routes.predict", "models", "models.artifact"} <= MODULES.keys()
    assert "service.errors" in ours("service.batcher")
    assert "service.routes.predict" in ours("service.app")


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("models")])
def test_models_never_imports_service(name: str) -> None:
    assert not [found for found in imports(MODULES[name]) if found.partition(".")[0] == "service"]


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("service.")])
def test_service_imports_run_one_way(name: str) -> None:
    leaves = {"service.errors"} if name == "service.schemas" else set() if name in LEAVES else LEAVES
    allowed = ALLOWED[room(name)] | leaves | {room(name)}
    assert {room(found) for found in ours(name) if found.startswith("service")} <= allowed
    assert {found for found in ours(name) if found.startswith("models")} <= FROM_MODELS.get(name, set())


def test_there_is_no_cycle() -> None:
    graph = {name: ours(name) - {name} for name in MODULES}
    graph["service.engine"] -= {"service.engine.packed", "service.engine.native"}  # chosen at run time, in a function
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError


def test_the_seam_imports_no_engine_by_itself() -> None:
    engines = {"service.engine.packed", "service.engine.native"}
    assert not engines & ours("service.engine", on_import=True)
    assert engines <= ours("service.engine")


@pytest.mark.parametrize("name", [name for name in MODULES if name not in TORCH])
def test_torch_is_imported_only_where_it_is_needed(name: str) -> None:
    assert not [found for found in imports(MODULES[name]) if found.partition(".")[0] == "torch"]


@pytest.mark.parametrize("name", sorted(WITHOUT_TORCH))
def test_torch_is_not_reached(name: str) -> None:
    reached, todo = {name}, [name]
    while todo:
        new = ours(todo.pop(), on_import=True) - reached
        reached |= new
        todo += new
    assert not reached & TORCH


@pytest.mark.parametrize(
    "name",
    ["service.app", "service.serve", "service.cli", "models.artifact", "models.config", "models.tokenizer"],
)
def test_a_service_without_torch_can_be_imported(name: str) -> None:
    program = f"import sys; sys.modules['torch'] = None; import {name}; assert sys.modules['torch'] is None"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr

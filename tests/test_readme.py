"""The README's commands, executed as they stand, with the outputs it shows."""

import contextlib
import csv
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from service.errors import ServiceError
from service.settings import Settings, flag, variable
from tests.tiny import TEXTS, tiny_network

ROOT = Path(__file__).parent.parent
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("LSTMSERVE_")}
README = (ROOT / "README.md").read_text()
CARD = (ROOT / "models/store/imdb/1/README.md").read_text()


def blocks(name: str) -> list[str]:
    """The code blocks after ``<!-- run: name -->`` up to the next text that is neither block nor blank."""
    after = README.partition(f"<!-- run: {name} -->\n")[2]
    found = []
    while match := re.match(r"\s*```\w*\n(.*?)```\n", after, re.DOTALL):
        found.append(match[1])
        after = after[match.end() :]
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def serving(command: list[str], **environment: str) -> Iterator[int]:
    """Runs a command that serves in the foreground until SIGINT; gives its port once it is ready."""
    port = free_port()
    process = subprocess.Popen(
        command, cwd=ROOT, env={**ENVIRONMENT, "LSTMSERVE_PORT": str(port), **environment}, start_new_session=True
    )
    try:
        end = time.monotonic() + 300
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz"):
                break
            assert process.poll() is None, "it ended before it was ready"
            assert time.monotonic() < end, "it is not ready"
            time.sleep(0.05)
        yield port
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(60)


def bash(script: str, cwd: Path) -> str:
    script = script.replace(".venv/bin/python", sys.executable)
    script = script.replace(".venv/bin/lstm-serve", f"{sys.executable} -m service.cli")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=cwd,
        env={**ENVIRONMENT, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_make_serve_answers_what_is_asked_as_shown() -> None:
    with serving(["make", "serve"], LSTMSERVE_PRECISION="float32") as port:
        for name in ("predict", "classify"):
            command, shown = blocks(name)
            reply = json.loads(bash(command.replace("127.0.0.1:8000", f"127.0.0.1:{port}"), ROOT))
            assert_close(reply, json.loads(shown))
        script, shown = blocks("client")
        script = script.replace("127.0.0.1:8000", f"127.0.0.1:{port}")
        done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
        assert (done.stdout, done.stderr) == (shown, "")


def assert_close(reply: Any, shown: Any) -> None:
    """The same, but that numbers may be shown rounded."""
    if isinstance(shown, float):
        assert reply == pytest.approx(shown, abs=1e-4)
    elif isinstance(shown, dict):
        assert reply.keys() == shown.keys()
        for key, value in shown.items():
            assert_close(reply[key], value)
    elif isinstance(shown, list):
        for one, other in zip(reply, shown, strict=True):
            assert_close(one, other)
    else:
        assert reply == shown


def test_the_token_ids_are_those_of_the_curl() -> None:
    script, shown = blocks("tokens")
    output = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert output == shown
    for line in output.splitlines():
        assert line.strip("[]") in blocks("predict")[0]


def test_train_evaluate_and_serve_your_own(tmp_path: Path) -> None:
    rows = [f'"{text} {number}",{label}' for number in range(20) for text, label in zip(TEXTS, "nppn", strict=True)]
    (tmp_path / "reviews.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    train, evaluate, serve = _commands(blocks("train")[0])
    bash(train, tmp_path)
    assert "accuracy" in bash(evaluate, tmp_path)
    bash(blocks("score")[0], tmp_path)
    with (tmp_path / "scored.csv").open() as scored:
        labelled = list(csv.DictReader(scored))
    assert len(labelled) == len(rows)
    assert {row["model_label"] for row in labelled} <= {"n", "p"}
    name = re.fullmatch(r"LSTMSERVE_MODEL=(\w+) make serve", serve)
    assert name is not None
    store = str(tmp_path / "models/store")
    with serving([sys.executable, "-m", "service"], LSTMSERVE_MODEL=name[1], LSTMSERVE_STORE=store) as port:
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/predict", b'{"token_ids": [[2, 3]]}', {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request) as reply:
            assert json.load(reply)["labels"] == ["n", "p"]


def test_convert(tmp_path: Path) -> None:
    torch.save(tiny_network().state_dict(), tmp_path / "weights.pt")
    bash(blocks("convert")[0], tmp_path)
    assert (tmp_path / "models/store/mine/1/SHA256SUMS").exists()


def _commands(script: str) -> list[str]:
    return script.replace("\\\n", " ").strip().splitlines()


def test_the_settings_table_is_that_of_the_code() -> None:
    rows = re.findall(r"^\| `LSTMSERVE_.*$", README, re.MULTILINE)
    assert rows == [
        f"| `{variable(name)}` | `{flag(name)}` | `{info.default}` | {info.description} |"
        for name, info in Settings.model_fields.items()
    ]


def test_the_status_table_has_every_error() -> None:
    told = {int(status) for status in re.findall(r"^\| (\d{3}) \|", README, re.MULTILINE)}
    assert told == {error.status.value for error in ServiceError.__subclasses__()} | {405}


def test_links_lead_somewhere() -> None:
    pages = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")]
    for page in [*pages, *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!http)([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page}: {target}"


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z]+)", README + (ROOT / "CONTRIBUTING.md").read_text()))
    assert named - {"help"} <= targets
    assert {"install", "serve", "test", "lint", "bench"} <= targets


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="needs sha256sum")
def test_the_shipped_version_is_sealed_in_the_form_of_sha256sum() -> None:
    subprocess.run(
        ["sha256sum", "-c", "--strict", "--quiet", "SHA256SUMS"], cwd=ROOT / "models/store/imdb/1", check=True
    )
    assert "train.jsonl.gz" in CARD

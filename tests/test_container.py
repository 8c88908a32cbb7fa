"""The container: what can be read off its files, and, where a Docker engine answers, the container itself."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from service.settings import Settings, variable

ROOT = Path(__file__).parent.parent
CHECK = ROOT / "deploy" / "check-container"


def test_dockerfile_builds_with_the_legacy_builder() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    needs_buildkit = r"^#\s*syntax\s*=.*|--(?:mount|chmod|link|exclude|parents|start-interval)\b.*|^(?:RUN|COPY).*<<.*"
    assert re.findall(needs_buildkit, dockerfile, re.MULTILINE | re.IGNORECASE) == []


def test_one_torch_is_named() -> None:
    """The image serves with the torch that the tests ran with."""
    makefile = re.search(r"^TORCH \?= (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    dockerfile = re.search(r'"\$\{TORCH:-(.+)\}"', (ROOT / "Dockerfile").read_text())
    assert makefile
    assert dockerfile
    assert makefile[1] == dockerfile[1]


def test_the_build_sees_what_the_wheel_is_built_from() -> None:
    """The context is a list of what is let in; a folder that is left out would be missing without a word."""
    let_in = re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    locks = ["requirements-build.lock", "requirements-dev.lock", "requirements.lock"]
    assert let_in == ["CMakeLists.txt", "LICENSE", "README.md", "models", "native", "pyproject.toml", *locks, "service"]
    assert all((ROOT / name).exists() for name in let_in)


def test_compose_waits_for_the_shutdown() -> None:
    grace = re.search(r"stop_grace_period: \S+:-(\d+)s", (ROOT / "docker-compose.yml").read_text())
    assert grace
    settings = Settings.load([], {})
    assert int(grace[1]) > settings.drain_seconds + settings.shutdown_seconds


def test_compose_passes_on_every_setting_but_those_of_the_image() -> None:
    passed = re.findall(r"^ *- (LSTMSERVE_\w+)(?:=| *$)", (ROOT / "docker-compose.yml").read_text(), re.MULTILINE)
    of_the_image = {"host", "port", "store"}
    assert passed == [variable(name) for name in Settings.model_fields if name not in of_the_image]


def test_compose_publishes_on_the_loopback_address_alone() -> None:
    ports = re.findall(r"""^ *- ["']?(\S+):8000["']?$""", (ROOT / "docker-compose.yml").read_text(), re.MULTILINE)
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def check(**environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("LSTMSERVE_")}
    return subprocess.run([sys.executable, CHECK], env=inherited | environment, capture_output=True, text=True)


@pytest.mark.parametrize(("ci", "status", "word"), [("", 0, "skipped"), ("true", 1, "failed")])
def test_check_says_that_there_is_no_docker(tmp_path: Path, ci: str, status: int, word: str) -> None:
    done = check(PATH=str(tmp_path), CI=ci)
    assert (done.stdout, done.stderr, done.returncode) == (f"{word}: no docker command here\n", "", status)


@pytest.mark.parametrize(("ci", "status", "word"), [("", 0, "skipped"), ("true", 1, "failed")])
def test_check_says_that_no_engine_answers(tmp_path: Path, ci: str, status: int, word: str) -> None:
    docker = tmp_path / "docker"
    docker.write_text("#!/bin/sh\nexit 1\n")
    docker.chmod(0o755)
    done = check(PATH=str(tmp_path), CI=ci)
    assert (done.stdout, done.stderr, done.returncode) == (f"{word}: no Docker engine answers here\n", "", status)


def test_container() -> None:
    done = check()
    if done.stdout.startswith("skipped: "):
        pytest.skip(done.stdout.strip())
    print(done.stdout, done.stderr)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert done.stdout.splitlines()[-1] == "passed: the container is as described"

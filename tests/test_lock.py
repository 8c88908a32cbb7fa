"""The lock files: versions that pyproject.toml admits, each with its digests; where they come from is left open."""

import functools
import re
import tomllib
from collections.abc import Iterator, Set
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
BUILD = ("cmake", "ninja")
"""What scikit-build-core asks for besides where the system has none."""

APART = {"torch", PROJECT["project"]["name"]}
"""torch has many builds of one version: TORCH in the Makefile names it."""

PYTHONS = ("3.11", "3.12", "3.13", "3.14")


class Pin(NamedTuple):
    requirement: Requirement
    digests: list[str]


@functools.cache
def pins(name: str) -> list[Pin]:
    """Raises AssertionError where a line is not a pin with digests, nor a comment."""
    text = re.sub(r"(?m)^ *#.*\n", "", (ROOT / name).read_text())
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        requirement, *digests = re.split(r"\s+--hash=", line.strip())
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", digest) for digest in digests), line
        found.append(Pin(Requirement(requirement), digests))
    return found


def wanted(*extras: str) -> Iterator[Requirement]:
    """What the project itself asks for."""
    project = PROJECT["project"]
    for text in [
        *project["dependencies"],
        *(each for extra in extras for each in project["optional-dependencies"][extra]),
    ]:
        requirement = Requirement(text)
        if requirement.name == project["name"]:
            yield from wanted(*requirement.extras)
        elif requirement.name not in APART:
            yield requirement


LOCKS = {
    "requirements.lock": list(wanted()),
    "requirements-build.lock": [Requirement(text) for text in (*PROJECT["build-system"]["requires"], *BUILD)],
    "requirements-dev.lock": list(wanted(*PROJECT["project"]["optional-dependencies"])),
}


def applies(requirement: Requirement, python: str) -> bool:
    environment: dict[str, str | Set[str]] = {"python_version": python, "python_full_version": f"{python}.0"}
    return requirement.marker is None or requirement.marker.evaluate(environment)


@pytest.mark.parametrize("name", LOCKS)
@pytest.mark.parametrize("python", PYTHONS)
def test_each_requirement_has_one_pin_that_it_admits(name: str, python: str) -> None:
    for requirement in LOCKS[name]:
        if applies(requirement, python):
            (pin,) = (
                pin.requirement
                for pin in pins(name)
                if canonicalize_name(pin.requirement.name) == canonicalize_name(requirement.name)
                and applies(pin.requirement, python)
            )
            (version,) = (each.version for each in pin.specifier)
            assert version in requirement.specifier, f"{pin} in {name}: make lock"


@pytest.mark.parametrize("name", LOCKS)
def test_each_pin_is_one_version_with_its_digests(name: str) -> None:
    for requirement, digests in pins(name):
        assert [each.operator for each in requirement.specifier] == ["=="]
        assert digests


@pytest.mark.parametrize("name", LOCKS)
def test_no_lock_names_a_place(name: str) -> None:
    text = (ROOT / name).read_text()
    assert re.findall(r"://|@|--(?!hash=)\S+|\b[\w-]+\.(?:org|com|net|io)\b", text) == []
    assert not APART & {pin.requirement.name for pin in pins(name)}


def test_what_serves_is_what_was_tested() -> None:
    tested = {(str(pin.requirement), *pin.digests) for pin in pins("requirements-dev.lock")}
    for name in ("requirements.lock", "requirements-build.lock"):
        assert {(str(pin.requirement), *pin.digests) for pin in pins(name)} <= tested

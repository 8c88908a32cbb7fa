"""docs/api.md: its commands give the replies that stand below them, and it leaves out no route, status or limit."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.dialects import TEI, V2
from service.errors import ServiceError
from tests.server import Server

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/api.md").read_text()
EXAMPLES = re.findall(r"```sh\n(.*?)```\n\n```json\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with Server(ROOT / "models/store", "--device", "cpu", "--threads", "1", "--precision", "float32") as server:
        yield server.url


def rounded(value: Any) -> Any:
    """Numbers to within what differs between instruction sets."""
    if isinstance(value, dict):
        return {name: rounded(each) for name, each in value.items()}
    if isinstance(value, list):
        return [rounded(each) for each in value]
    return pytest.approx(value, abs=1e-3) if isinstance(value, float) else value


@pytest.mark.parametrize(("command", "reply"), EXAMPLES)
def test_a_command_gives_the_reply_below_it(url: str, command: str, reply: str) -> None:
    words = command.replace("http://127.0.0.1:8000", url)
    done = subprocess.run(["bash", "-c", words], capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout) == rounded(json.loads(reply))


def test_every_route_is_named(url: str) -> None:
    paths = httpx.get(f"{url}/openapi.json").json()["paths"]
    assert [path for path in paths if not path.startswith("/v2") and f"{path}`" not in PAGE] == []


def test_every_status_stands_in_the_table() -> None:
    rows = re.findall(r"\| (\d{3}) \| (\d{3}) \| (\d{3} `\w+`) \|", PAGE)
    told = {int(ours): (int(v2), tei) for ours, v2, tei in rows}
    needed = {int(kind.status) for kind in ServiceError.__subclasses__()} | {405}
    assert told.keys() == needed
    for status, (v2, tei) in told.items():
        assert v2 == V2.get(status, status)
        assert tei == "{} `{}`".format(*TEI[status])

"""Instances that are restarted and killed under load, alone and behind the nginx that deploy/nginx describes."""

import http.client
import itertools
import random
import re
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from service.settings import Settings
from tests.reference import reference_logits
from tests.rollout import NGINX, Callers, Instance, Nginx, Right, answered, value
from tests.test_main import until, wait_for_requests
from tests.tiny import write_tiny

pytestmark = pytest.mark.skipif(NGINX is None, reason="needs nginx")

ROUNDS = 3
FLAGS = ("--threads", "1", "--precision", "float32", "--timeout-ms", "120000")

LONG = {"token_ids": [[3] * 4096] * 128}
"""Seconds of work; the queue has room for two."""

OWN = (
    "/metrics",
    "//metrics",
    "/%6detrics",
    "/x/../metrics",
    "/metrics?x",
    "/v2/repository/index",
    "/v2//repository/models/imdb/load",
    "/v2/%72epository/models/imdb/unload",
)
"""Paths of what each instance has for itself, as one might try them."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def right(store: Path) -> Right:
    artifact = write_tiny(store / "imdb" / "1", hidden_size=192, max_length=4096, labels=tuple("abcdef"))
    draw = random.Random(0)
    sequences = [draw.choices(range(2, 40), k=length) for length in (*range(1, 30), 300, 1000)]
    logits = [reference_logits(artifact.config, artifact.weights, tokens).tolist() for tokens in sequences]
    for one, other in itertools.combinations(logits, 2):  # another's reply is a wrong one
        assert max(abs(a - b) for a, b in zip(one, other, strict=True)) > 1e-3
    return list(zip(sequences, logits, strict=True))


@pytest.fixture
def pair(store: Path, right: Right) -> Iterator[tuple[Instance, Instance]]:
    with Instance(store, *FLAGS) as one, Instance(store, *FLAGS) as other:
        yield one, other


@pytest.fixture(scope="module")
def nginx(store: Path, right: Right) -> Iterator[Nginx]:
    """Before two instances that stay."""
    with Instance(store, *FLAGS) as one, Instance(store, *FLAGS) as other, Nginx(one, other) as nginx:
        yield nginx


def test_a_rolling_restart_behind_nginx_loses_no_request(pair: tuple[Instance, Instance], right: Right) -> None:
    with Nginx(*pair) as nginx, Callers(nginx.url, right) as callers:
        callers.until_answered(3)
        for instance in pair * ROUNDS:  # as soon as one is back the other goes
            instance.end(signal.SIGTERM)
        callers.until_answered(3)
    for instance in pair:
        instance.leave()
        assert instance.statuses == [0] * (ROUNDS + 1)
    assert not callers.lost
    assert not callers.wrong
    by_run = [answered(run) for instance in pair for run in instance.runs]
    assert all(by_run)
    times = Counter(itertools.chain(*by_run))
    assert times == Counter(callers.answered), "a request was answered twice, or never"


def test_a_killed_instance_behind_nginx_loses_no_request_but_replies_that_had_begun(
    pair: tuple[Instance, Instance], right: Right
) -> None:
    with Nginx(*pair) as nginx, Callers(nginx.url, right) as callers:
        for instance in pair * ROUNDS:
            callers.until_answered()  # so that nobody asks whom the other one refused before it was back
            instance.end(signal.SIGKILL)
        callers.until_answered(3)
    for instance in pair:
        instance.leave()
        assert instance.statuses == [-signal.SIGKILL] * ROUNDS + [0]
    assert all(answered(run) for instance in pair for run in instance.runs)
    assert not callers.lost
    assert not callers.wrong
    assert len(set(callers.answered)) == len(callers.answered)


def test_what_a_killed_instance_computed_is_answered_by_the_other(pair: tuple[Instance, Instance]) -> None:
    with Nginx(*pair) as nginx:
        replies: list[httpx.Response] = []

        def post() -> None:
            replies.append(httpx.post(f"{nginx.url}/predict", json=LONG, timeout=120))

        senders = [threading.Thread(target=post) for _ in pair]
        for sender in senders:
            sender.start()
        for instance in pair:
            wait_for_requests(instance.runs[0], 2)
        pair[0].end(signal.SIGKILL)
        for sender in senders:
            sender.join()
        assert [reply.status_code for reply in replies] == [200, 200]
        assert [len(reply.json()["logits"]) for reply in replies] == [128, 128]
        # the killed one's had another's address first
        retried = [
            line for line in nginx.log() if re.search(r" 200 \S+ 127\.0\.0\.1:\d+, 127\.0\.0\.1:\d+ 502, 200 ", line)
        ]
        assert len(retried) == 1


def test_without_a_proxy_only_what_a_killed_instance_computed_is_lost(
    pair: tuple[Instance, Instance], right: Right
) -> None:
    killed, spared = pair
    endings: list[object] = []

    def post() -> None:
        try:
            endings.append(httpx.post(f"{killed.url}/predict", json=LONG, timeout=120))
        except httpx.HTTPError as error:
            endings.append(error)

    with Callers(spared.url, right, 4) as callers:
        senders = [threading.Thread(target=post) for _ in range(2)]
        for sender in senders:
            sender.start()
        wait_for_requests(killed.runs[0], 1 + len(senders))
        killed.end(signal.SIGKILL)
        for sender in senders:
            sender.join()
        assert [
            type(ending) for ending in endings if not isinstance(ending, httpx.NetworkError | httpx.RemoteProtocolError)
        ] == []
        callers.until_answered()
        with Callers(killed.url, right, 4) as after:
            after.until_answered(len(right))
    assert [callers.lost, callers.wrong, after.lost, after.wrong] == [[], [], [], []]
    assert killed.statuses == [-signal.SIGKILL]


def ask(nginx: Nginx, path: str, source: str = "127.0.0.1", **headers: str) -> http.client.HTTPResponse:
    """The reply, read; the path is sent as it is."""
    connection = http.client.HTTPConnection("127.0.0.1", nginx.port, timeout=60, source_address=(source, 0))
    connection.request("GET", path, headers={name.replace("_", "-"): text for name, text in headers.items()})
    reply = connection.getresponse()
    reply.read()
    connection.close()
    return reply


def test_the_service_hears_of_the_client_and_the_id_through_nginx(nginx: Nginx) -> None:
    given = ask(nginx, "/docs", "127.0.0.2", X_Request_ID="from-the-client", X_Forwarded_For="192.0.2.1")
    assert given.headers["X-Request-ID"] == "from-the-client"
    made = ask(nginx, "/docs", X_Request_ID="not an id").headers["X-Request-ID"]
    assert re.fullmatch("[0-9a-f]{32}", made)
    expected = {"from-the-client": "127.0.0.2", made: "127.0.0.1"}

    def clients() -> dict[str, str]:
        records = [record for instance in nginx.instances for record in instance.runs[0].log.copy()]
        return {record["request_id"]: record["client"] for record in records if record.get("request_id") in expected}

    until(lambda: len(clients()) == len(expected))
    assert clients() == expected
    assert [line.split()[5] for line in nginx.log() if "/docs" in line] == list(expected)


def test_what_is_each_instances_own_does_not_go_through_nginx(nginx: Nginx) -> None:
    for path in OWN:
        reply = ask(nginx, path)
        assert (reply.status, reply.headers["X-Request-ID"]) == (404, None), path
    assert ask(nginx, "/readyz").headers["X-Request-ID"]


def test_the_service_itself_says_what_is_too_large(nginx: Nginx) -> None:
    limit = Settings.load([], {}).max_body_bytes
    for size, kind in ((limit + 1, "application/problem+json"), (2 * limit + 1, "text/html")):
        headers = {"Content-Type": "application/json"}
        reply = httpx.post(f"{nginx.url}/predict", content=b" " * size, headers=headers, timeout=60)
        assert (reply.status_code, reply.headers["Content-Type"]) == (413, kind)


def test_nginxs_limits_are_beyond_those_of_the_service() -> None:
    settings = Settings.load([], {})

    def seconds(directive: str) -> int:
        return int(value(directive).removesuffix("s"))

    assert seconds("keepalive_timeout") < settings.keep_alive_seconds
    assert seconds("client_header_timeout") > settings.header_seconds
    assert 1000 * seconds("proxy_read_timeout") > settings.timeout_ms
    assert seconds("proxy_next_upstream_timeout") < seconds("proxy_read_timeout")
    assert int(value("client_max_body_size").removesuffix("m")) << 20 == 2 * settings.max_body_bytes

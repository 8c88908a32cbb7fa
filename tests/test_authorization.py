"""Who may ask for what, and that no spelling of an address gets around it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.keys import Key, digest, line
from tests.fake_engine import Fake, fake_app, refused, running, until
from tests.server import Server
from tests.tiny import write_tiny

pytestmark = pytest.mark.anyio

NORMAL, HIGH, ADMIN = "lsk_normal", "lsk_high", "lsk_admin"
BODY = {"token_ids": [[5]]}
INFER: dict[str, Any] = {"inputs": [{"name": "token_ids", "datatype": "INT64", "shape": [1, 1], "data": [5]}]}


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """The settings that name the two keys files."""
    (tmp_path / "keys").write_text(
        "\n".join(line(Key(key[4:], key == HIGH), digest(key.encode())) for key in (NORMAL, HIGH))
    )
    (tmp_path / "admins").write_text(line(Key("ops", False), digest(ADMIN.encode())))
    return {"api_keys_file": tmp_path / "keys", "admin_keys_file": tmp_path / "admins"}


@pytest.fixture
async def client(fake: Fake, files: dict[str, Path]) -> AsyncIterator[httpx.AsyncClient]:
    async with running(fake_app(fake, **files)) as client:
        yield client


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def samples(app: FastAPI) -> Iterator[tuple[str, str]]:
    """Method and an address of every operation of the document; what would unload a model names none that serves."""
    for path, methods in app.openapi()["paths"].items():
        for method in methods:
            yield (
                method.upper(),
                path.replace("{name}", "none" if path.startswith("/v2/repository/") else "tiny").replace(
                    "{version}", "1"
                ),
            )


# Which key opens what


async def test_every_route_but_the_open_ones_needs_a_key(fake: Fake, files: dict[str, Path]) -> None:
    app = fake_app(fake, **files)
    open_ones = set()
    async with running(app) as client:
        for method, path in samples(app):
            without, wrong = await client.request(method, path), await client.request(method, path, headers=bearer("x"))
            if without.status_code == 401:
                assert wrong.status_code == 401, path
                assert without.headers["www-authenticate"] == 'Bearer realm="lstm-serve"'
                assert wrong.headers["www-authenticate"] == 'Bearer realm="lstm-serve", error="invalid_token"'
                assert (await client.head(path)).status_code == 401, path
            else:
                assert without.status_code == wrong.status_code == 200, path
                open_ones.add(path)
            keys = (ADMIN, HIGH) if path.startswith("/v2/repository/") else (NORMAL, ADMIN)
            right, other = [(await client.request(method, path, headers=bearer(key))).status_code for key in keys]
            assert right not in (401, 403), path
            assert other == (200 if path in open_ones else 403), path
    assert open_ones == {"/livez", "/readyz", "/v2/health/live", "/v2/health/ready", "/tei/health"}
    assert fake.started == []


async def test_the_pages_and_their_files_are_open(client: httpx.AsyncClient) -> None:
    for path in ("/", "/page/page.js", "/docs", "/docs/assets/swagger-ui.css", "/openapi.json"):
        assert (await client.get(path)).status_code == 200
    assert (await client.head("/livez")).status_code == 200
    assert (await client.get("/page/none.js")).status_code == 404


async def test_an_unknown_path_tells_nothing_without_a_key(client: httpx.AsyncClient) -> None:
    refused(await client.get("/nothing"), 401)
    refused(await client.get("/nothing", headers=bearer(NORMAL)), 404)


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        ([], ""),
        (["Bearer"], "invalid_request"),
        (["Bearer "], "invalid_request"),
        ([f"Basic {NORMAL}"], "invalid_request"),
        ([NORMAL], "invalid_request"),
        ([f"Bearer {NORMAL}", f"Bearer {NORMAL}"], "invalid_request"),
        ([f"Bearer {NORMAL}x"], "invalid_token"),
        ([f"Bearer {NORMAL[:-1]}"], "invalid_token"),
        ([f"Bearer {NORMAL.upper()}"], "invalid_token"),
        ([f"Bearer {NORMAL} {NORMAL}"], "invalid_token"),
        ([f"Bearer {digest(NORMAL.encode())}"], "invalid_token"),
        (["Bearer \u00e4"], "invalid_token"),
    ],
)
async def test_what_is_no_key_is_told_why(client: httpx.AsyncClient, sent: list[str], error: str) -> None:
    reply = await client.post("/predict", json=BODY, headers=[(b"Authorization", each.encode()) for each in sent])
    assert "Authorization: Bearer KEY" in (problem := refused(reply, 401)).detail or error == "invalid_token"
    assert NORMAL not in problem.detail
    assert reply.headers["www-authenticate"] == 'Bearer realm="lstm-serve"' + f', error="{error}"' * bool(error)


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "Bearer "])
async def test_a_key_is_let_in(client: httpx.AsyncClient, scheme: str) -> None:
    reply = await client.post("/predict", json=BODY, headers={"Authorization": f"{scheme} {NORMAL}"})
    assert reply.json()["logits"] == [[5.0, 1.0]]


async def test_keys_for_the_other_room_are_forbidden(client: httpx.AsyncClient) -> None:
    reply = await client.post("/predict", json=BODY, headers=bearer(ADMIN))
    assert "the admin key 'ops' is for /v2/repository/ alone" in refused(reply, 403).detail
    assert 'error="insufficient_scope"' in reply.headers["www-authenticate"]
    reply = await client.post("/v2/repository/models/tiny/unload", headers=bearer(HIGH))
    assert reply.status_code == 403
    assert "the key 'high' may not load or unload models" in reply.json()["error"]
    assert (await client.get("/v2/models/tiny/ready", headers=bearer(NORMAL))).status_code == 200, "nothing happened"


async def test_a_refusal_is_told_in_the_dialect_of_its_path(client: httpx.AsyncClient) -> None:
    assert list((await client.post("/v2/models/tiny/infer")).json()) == ["error"]
    assert (await client.post("/tei/predict")).json()["error_type"] == "Validation"


async def test_without_files_all_may_ask_and_nobody_may_change(fake: Fake) -> None:
    async with running(fake_app(fake)) as client:
        for headers in ({}, bearer("whatever"), {"X-Request-Priority": "high"}):
            assert (await client.post("/predict", json=BODY, headers=headers)).status_code == 200
            reply = await client.post("/v2/repository/index", headers=headers)
            assert reply.status_code == 403
            assert "LSTMSERVE_ADMIN_KEYS_FILE" in reply.json()["error"]


async def test_a_file_without_keys_lets_nobody_in(fake: Fake, files: dict[str, Path]) -> None:
    files["api_keys_file"].write_text("# nobody yet\n")
    async with running(fake_app(fake, **files)) as client:
        refused(await client.post("/predict", json=BODY, headers=bearer(NORMAL)), 401)


async def test_the_keys_change_while_it_serves(client: httpx.AsyncClient, files: dict[str, Path]) -> None:
    async def status(key: str) -> int:
        return (await client.post("/predict", json=BODY, headers=bearer(key))).status_code

    async def broken() -> str:
        scrape = (await client.get("/metrics", headers=bearer(HIGH))).text
        return next(text for text in scrape.splitlines() if text.startswith("lstmserve_keys_files_refused "))[-3:]

    async def rotated() -> bool:
        return await status("lsk_new") == 200

    assert await status(NORMAL) == 200
    added = line(Key("new", False), digest(b"lsk_new"))
    files["api_keys_file"].write_text(f"{added}\n{line(Key('high', True), digest(HIGH.encode()))}\n")
    await until(rotated)
    assert await status(NORMAL) == 401
    assert await broken() == "0.0"
    for each in files.values():
        each.write_text("what is this")

    async def noticed() -> bool:
        return await broken() == "2.0"

    await until(noticed)
    assert await status("lsk_new") == 200, "the keys before stay in force"


# No spelling gets around it

OPEN_ROUTES = {
    *("/", "/page/{name}", "/docs", "/docs/assets/{name}", "/openapi.json"),
    *("/livez", "/readyz", "/v2/health/live", "/v2/health/ready", "/tei/health"),
}
BITS = [
    *("/", "//", "/./", "/../", "..", ".", ";", "?", "#", " ", "\\", "\0", "\n", "\u2028", "é"),
    *("%2f", "%2e", "%00", "%", "%25", "%70redict"),
    *("livez", "page", "docs", "assets", "LIVEZ", "openapi.json", "http://test", "/page/", "/docs/assets/"),
]
SPELLINGS = st.lists(st.sampled_from(BITS), max_size=3).map("".join)
METHODS = ["GET", "POST", "HEAD", "OPTIONS", "PUT", "TRACE", "get", "BREW"]


@pytest.fixture
def app(fake: Fake, files: dict[str, Path]) -> FastAPI:
    return fake_app(fake, **files)


@settings(
    max_examples=1000, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.sampled_from(METHODS),
    st.sampled_from(["", NORMAL, ADMIN]),
    st.randoms(use_true_random=False),
    st.tuples(SPELLINGS, SPELLINGS, SPELLINGS),
    st.sampled_from([str, str.upper, str.title]),
)
def test_no_spelling_of_a_path_gets_around_it(
    app: FastAPI, method: str, key: str, random: Random, bits: tuple[str, str, str], spell: Callable[[str], str]
) -> None:
    """Asked below the server, with any path: what is reached is open, or in the room of the key."""
    path = random.choice([*sorted({path for _, path in samples(app)} | {"/", "/docs", "/page/page.js"})])
    cut = random.randint(0, len(path))
    before, inside, after = bits
    spelt = spell(before + path[:cut] + inside + path[cut:] + after)
    status, route = asyncio.run(asked(app, method, spelt, key))
    if route and route not in OPEN_ROUTES:
        assert key == (ADMIN if route.startswith("/v2/repository/") else NORMAL), spelt
    elif not route and not key and spelt not in OPEN_ROUTES and not spelt.startswith(("/page/", "/docs/assets/")):
        assert status in (401, 403), spelt


async def asked(app: FastAPI, method: str, path: str, key: str) -> tuple[int, str | None]:
    """Status of the reply to a request for exactly this path, and the route that it reached."""
    status = 0

    async def send(message: Any) -> None:
        nonlocal status
        status = message.get("status", status)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    scope: dict[str, Any] = {
        "type": "http",
        "method": method,
        "path": path,
        "root_path": "",
        "query_string": b"",
        "headers": [(b"authorization", f"Bearer {key}".encode())] if key else [],
        "client": ("10.0.0.1", 1),
    }
    await app(scope, receive, send)
    return status, getattr(scope.get("route"), "path", None)


def test_nor_does_one_on_the_wire(files: dict[str, Path], tmp_path: Path) -> None:
    """Asked of a real server, which takes addresses apart itself."""
    write_tiny(tmp_path / "store/imdb/1")
    environment = {f"LSTMSERVE_{name.upper()}": str(path) for name, path in files.items()}
    targets = [
        "/predict",
        "/%70redict",
        "//predict",
        "/./predict",
        "/livez/../predict",
        "/livez/..%2fpredict",
        "/predict?",
    ]
    targets += [
        "http://test/predict",
        "/predict#",
        "/livez?/../predict",
        "/page/../predict",
        "/predict%3f",
        "/predict;x",
    ]
    targets += ["/docs/assets/..%2f..%2fpredict", "/docs/assets/../../predict", "/%2e%2e/predict", "/\\predict", "*"]
    with Server(tmp_path / "store", "--engine", "packed", **environment) as server:
        host, port = server.url.removeprefix("http://").split(":")
        for target in targets:
            connection = HTTPConnection(host, int(port))
            connection.putrequest("POST", target, skip_host=True)
            for name, value in {"Host": "test", "Content-Type": "application/json", "Content-Length": "21"}.items():
                connection.putheader(name, value)
            connection.endheaders(b'{"token_ids": [[5]]} ')
            reply = connection.getresponse()
            assert reply.status in (400, 401, 404, 405), target
            assert b"logits" not in reply.read()
            connection.close()
        reply_ = httpx.post(f"{server.url}/%70redict", json=BODY, headers=bearer(NORMAL))
        assert reply_.status_code == 200, "it is decoded before it is routed"


# Priorities


@pytest.mark.parametrize("path", ["/predict", "/v2/models/tiny/infer"])
async def test_a_normal_key_may_not_go_ahead(client: httpx.AsyncClient, fake: Fake, path: str) -> None:
    sent = {**bearer(NORMAL), "X-Request-Priority": "high"}
    reply = await client.post(path, json=BODY, headers=sent)
    assert reply.status_code == 403
    assert "header X-Request-Priority: the key 'normal' may not go ahead" in reply.text
    body = {**INFER, "parameters": {"priority": 1}}
    reply = await client.post("/v2/models/tiny/infer", json=body, headers=bearer(NORMAL))
    assert reply.status_code == 403
    assert "#/parameters/priority: the key 'normal' may not go ahead" in reply.json()["error"]
    assert fake.started == []


async def test_a_request_goes_ahead_as_its_key_does_unless_it_asks_not_to(fake: Fake, files: dict[str, Path]) -> None:
    async with running(fake_app(fake, lanes=1, **files)) as client:
        fake.gate.clear()

        def ask(token: int, key: str, **headers: str) -> asyncio.Task[httpx.Response]:
            sent = {**bearer(key), **headers}
            return asyncio.create_task(client.post("/predict", json={"token_ids": [[token]]}, headers=sent))

        def infer(token: int, key: str, priority: int) -> asyncio.Task[httpx.Response]:
            tensor = {"name": "token_ids", "datatype": "INT64", "shape": [1, 1], "data": [token]}
            body = {"inputs": [tensor], "parameters": {"priority": priority}}
            return asyncio.create_task(client.post("/v2/models/tiny/infer", json=body, headers=bearer(key)))

        async def waiting(number: int) -> None:
            async def holds() -> bool:
                scrape = (await client.get("/metrics", headers=bearer(HIGH))).text
                return f"lstmserve_queue_sequences {number}.0" in scrape.splitlines()

            await until(holds)

        tasks = [ask(1, NORMAL)]
        assert await asyncio.to_thread(fake.stepping.acquire, timeout=10)
        tasks.append(ask(2, NORMAL))
        await waiting(1)
        tasks.append(ask(3, HIGH, **{"X-Request-Priority": "normal"}))
        await waiting(2)
        tasks.append(infer(4, HIGH, 2))
        await waiting(3)
        tasks.append(ask(5, HIGH))
        await waiting(4)
        tasks.append(infer(6, HIGH, 0))
        await waiting(5)
        tasks.append(infer(7, HIGH, 1))
        await waiting(6)
        tasks.append(infer(8, NORMAL, 2))
        await waiting(7)
        fake.gate.set()
        for task in tasks:
            assert (await task).status_code == 200
    assert fake.started == [[1], [5], [6], [7], [2], [3], [4], [8]]


# How often


async def test_each_key_has_its_own_rate(fake: Fake, files: dict[str, Path]) -> None:
    async with running(fake_app(fake, rate_limit=0.01, **files)) as client:
        for key, path in ((NORMAL, "/predict"), (HIGH, "/predict"), (ADMIN, "/v2/repository/index")):
            first, second = [await client.post(path, json=BODY, headers=bearer(key)) for _ in range(2)]
            assert first.status_code in (200, 400, 503)
            assert second.status_code == 429
            assert "LSTMSERVE_RATE_LIMIT" in second.text
            assert 90 <= int(second.headers["retry-after"]) <= 100
        for _ in range(5):
            assert (await client.get("/livez")).status_code == 200
            assert (await client.get("/")).status_code == 200
            refused(await client.post("/predict", json=BODY), 401)
    assert len(fake.started) == 2


async def test_a_normal_and_an_admin_key_of_one_name_are_two(fake: Fake, files: dict[str, Path]) -> None:
    files["api_keys_file"].write_text(line(Key("ops", False), digest(NORMAL.encode())))
    async with running(fake_app(fake, rate_limit=0.01, **files)) as client:
        for key, path in ((NORMAL, "/predict"), (ADMIN, "/v2/repository/index")):
            statuses = [(await client.post(path, json=BODY, headers=bearer(key))).status_code for _ in range(2)]
            assert statuses[0] not in (401, 403, 429), key
            assert statuses[1] == 429


async def test_without_keys_each_address_has_its_own(fake: Fake) -> None:
    app = fake_app(fake, rate_limit=0.01)
    async with app.router.lifespan_context(app):
        seen = []
        for address in (
            *("10.0.0.1", "10.0.0.1", "10.0.0.2", "::ffff:10.0.0.3", "::ffff:10.0.0.4", "10.0.0.4"),
            *("2001:db8::1", "2001:db8::2", "2001:db8:0:1::1", "fe80::1%eth0", "a.name", "a.name"),
        ):
            transport = httpx.ASGITransport(app, client=(address, 1))
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                seen.append((await client.get("/models")).status_code == 200)
    assert seen == [True, False, True, True, True, False, True, False, True, True, True, False]

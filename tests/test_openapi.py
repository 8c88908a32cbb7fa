"""The OpenAPI document is true: its examples are sent to a real service, whose replies are as documented."""

import re
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest

from service.keys import Key, digest, line
from tests.fake_engine import Fake, fake_app
from tests.server import Server

ROOT = Path(__file__).parents[1]
METHODS = {"get", "post"}
API_KEY, ADMIN_KEY = "lsk_api", "lsk_admin"
OPEN = {"/livez", "/readyz", "/v2/health/live", "/v2/health/ready", "/tei/health"}


class Keyring(httpx.Auth):
    """The key for each route."""

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        admin = request.url.path.startswith("/v2/repository/")
        request.headers["Authorization"] = f"Bearer {ADMIN_KEY if admin else API_KEY}"
        yield request


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Of a service with the shipped models."""
    folder = tmp_path_factory.mktemp("keys")
    files = {}
    for name, key in (("API_KEYS_FILE", API_KEY), ("ADMIN_KEYS_FILE", ADMIN_KEY)):
        (folder / name).write_text(line(Key("one", False), digest(key.encode())))
        files[f"LSTMSERVE_{name}"] = str(folder / name)
    with (
        Server(ROOT / "models" / "store", "--rate-limit", "10000", **files) as server,
        httpx.Client(base_url=server.url, auth=Keyring()) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def document(client: httpx.Client) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/openapi.json").json()
    return found


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (method, path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


def resolve(schema: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    name = schema.get("$ref")
    found: dict[str, Any] = document["components"]["schemas"][name.rpartition("/")[2]] if name else schema
    return found


def examples(schema: dict[str, Any], document: dict[str, Any]) -> list[Any]:
    """Those of a body: of the whole, or made of the first of each of its fields."""
    schema = resolve(schema, document)
    if "examples" in schema:
        return list(schema["examples"])
    fields = {}
    for name, field in schema.get("properties", {}).items():
        if found := examples(field, document):
            fields[name] = found[0]
    return [fields] if fields or schema.get("type") == "object" else []


def address(path: str, operation: dict[str, Any]) -> str:
    """The path with the examples of its parameters."""
    for parameter in operation.get("parameters", []):
        if parameter["in"] == "path":
            samples = parameter.get("examples") or parameter["schema"].get("examples") or ["imdb"]
            path = path.replace("{" + parameter["name"] + "}", samples[0])
    assert "{" not in path
    return path


def check(reply: httpx.Response, operation: dict[str, Any], document: dict[str, Any]) -> None:
    """The reply is of a status, a type and a shape that the operation documents."""
    assert str(reply.status_code) in operation["responses"], reply.text
    documented = operation["responses"][str(reply.status_code)].get("content", {})
    media = reply.headers.get("content-type", "").partition(";")[0]
    assert media in documented if reply.content else not documented, (reply.url, media)
    if media.endswith("json"):
        schema = {**documented[media]["schema"], "components": document["components"]}
        jsonschema.validate(reply.json(), schema, cls=jsonschema.Draft202012Validator)


def test_every_example_is_answered_as_documented(client: httpx.Client, document: dict[str, Any]) -> None:
    answered = 0
    for method, path, operation in operations(document):
        url = address(path, operation)
        bodies: list[Any] = [None]
        if "requestBody" in operation:
            bodies = examples(operation["requestBody"]["content"]["application/json"]["schema"], document)
            assert bodies, f"{path} has no example"
        for body in bodies:
            if path.endswith("/unload"):
                client.post(url, json=body).raise_for_status()
                reply = client.post(url, json=body)  # a second time there is nothing to unload
                assert reply.status_code == 404
                check(reply, operation, document)
                client.post(url.replace("/unload", "/load")).raise_for_status()
                continue
            reply = client.request(method, url, json=body)
            assert reply.status_code == 200, (path, body, reply.text)
            check(reply, operation, document)
            answered += 1
    assert answered > 25


def test_every_operation_is_documented(document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        where = f"{method} {path}"
        assert method in METHODS, where
        assert operation["summary"], where
        assert operation["tags"], where
        assert "HTTPValidationError" not in str(operation["responses"]), where
        for status, reply in operation["responses"].items():
            assert reply["description"], (where, status)


def test_references_lead_somewhere(document: dict[str, Any]) -> None:
    def references(node: Any) -> Iterator[str]:
        if isinstance(node, dict):
            if isinstance(node.get("$ref"), str):
                yield node["$ref"]
            for value in node.values():
                yield from references(value)
        elif isinstance(node, list):
            for value in node:
                yield from references(value)

    found = {name.rpartition("/")[2] for name in references(document)}
    assert found <= document["components"]["schemas"].keys()
    used = found | {"Problem"}
    assert document["components"]["schemas"].keys() <= used, "described, but named by nothing"


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/predict", "{", 400),
        ("/predict", "{}", 422),
        ("/models/nope/predict", '{"token_ids": [[1]]}', 404),
        ("/classify", '{"texts": []}', 422),
        ("/models/nope/classify", '{"texts": ["a"]}', 404),
        ("/v2/models/imdb/infer", "{}", 400),
        ("/v2/models/nope/infer", "{}", 404),
        ("/v2/repository/models/nope/load", "{}", 404),
        ("/v2/repository/index", "[", 400),
        ("/tei/predict", '{"inputs": ["a", "b"]}', 413),
    ],
)
def test_refusals_are_as_documented(
    client: httpx.Client, document: dict[str, Any], path: str, body: str, status: int
) -> None:
    reply = client.post(path, content=body, headers={"Content-Type": "application/json"})
    assert reply.status_code == status, reply.text
    pattern = path.replace("imdb", "{name}").replace("nope", "{name}")
    check(reply, document["paths"][pattern]["post"], document)


def test_every_operation_but_the_open_ones_says_which_key_it_needs(document: dict[str, Any]) -> None:
    schemes = document["components"]["securitySchemes"]
    assert {name: (each["type"], each["scheme"]) for name, each in schemes.items()} == {
        "api_key": ("http", "bearer"),
        "admin_key": ("http", "bearer"),
    }
    for _, path, operation in operations(document):
        if path in OPEN:
            assert "security" not in operation
            assert not {"401", "403", "429"} & operation["responses"].keys(), path
        else:
            needed = "admin_key" if path.startswith("/v2/repository/") else "api_key"
            assert operation["security"] == [{needed: []}], path
            assert {"401", "403", "429"} <= operation["responses"].keys(), path


def test_what_is_refused_for_its_key_is_as_documented(client: httpx.Client, document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        if path not in OPEN:
            url = address(path, operation)
            wrong = API_KEY if path.startswith("/v2/repository/") else ADMIN_KEY
            for key, status in (("lsk_none", 401), (wrong, 403)):
                reply = httpx.request(method, client.base_url.join(url), headers={"Authorization": f"Bearer {key}"})
                assert reply.status_code == status, url
                check(reply, operation, document)


def test_without_keys_or_a_limit_the_document_says_so(fake: Fake) -> None:
    document = fake_app(fake).openapi()
    assert document["components"]["securitySchemes"].keys() == {"admin_key"}
    for method, path, operation in operations(document):
        admin = path.startswith("/v2/repository/")
        assert ("security" in operation) == ("401" in operation["responses"]) == admin, (method, path)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/predict", {"token_ids": [[6, 753, 4]]}),
        ("/classify", {"texts": ["A fine film."]}),
        ("/v2/models/imdb/infer", {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["fine"]}]}),
        ("/tei/predict", {"inputs": "A fine film."}),
    ],
)
def test_every_reply_names_its_version_and_its_time(client: httpx.Client, path: str, body: object) -> None:
    reply = client.post(path, json=body).raise_for_status()
    assert (reply.headers["x-model"], reply.headers["x-model-version"]) == ("imdb", "1")
    assert re.fullmatch(r"queue;dur=\d+\.\d{3}, compute;dur=\d+\.\d{3}", reply.headers["server-timing"])
    assert reply.headers["x-request-id"]

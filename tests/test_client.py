"""The client against a scripted server: what arrives, and what the caller gets."""

import ast
import inspect
import json
import pickle
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import BaseModel

from service import client
from service.client import AsyncClient, Client, Error, FieldError, Label, Prediction, TextError, pad
from service.schemas.admin import Compared, Flip, Golden, LoadReply, Served
from service.schemas.classify import Classified, Contribution
from tests.scripted import LOAD, MODEL, PREDICTION, Net, free_port, raw, refuse, reply

LABEL = {
    "label": "p",
    "scores": {"n": 0.25, "p": 0.75},
    "logits": [-1.0, 1.0],
    "tokens": 3,
    "unknown_tokens": 1,
    "kept_tokens": 2,
    "dropped_tokens": 1,
}


@pytest.fixture(params=["sync", "async"])
def net(request: pytest.FixtureRequest) -> Iterator[Net]:
    with Net(request.param) as net:
        yield net


# What is asked, and what is answered


def test_predict_pads(net: Net) -> None:
    server = net.serve(reply(PREDICTION))
    answer = net.call(server.url)("predict", [[5, 6, 7], [8]])
    assert answer == Prediction("imdb", 1, ["n", "p"], [[-1.5, 2.0]])
    assert isinstance(answer.logits[0][1], float)
    (arrived,) = server.arrived
    assert arrived.line == "POST /predict"
    assert arrived.body == {"token_ids": [[5, 6, 7], [8, 0, 0]]}
    assert arrived.headers["content-type"] == "application/json"
    assert "authorization" not in arrived.headers


def test_predict_with_lengths_a_pad_id_and_numpy(net: Net) -> None:
    np = pytest.importorskip("numpy")
    server = net.serve(reply(PREDICTION), reply(PREDICTION))
    caller = net.call(server.url)
    caller("predict", np.array([[5, 6], [7, 0]]), np.array([2, 1]))
    caller("predict", [(5, 6), (7,)], pad_id=9)
    assert server.arrived[0].body == {"token_ids": [[5, 6], [7, 0]], "lengths": [2, 1]}
    assert server.arrived[1].body == {"token_ids": [[5, 6], [7, 9]]}


def test_classify(net: Net) -> None:
    contributions = [{"token": "x", "start": 0, "end": 1, "contribution": 1}]
    results = [
        {**LABEL, "contributions": contributions, "new": "to come"},
        {"error": {"code": "empty", "detail": "send some text"}},
        {**LABEL, "contributions": None, "not_explained": "over the limit"},
        LABEL,
    ]
    server = net.serve(reply({"model": "imdb", "version": 3, "results": results}), reply({**PREDICTION, "results": []}))
    caller = net.call(server.url)
    answer = caller("classify", ["a", "", "b", "c"], "tail", explain=True)
    assert (answer.model, answer.version) == ("imdb", 3)
    explained, failed, not_explained, plain = answer.results
    assert failed == TextError("empty", "send some text")
    assert plain == Label("p", {"n": 0.25, "p": 0.75}, [-1.0, 1.0], 3, 1, 2, 1)
    assert (not_explained.contributions, not_explained.not_explained) == (None, "over the limit")
    assert explained.contributions == [client.Contribution("x", 0, 1, 1.0)]
    assert caller("classify", ["a"]).results == []
    assert [arrived.body for arrived in server.arrived] == [
        {"texts": ["a", "", "b", "c"], "truncate": "tail", "explain": True},
        {"texts": ["a"], "truncate": None, "explain": False},
    ]


def test_models_and_one_of_them(net: Net) -> None:
    served = client.Model("imdb", 2, [1, 2], True, ["n", "p"], "float32", "softmax", 512, 0, 9, True, None)
    server = net.serve(reply([MODEL]), reply(MODEL))
    caller = net.call(server.url + "/behind/")
    assert caller("models") == [caller("model", "a/b")] == [served]
    assert server.lines == ["GET /behind/models", "GET /behind/models/a%2Fb"]


def test_a_named_model_with_a_key(net: Net) -> None:
    server = net.serve(reply(PREDICTION), reply({**PREDICTION, "results": []}), reply(LOAD), reply(LOAD), raw(200, b""))
    caller = net.call(server.url, model="my model", api_key="s3cret")
    caller("predict", [[1]])
    caller("classify", ["a"])
    caller("load", "b")
    caller("load", "b", version=2)
    assert caller("unload", "b") is None
    assert server.lines == [
        "POST /models/my%20model/predict",
        "POST /models/my%20model/classify",
        "POST /v2/repository/models/b/load",
        "POST /v2/repository/models/b/load",
        "POST /v2/repository/models/b/unload",
    ]
    assert [arrived.body for arrived in server.arrived[2:]] == [
        {"parameters": {}},
        {"parameters": {"version": 2}},
        {"parameters": {}},
    ]
    assert {arrived.headers["authorization"] for arrived in server.arrived} == {"Bearer s3cret"}


def test_what_a_load_did(net: Net) -> None:
    caller = net.call(net.serve(reply(LOAD), reply({**LOAD, "replaced": None, "comparison": None})).url)
    compared = client.Comparison(client.Golden(16, [client.Flip("so so", "n", "p")]), client.Served(40, 3))
    assert caller("load", "imdb") == client.Load("imdb", 2, "float32", True, 0.5, 1, compared)
    assert caller("load", "imdb") == client.Load("imdb", 2, "float32", True, 0.5)


def test_the_types_have_what_the_service_says() -> None:
    pairs: list[tuple[type, type[BaseModel]]] = [
        (client.Load, LoadReply),
        (client.Comparison, Compared),
        (client.Golden, Golden),
        (client.Served, Served),
        (client.Flip, Flip),
        (client.Label, Classified),
        (client.Contribution, Contribution),
    ]
    for ours, theirs in pairs:
        assert {field.name for field in fields(ours)} == theirs.model_fields.keys()


@pytest.mark.parametrize(("status", "truth"), [(200, True), (503, False)])
def test_ready_is_asked_once(net: Net, status: int, truth: bool) -> None:
    server = net.serve(reply({"status": "ready"}, status))
    assert net.call(server.url)("ready") is truth
    assert server.lines == ["GET /readyz"]


def test_ready_where_nothing_or_something_else_listens(net: Net) -> None:
    port = free_port()
    assert net.call(f"http://127.0.0.1:{port}")("ready") is False
    with pytest.raises(Error, match="404: no "):
        net.call(net.serve(refuse(404)).url)("ready")


def test_connections_are_kept(net: Net) -> None:
    server = net.serve(reply(PREDICTION), refuse(422), reply(PREDICTION))
    caller = net.call(server.url)
    caller("predict", [[1]])
    with pytest.raises(Error):
        caller("predict", [[2]])
    caller("predict", [[3]])
    assert [arrived.connection for arrived in server.arrived] == [0, 0, 0]


# What is wrong


def test_a_problem_is_told_whole(net: Net) -> None:
    problem = {"detail": "#/lengths: is empty", "errors": [{"pointer": "#/lengths", "detail": "is empty"}]}
    with pytest.raises(Error) as caught:
        net.call(net.serve(reply(problem, 422, "X-Request-ID: abc")).url)("predict", [[1]], [])
    assert str(caught.value) == "422: #/lengths: is empty (request abc)"
    assert caught.value.errors == (FieldError("#/lengths", "is empty"),)


def test_other_shapes_of_errors(net: Net) -> None:
    caller = net.call(net.serve(reply({"error": "no such model"}, 404), raw(502, b"<h1>Bad\n gateway</h1>" * 50)).url)
    with pytest.raises(Error, match="404: no such model "):
        caller("unload", "imdb")
    with pytest.raises(Error, match=r"502: no explanation but .*Bad.*gateway") as caught:
        caller("predict", [[1]])
    assert len(str(caught.value).splitlines()) == 1
    assert len(caught.value.detail) < 300


def test_an_empty_refusal_and_a_redirect(net: Net) -> None:
    moved = raw(307, b"", "Location: https://elsewhere/models")
    caller = net.call(net.serve(raw(503, b""), moved, raw(304, b"")).url, retries=0)
    with pytest.raises(Error, match=r"503: an empty reply \("):
        caller("models")
    with pytest.raises(Error, match="307: redirected to 'https://elsewhere/models': use that as base_url"):
        caller("models")
    with pytest.raises(Error, match="304: an empty reply"):
        caller("models")


@pytest.mark.parametrize("error", [Error("x"), Error(detail="x", status=429, retry_after=2.0)])
def test_an_error_can_be_pickled(error: Error) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert vars(copy) == vars(error)
    assert str(copy) == str(error)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"\xff\xfe\x00",
        b"[]",
        b"null",
        b"[" * 100_000,
        json.dumps({**PREDICTION, "version": "1"}).encode(),
        json.dumps({**PREDICTION, "version": True}).encode(),
        json.dumps({**PREDICTION, "logits": [["1"]]}).encode(),
        json.dumps({**PREDICTION, "labels": None}).encode(),
        json.dumps({"model": "imdb"}).encode(),
    ],
    ids=str,
)
def test_an_unreadable_reply(net: Net, body: bytes) -> None:
    with pytest.raises(Error, match="200: the reply cannot be read: ") as caught:
        net.call(net.serve(raw(200, body)).url)("predict", [[1]])
    assert caught.value.status == 200
    assert len(caught.value.detail) < 300


def test_a_reply_that_cannot_be_unpacked(net: Net) -> None:
    with pytest.raises(Error, match="DecodingError"):
        net.call(net.serve(raw(200, b"not gzip", "Content-Encoding: gzip")).url)("predict", [[1]])


def test_a_result_that_is_neither_label_nor_error(net: Net) -> None:
    answer = {"model": "imdb", "version": 1, "results": [LABEL, {"label": "p"}]}
    with pytest.raises(Error, match="cannot be read"):
        net.call(net.serve(reply(answer)).url)("classify", ["a", "b"])


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:8000",
        "localhost:8000",
        "",
        "/path",
        "ftp://test",
        "http://",
        "http://:80",
        "http://test:abc",
        "http://test:70000",
        "http://test/?a=b",
        "http://test/?",
        "http://test\n",
    ],
)
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_an_address_that_is_none(kind: type[Client | AsyncClient], url: str) -> None:
    with pytest.raises(ValueError, match="base_url must be as http://"):
        kind(url)


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_a_name_that_httpx_would_drop(net: Net, name: str) -> None:
    with pytest.raises(ValueError, match="model must be a name"):
        net.call("http://test", model=name)
    caller = net.call("http://test")
    for method in ("model", "load", "unload"):
        with pytest.raises(ValueError, match="model must be a name"):
            caller(method, name)


@pytest.mark.parametrize(
    "options",
    [
        {"timeout": 0},
        {"timeout": float("inf")},
        {"timeout": None},
        {"timeout": httpx.Timeout(3)},
        {"retries": -1},
        {"retries": None},
        {"api_key": "s3cret\n"},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_options_that_are_refused(kind: type[Client | AsyncClient], options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="|".join(options)) as caught:
        kind("http://test", **options)
    assert "s3cret" not in str(caught.value)


def test_arguments_that_are_refused(net: Net) -> None:
    caller = net.call("http://127.0.0.1:1")
    with pytest.raises(TypeError, match="list of str"):
        caller("classify", "one text")
    for arguments in ([[1.5]],), ([[5], [6, True]],), ([[5]], [True]), ([[5]], None, False):
        with pytest.raises(TypeError, match=r"bools|float"):
            caller("predict", *arguments)


def test_pad() -> None:
    assert pad([[1, 2, 3], [], [4]]) == ([[1, 2, 3], [0, 0, 0], [4, 0, 0]], [3, 0, 1])
    assert pad([(1,), (2, 3)], pad_id=7) == ([[1, 7], [2, 3]], [1, 2])
    assert pad([]) == ([], [])


# What it is


def test_a_transport_of_the_users_own() -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        given = request.extensions["timeout"]
        for timeout in given["read"], given.get("read"), dict(**given)["read"]:
            assert 0 < timeout <= 7
        return httpx.Response(200, json=PREDICTION)

    with Client("http://test", timeout=7, transport=httpx.MockTransport(handle)) as chosen:
        assert chosen.predict([[1]]).model == "imdb"


def test_the_proxy_of_the_environment(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    """As docs/client.md says: also for this machine, but where NO_PROXY names it or a transport is given."""
    for name in ("http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    proxy, server = net.serve(raw(200, b"")), net.serve(raw(200, b""), raw(200, b""))
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    assert net.call(server.url)("ready")
    assert proxy.lines == [f"GET {server.url}/readyz"]
    assert net.call(server.url, transport=net.transport())("ready")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert net.call(server.url)("ready")
    assert server.lines == ["GET /readyz"] * 2


def test_both_clients_have_the_same_methods() -> None:
    def public(kind: type) -> dict[str, str]:
        found = {name: member for name, member in inspect.getmembers(kind, inspect.isfunction) if name[0] != "_"}
        return {name.removeprefix("a"): str(inspect.signature(f)) for name, f in found.items()}

    assert public(Client) == public(AsyncClient)
    assert {"predict", "classify", "models", "model", "ready", "load", "unload", "close"} == public(Client).keys()


def test_it_needs_httpx_alone() -> None:
    tree = ast.parse(Path(client.__file__).read_text())
    plain = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    within = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level}
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level]
    packages = {str(name).partition(".")[0] for name in plain | within}
    assert packages - sys.stdlib_module_names == {"httpx"}

"""Neither the log nor the metrics hold what was asked or with which key, whatever goes wrong."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service import logs
from service.keys import Key, digest, line
from tests.fake_engine import Fake, fake_app, running
from tests.server import Server
from tests.tiny import write_tiny

SECRET = "Kassandra"
"""Stands in every text, key and unknown name that is sent."""

NUMBER = 987654321987654321
"""Stands among the token ids."""

KEY, WRONG = f"lsk_{SECRET}-web", f"lsk_{SECRET}-wrong"
TENSOR: dict[str, Any] = {"name": "text", "datatype": "BYTES", "shape": [1], "data": [SECRET]}
BODIES: list[object] = [
    {"texts": [SECRET, f"good {SECRET}", ""], "explain": True},
    {"texts": [f"{SECRET} " * 100], "truncate": "head"},
    {"texts": SECRET},
    {"token_ids": [[5, NUMBER]]},
    {"token_ids": [[5, NUMBER], [SECRET]], "lengths": [NUMBER]},
    {SECRET: SECRET},
    {"inputs": SECRET, "truncate": True},
    {"inputs": [[SECRET], ["good film"]], "parameters": {"top_k": SECRET}},
    {"inputs": [TENSOR]},
    {"inputs": [TENSOR], "parameters": {SECRET: NUMBER}},
    {"inputs": [{**TENSOR, "datatype": SECRET}], "id": SECRET},
    {"inputs": [{"name": "token_ids", "datatype": "INT64", "shape": [1, 1], "data": [NUMBER]}]},
    {"parameters": {"version": SECRET}},
    [SECRET],
    SECRET,
]
RAW = [
    f'{{"texts": ["{SECRET}'.encode(),
    f'{{"texts": ["\\ud800{SECRET}"]}}'.encode(),
    f"{SECRET}\xff".encode("latin-1"),
]
MEDIA = ["application/json", f"text/{SECRET}", "application/octet-stream"]


def silent(told: str) -> None:
    for each in (SECRET, str(NUMBER), digest(KEY.encode())[:12], digest(WRONG.encode())[:12]):
        assert each not in told


def requests() -> Iterator[dict[str, Any]]:
    paths = ["/predict", "/classify", "/models/imdb/predict", "/models/imdb/classify", "/tei/predict", "/tei"]
    paths += ["/v2/models/imdb/infer", "/v2/models/imdb/versions/1/infer", "/v2/repository/models/imdb/load"]
    for path in paths:
        for body in BODIES:
            yield {"url": path, "content": json.dumps(body), "headers": {"Content-Type": "application/json"}}
        for raw in RAW:
            for media in MEDIA:
                yield {"url": path, "content": raw, "headers": {"Content-Type": media}}
        valid = json.dumps(BODIES[0])
        for name in (
            "X-Request-Priority",
            "X-Request-Timeout-Ms",
            "Content-Encoding",
            "Cookie",
            "User-Agent",
            "Referer",
        ):
            yield {"url": path, "content": valid, "headers": {"Content-Type": "application/json", name: SECRET}}
        yield {"url": f"{path}?text={SECRET}", "content": valid, "headers": {"Content-Type": "application/json"}}
        yield {"url": path, "content": valid * 200, "headers": {"Content-Type": "application/json"}}


def test_a_real_service_tells_nothing(tmp_path: Path) -> None:
    write_tiny(tmp_path / "store/imdb/1")
    for name in ("keys", "admins"):
        (tmp_path / name).write_text(line(Key("web", False), digest(KEY.encode())))
    files = {"LSTMSERVE_API_KEYS_FILE": str(tmp_path / "keys"), "LSTMSERVE_ADMIN_KEYS_FILE": str(tmp_path / "admins")}
    statuses = set()
    with (
        Server(
            tmp_path / "store", "--log-level", "debug", "--max-body-bytes", "8192", "--max-text-bytes", "512", **files
        ) as server,
        httpx.Client(base_url=server.url) as client,
    ):
        for number, request in enumerate(requests()):
            sent = ("Bearer " + KEY, f"Bearer {WRONG}", f"Basic {KEY}", KEY)[number % 4 if number % 3 else 0]
            headers = {**request.pop("headers"), "Authorization": sent}
            statuses.add(client.post(**request, headers=headers).status_code)
        (tmp_path / "keys").write_text(f"web {KEY}\n{KEY}\n")  # in clear, by mistake

        for _ in range(1000):
            metrics = client.get("/metrics", headers={"Authorization": f"Bearer {KEY}"}).text
            if "lstmserve_keys_files_refused 1.0" in metrics:
                break
        else:
            pytest.fail("the keys file was not looked at again")
        server.process.terminate()
        assert server.wait() == 0
    assert {200, 400, 401, 413, 415, 422} <= statuses
    assert not {500, 503} & statuses
    assert len(server.log) > 250
    assert any(record["message"].startswith("keys file not read") for record in server.log)
    silent(metrics)
    silent("".join(server.lines))


def test_a_keys_file_in_clear_is_refused_without_being_repeated(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"web {KEY}\n")
    with Server(tmp_path, LSTMSERVE_API_KEYS_FILE=str(tmp_path / "keys")) as server:
        assert server.wait() == 2
    assert len(server.lines) == 1
    assert "line 1: the second word must be the key's SHA-256" in server.lines[0]
    silent(server.lines[0])


@pytest.mark.anyio
@pytest.mark.parametrize("path", ["/predict", "/classify", "/tei/predict", "/v2/models/tiny/infer"])
async def test_nor_does_a_fault_that_nobody_foresaw(
    fake: Fake,
    path: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    root_logger: logging.Logger,
) -> None:
    """An error's own words may repeat what it failed on."""
    logs.configure("debug")

    def fail(*_: object, **__: object) -> None:
        try:
            raise ValueError(f"could not read {SECRET!r}")
        except ValueError as error:
            raise RuntimeError(SECRET, NUMBER) from error

    async with running(fake_app(fake)) as client:
        body = {"token_ids": [[5]]} if path == "/predict" else {"texts": [SECRET]}
        for place in ("service.body._read", "service.batcher.Batcher.run", "service.routes.call.Call.reply"):
            with monkeypatch.context() as patch:
                patch.setattr(place, fail)
                reply = await client.post(path, json=body)
                silent(reply.text)
        for fault in ("start_fails", "collect_fails"):
            setattr(fake, fault, RuntimeError(f"{SECRET} {NUMBER}"))
            silent((await client.post("/predict", json={"token_ids": [[5]]})).text)
        metrics = (await client.get("/metrics")).text
    told = capsys.readouterr().err
    assert told.count("RuntimeError") > 2
    assert "in fail" in told, "where it happened is told"
    silent(told)
    silent(metrics)

"""The whole OpenAPI document, fuzzed by schemathesis: every reply is as documented, and none is the service's fault."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.core.result import Ok
from schemathesis.generation import GenerationMode
from schemathesis.generation.hypothesis.builder import HypothesisTestConfig, HypothesisTestMode, create_test

from service.app import create_app
from service.authorization import is_admin, is_open
from service.engine import choose
from service.keys import digest, make
from service.repository import Repository
from service.settings import Settings
from tests.fuzzing import SCALE, SEED, examples
from tests.fuzzing_client import Asked, asked
from tests.tiny import write_tiny

REFUSED = {
    "POST /predict": 422,
    "POST /models/{name}/predict": 422,
    "POST /classify": 422,
    "POST /models/{name}/classify": 422,
    "POST /tei": 413,
    "POST /tei/predict": 413,
    "POST /v2/models/{name}/infer": 400,
    "POST /v2/models/{name}/versions/{version}/infer": 400,
    "POST /v2/repository/models/{name}/load": 400,
}
"""What may be said of data that its JSON Schema takes: it cannot state that rows are of one width, what pads, lengths
and the vocabulary allow, that texts have tokens, that a tensor's data is of its shape, or that 1.0 is no integer."""

RESENT = {"ignored_auth"}
"""Checks that send a request again, by a client of their own: what they look for is tested below."""

LEAST_MS = 5000
"""A shorter deadline might pass."""


class Keyed:
    """A service over a small model, with keys of both kinds, and who may ask what."""

    def __init__(self, folder: Path) -> None:
        self.api, self.admin = make(), make()
        write_tiny(folder / "store" / "imdb" / "1")
        for name, key in (("api", self.api), ("admin", self.admin)):
            (folder / name).write_text(f"{name} {digest(key.encode())} priority=high\n")
        self.settings = Settings(
            store=folder / "store",
            device="cpu",
            threads=1,
            lanes=8,
            precision="float32",
            max_body_bytes=1 << 18,
            api_keys_file=folder / "api",
            admin_keys_file=folder / "admin",
        )

    def authorization(self, path: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.admin if is_admin(path) else self.api}"}


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Keyed:
    return Keyed(tmp_path_factory.mktemp("service"))


@pytest.fixture(scope="module")
def service(keyed: Keyed) -> Iterator[Asked]:
    if SCALE > 1:
        print(f"FUZZ_SEED={SEED}")
    with asked(create_app(keyed.settings, Repository("imdb"), choose(keyed.settings))) as service:
        yield service


@pytest.fixture(scope="module")
def document(service: Asked) -> dict[str, Any]:
    found: dict[str, Any] = service.send("GET", "/openapi.json").json()
    return found


def ask(case: schemathesis.Case[Any], service: Asked, keyed: Keyed) -> None:
    """Sends a case, and raises for what is not right about the reply."""
    assert case.meta is not None
    positive = case.meta.generation.mode == GenerationMode.POSITIVE
    if positive and "name" in case.path_parameters and len(str(case.path_parameters["name"])) % 4:
        case.path_parameters["name"] = "imdb"
        if "version" in case.path_parameters:
            case.path_parameters["version"] = "1"
    wait = str(case.headers.get("X-Request-Timeout-Ms", ""))
    if wait.isdecimal() and 1 <= int(wait) < LEAST_MS:
        case.headers["X-Request-Timeout-Ms"] = str(LEAST_MS)
    sent = requests.Request(**case.as_transport_kwargs(base_url="http://test")).prepare()
    assert sent.url is not None
    assert sent.method is not None
    headers = {name: str(value) for name, value in sent.headers.items()} | keyed.authorization(case.path)
    body = sent.body.encode() if isinstance(sent.body, str) else sent.body or b""
    reply = service.send(sent.method, sent.url, body, headers)
    if case.path.endswith("/unload") and reply.status_code == 200:
        service.send("POST", "/v2/repository/models/imdb/load", b"", headers).raise_for_status()
    checks: dict[str, Any] = {name: CHECKS.get_one(name) for name in CHECKS.get_all_names() if name not in RESENT}
    if reply.status_code == REFUSED.get(case.operation.label):
        del checks["positive_data_acceptance"]
    case.validate_response(reply, checks=list(checks.values()))


def test_every_reply_is_as_documented(document: dict[str, Any], service: Asked, keyed: Keyed) -> None:
    load_all_checks()
    described = schemathesis.openapi.from_dict(document)
    described.config.generation.update(with_security_parameters=False)  # `ask` sends the key
    rejection = described.config.checks.negative_data_rejection
    rejection.expected_statuses = [*rejection.expected_statuses, "413"]  # a body over the limit
    config = HypothesisTestConfig(described.config, list(HypothesisTestMode), examples(150), seed=SEED)
    faults, operations = [], set()
    for found in described.get_all_operations():
        assert isinstance(found, Ok), found
        operation = found.ok()
        operations.add(operation.label)
        try:
            create_test(operation=operation, test_func=ask, config=config)(service=service, keyed=keyed)
        except BaseException as fault:
            faults.append(f"{operation.label}: {fault!r:.1500}")
    assert not faults, "\n\n".join(faults)
    assert REFUSED.keys() <= operations
    assert len(operations) >= 28


def test_without_its_key_nothing_is_told(document: dict[str, Any], service: Asked, keyed: Keyed) -> None:
    refused = 0
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            url = re.sub(r"{\w+}", "imdb", path)
            other = keyed.api if is_admin(path) else keyed.admin
            for key, status in ((None, 401), ("", 401), (make(), 401), (other, 403)):
                reply = service.send(method.upper(), url, b"{}", {"Authorization": f"Bearer {key}"} if key else {})
                if is_open(path):
                    assert reply.status_code == 200, url
                    continue
                assert reply.status_code == status, url
                assert str(status) in operation["responses"]
                assert reply.headers["www-authenticate"].startswith("Bearer ")
                assert "imdb" not in reply.text.replace(url, "")
                refused += 1
    assert refused > 80


def test_so_many_cases_were_asked(service: Asked) -> None:
    assert service.statuses.total() >= 3500 * SCALE
    assert service.statuses[200] >= 500 * SCALE

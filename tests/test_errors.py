"""The error tree: one handler, one shape, and the tree that its docstring draws."""

import json
import re
from http import HTTPStatus

import pytest
from starlette.requests import Request

from service import errors
from service.app import _on_service_error
from service.dialects import refusal
from service.errors import (
    BodyTooLarge,
    BodyTooSlow,
    DeadlineExceeded,
    EngineLost,
    FieldError,
    Overloaded,
    RateLimited,
    ServiceError,
    Unauthorized,
)
from service.metrics import Metrics
from service.schemas.shared import Problem

pytestmark = pytest.mark.anyio

FAMILY = ServiceError.__subclasses__()


def make(kind: type[ServiceError]) -> ServiceError:
    if kind is BodyTooLarge:
        return BodyTooLarge(10)
    if kind is BodyTooSlow:
        return BodyTooSlow()
    if kind in (DeadlineExceeded, EngineLost):
        return kind()
    if kind is RateLimited:
        return RateLimited(0.5, 1.2)
    if kind is Overloaded:
        return Overloaded("full", 7)
    return kind("what happened")


def test_the_docstring_draws_the_whole_tree() -> None:
    drawn = re.findall(r"[├└]── (\w+) +(\d{3})", errors.__doc__ or "")
    assert drawn == [(kind.__name__, str(kind.status.value)) for kind in sorted(FAMILY, key=lambda kind: kind.status)]
    assert not [grandchild for kind in FAMILY for grandchild in kind.__subclasses__()], "one level"


def test_errors_of_one_status_ask_for_the_same_remedy() -> None:
    """A client that knows the status alone does what is right."""
    assert {kind.__name__ for kind in FAMILY if kind.status == 429} == {"Overloaded", "RateLimited"}
    assert {kind.__name__ for kind in FAMILY if kind.status == 503} == {"EngineLost", "NotReady"}
    statuses = [kind.status for kind in FAMILY]
    assert len(set(statuses)) == len(statuses) - 2
    assert all(400 <= status < 600 for status in statuses)


@pytest.mark.parametrize("kind", FAMILY, ids=lambda kind: kind.__name__)
async def test_each_renders_to_the_one_shape_and_is_counted(kind: type[ServiceError]) -> None:
    error, metrics = make(kind), Metrics()
    assert str(error) == error.detail
    reply = await _on_service_error(metrics)(Request({"type": "http", "path": "/x", "headers": []}), error)
    assert reply.status_code == kind.status
    assert reply.headers["content-type"] == "application/problem+json"
    body = json.loads(bytes(reply.body))
    assert body == {
        "type": "about:blank",
        "title": HTTPStatus(kind.status).phrase,
        "status": kind.status,
        "detail": error.detail,
        "request_id": "",
    }
    Problem.model_validate(body, strict=True)
    for name, value in error.headers.items():
        assert reply.headers[name] == value
    assert metrics.registry.get_sample_value("lstmserve_refusals_total", {"reason": kind.__name__}) == 1


def test_headers_of_those_that_have_some() -> None:
    assert make(Overloaded).headers == {"Retry-After": "7"}
    assert make(RateLimited).headers == {"Retry-After": "2"}
    assert make(Unauthorized).headers == {"WWW-Authenticate": 'Bearer realm="lstm-serve"'}
    assert Unauthorized("x", "invalid_token").headers["WWW-Authenticate"].endswith(', error="invalid_token"')
    expected = {Unauthorized, BodyTooSlow, BodyTooLarge, Overloaded, RateLimited, EngineLost}
    assert {kind for kind in FAMILY if make(kind).headers} == expected


def test_field_errors_are_told_with_their_count() -> None:
    reply = refusal("/", 422, "bad", "id-1", errors=[FieldError("#/a", "is wrong")], count=30, headers={"X-Y": "z"})
    body = json.loads(bytes(reply.body))
    assert body["errors"] == [{"pointer": "#/a", "detail": "is wrong"}]
    assert body["error_count"] == 30
    assert body["request_id"] == "id-1"
    assert reply.headers["x-y"] == "z"
    Problem.model_validate(body, strict=True)

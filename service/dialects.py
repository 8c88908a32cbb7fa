"""How a refusal is told: RFC 9457's problem everywhere, but where the clients of a protocol expect its own shape."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus

from pydantic_core import to_json
from starlette.responses import Response

from service.errors import FieldError

TEI = {
    400: (400, "Validation"),
    401: (401, "Validation"),
    403: (403, "Validation"),
    404: (404, "Validation"),
    405: (405, "Validation"),
    408: (408, "Validation"),
    413: (413, "Validation"),
    415: (415, "Validation"),
    422: (413, "Validation"),
    429: (429, "Overloaded"),
    500: (424, "Backend"),
    503: (503, "Unhealthy"),
    504: (424, "Backend"),
}
"""Status and error type under ``/tei``, by ours.

After ``router/src/http/server.rs`` of that server: each of its types has one status, Validation's is 413. What its
framework refuses before (400, 404, 405, 408, 415) keeps its own there too.
"""

V2 = {422: 400}
"""Status under ``/v2`` where it is not ours: that protocol knows 400 for all that is wrong in a request."""


def refusal(
    path: str,
    status: int,
    detail: str,
    request_id: str,
    *,
    errors: Sequence[FieldError] = (),
    count: int = 0,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """The reply to a request of `path` that failed, in the dialect which is spoken there."""
    family = path.removeprefix("/").partition("/")[0]
    if family == "v2":
        return Response(to_json({"error": detail}), V2.get(status, status), headers, "application/json")
    if family == "tei":
        status, kind = TEI.get(status, (status, "Backend"))
        return Response(to_json({"error": detail, "error_type": kind}), status, headers, "application/json")
    body: dict[str, object] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": int(status),
        "detail": detail,
        "request_id": request_id,
    }
    if errors:
        body["errors"] = [error._asdict() for error in errors]
        body["error_count"] = count
    return Response(to_json(body), status, headers, "application/problem+json")

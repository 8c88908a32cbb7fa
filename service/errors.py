"""Every way a request can fail.

ServiceError
├── NotJSON               400
├── Unauthorized          401, WWW-Authenticate
├── Forbidden             403
├── UnknownModel          404
├── BodyTooSlow           408
├── BodyTooLarge          413
├── UnsupportedMediaType  415
├── InvalidContent        422
├── RateLimited           429, Retry-After
├── Overloaded            429, Retry-After
├── EngineFailed          500
├── EngineLost            503, Retry-After
├── NotReady              503
└── DeadlineExceeded      504

BackendError is apart: no request's error, but the reason why no engine can serve any.
"""

import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import ClassVar, NamedTuple

MAX_LISTED = 20
"""Field errors listed in one reply; their count is always given."""


class FieldError(NamedTuple):
    """One thing wrong in a request; `pointer` is a JSON pointer as in RFC 9457, section 3, or a header's name."""

    pointer: str
    detail: str


class ServiceError(Exception):
    """A request's one ending when it is not an answer; `detail` names the field, the limit and the remedy."""

    status: ClassVar[HTTPStatus]

    def __init__(
        self,
        detail: str,
        *,
        errors: Sequence[FieldError] = (),
        count: int = 0,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail, self.errors, self.count, self.headers = detail, errors, count, headers or {}


class NotJSON(ServiceError):
    status = HTTPStatus.BAD_REQUEST


class Unauthorized(ServiceError):
    status = HTTPStatus.UNAUTHORIZED

    def __init__(self, detail: str, error: str = "") -> None:
        """`error`: of RFC 6750, section 3.1, where a key was sent."""
        challenge = 'Bearer realm="lstm-serve"' + (f', error="{error}"' if error else "")
        super().__init__(detail, headers={"WWW-Authenticate": challenge})


class Forbidden(ServiceError):
    status = HTTPStatus.FORBIDDEN


class UnknownModel(ServiceError):
    status = HTTPStatus.NOT_FOUND


class BodyTooSlow(ServiceError):
    status = HTTPStatus.REQUEST_TIMEOUT

    def __init__(self) -> None:
        super().__init__(
            "the body did not arrive by the deadline, which X-Request-Timeout-Ms or LSTMSERVE_TIMEOUT_MS sets",
            headers={"Connection": "close"},  # what is left of it is not read
        )


class BodyTooLarge(ServiceError):
    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"the body is over the limit of {limit} bytes (LSTMSERVE_MAX_BODY_BYTES); send several smaller requests",
            headers={"Connection": "close"},  # what is left of it is not read
        )


class UnsupportedMediaType(ServiceError):
    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE


class InvalidContent(ServiceError):
    status = HTTPStatus.UNPROCESSABLE_ENTITY


class RateLimited(ServiceError):
    status = HTTPStatus.TOO_MANY_REQUESTS

    def __init__(self, limit: float, wait: float) -> None:
        """`wait`: seconds until the next one is admitted."""
        super().__init__(
            f"more than {limit:g} requests a second (LSTMSERVE_RATE_LIMIT); come back after Retry-After seconds",
            headers={"Retry-After": str(max(1, math.ceil(wait)))},
        )


class Overloaded(ServiceError):
    status = HTTPStatus.TOO_MANY_REQUESTS

    def __init__(self, detail: str, retry_after: int) -> None:
        super().__init__(detail, headers={"Retry-After": str(retry_after)})


class EngineFailed(ServiceError):
    status = HTTPStatus.INTERNAL_SERVER_ERROR


class EngineLost(ServiceError):
    status = HTTPStatus.SERVICE_UNAVAILABLE

    def __init__(self) -> None:
        super().__init__(
            "the engine thread that computed a sequence of this request failed, and was replaced: send it again",
            headers={"Retry-After": "1"},
        )


class NotReady(ServiceError):
    status = HTTPStatus.SERVICE_UNAVAILABLE


class DeadlineExceeded(ServiceError):
    status = HTTPStatus.GATEWAY_TIMEOUT

    def __init__(self) -> None:
        super().__init__(
            "no answer by the deadline, which X-Request-Timeout-Ms (under /v2 also the parameter timeout) or "
            "LSTMSERVE_TIMEOUT_MS sets; ask for less, or later"
        )


class BackendError(RuntimeError):
    """No engine can run here as asked; the message is one line with the remedy."""

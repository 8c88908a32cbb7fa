"""Who may ask for what: a key for everything but the open routes, an admin key for what changes the models."""

import ipaddress
import time
from collections.abc import Hashable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.dialects import refusal
from service.errors import Forbidden, RateLimited, ServiceError, Unauthorized
from service.keys import Key, Keys
from service.logs import request_id
from service.metrics import Metrics
from service.rate import Rate

OPEN = ("/livez", "/readyz", "/v2/health/live", "/v2/health/ready", "/tei/health", "/", "/docs", "/openapi.json")
OPEN_FOLDERS = ("/page/", "/docs/assets/")
"""What needs no key: the probes, and the pages with their files. A path that is not exactly so needs one."""

ADMIN_FOLDER = "/v2/repository/"
"""What needs an admin key."""


def is_open(path: str) -> bool:
    return path in OPEN or path.startswith(OPEN_FOLDERS)


def is_admin(path: str) -> bool:
    return path.startswith(ADMIN_FOLDER)


class Authorization:
    """ASGI middleware around all routes: it lets a request in, or refuses it before anything of its body is read.

    ``scope["key"]`` is then the Key that was sent, or None where none is needed. It decides by the path that the router
    will see, and by nothing else.
    """

    def __init__(self, app: ASGIApp, *, api: Keys | None, admin: Keys | None, rate: float, metrics: Metrics) -> None:
        """`api`: None lets everybody ask; `admin`: None lets nobody. `rate`: requests a second of each; 0: no limit."""
        self._app, self._api, self._admin, self._metrics = app, api, admin, metrics
        self._rate = Rate(rate) if rate else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not is_open(scope["path"]):
            try:
                self._admit(scope)
            except ServiceError as error:
                self._metrics.refused(type(error).__name__)
                reply = refusal(scope["path"], error.status, error.detail, request_id.get(), headers=error.headers)
                await reply(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _admit(self, scope: Scope) -> None:
        """Raises Unauthorized, Forbidden or RateLimited."""
        admin = is_admin(scope["path"])
        keys = self._admin if admin else self._api
        if admin and keys is None:
            raise Forbidden(
                "nobody may load or unload models here: set LSTMSERVE_ADMIN_KEYS_FILE to a file of keys, "
                "which lstm-serve keys add makes"
            )
        key = scope["key"] = self._known(Headers(scope=scope), keys, admin) if keys else None
        if self._rate:
            who = (admin, key.name) if key else _neighbourhood(scope)
            if wait := self._rate.take(who, time.monotonic()):
                raise RateLimited(self._rate.limit, wait)

    def _known(self, headers: Headers, keys: Keys, admin: bool) -> Key:
        kind = "an admin key" if admin else "an API key"
        sent = headers.getlist("authorization")
        if not sent:
            raise Unauthorized(f"send {kind} as Authorization: Bearer KEY")
        scheme, _, token = sent[0].partition(" ")
        if len(sent) > 1 or scheme.lower() != "bearer" or not token.strip():
            raise Unauthorized(f"send {kind} once, as Authorization: Bearer KEY", "invalid_request")
        credentials = token.strip().encode("latin-1")  # as a header is decoded
        if key := keys.find(credentials):
            return key
        other = self._api if admin else self._admin
        if found := other and other.find(credentials):
            raise Forbidden(
                f"the key {found.name!r} may not load or unload models: send one of LSTMSERVE_ADMIN_KEYS_FILE"
                if admin
                else f"the admin key {found.name!r} is for {ADMIN_FOLDER} alone: send one of LSTMSERVE_API_KEYS_FILE",
                headers={"WWW-Authenticate": 'Bearer realm="lstm-serve", error="insufficient_scope"'},
            )
        raise Unauthorized("the key is not known: it may be mistyped, or have been removed", "invalid_token")


def _neighbourhood(scope: Scope) -> Hashable:
    """The client's address; in IPv6 its network, as one client has all addresses of that."""
    host = scope["client"][0] if scope.get("client") else ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        return str(address.ipv4_mapped or int(address) >> 64)
    return host

"""``/docs``, Swagger UI over ``/openapi.json``: read or built once, served from memory, nothing from another host."""

import functools
import gzip
import hashlib
import html
import importlib.resources
import json
from typing import NamedTuple

from fastapi import APIRouter, FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.types import Receive, Scope, Send

from service.routes.page import HEADERS, MEDIA

ASSETS = ("swagger-ui.css", "swagger-ui-bundle.js")

PIECE = 1 << 16
"""Bytes that are written at a time: a client that does not read holds no more of a file than a few of these."""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="page/icon.svg">
<link rel="stylesheet" href="docs/assets/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/assets/swagger-ui-bundle.js"></script>
<script src="page/docs.js"></script>
</body>
</html>
"""
"""Addresses are relative: it works under a prefix that a proxy takes off, if the document's routes do."""


class File(NamedTuple):
    plain: bytes
    packed: bytes
    """In gzip."""
    media: str
    etag: str


class Pieces(Response):
    """Each piece waits until the client has taken most of those before it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for start in range(0, len(self.body), PIECE):
            end = start + PIECE
            more = end < len(self.body)
            await send({"type": "http.response.body", "body": bytes(self.body[start:end]), "more_body": more})


def mount(app: FastAPI) -> None:
    """Adds the page, its assets and the application's document, as it is when it is first asked for."""
    routes = APIRouter(include_in_schema=False)
    page = PAGE.format(title=html.escape(f"{app.title} {app.version}"))
    assets = {name: _asset(name) for name in ASSETS}

    @routes.get("/docs")
    async def docs() -> HTMLResponse:
        return HTMLResponse(page, headers=HEADERS)

    @routes.api_route("/docs/assets/{name}", methods=["GET", "HEAD"])
    async def asset(name: str, request: Request) -> Response:
        if name not in assets:
            raise HTTPException(404, "the page has no such file")
        return _reply(request, assets[name])

    @functools.cache
    def built() -> File:
        return _file(json.dumps(app.openapi(), ensure_ascii=False).encode(), "application/json")

    @routes.api_route("/openapi.json", methods=["GET", "HEAD"])
    async def document(request: Request) -> Response:
        return _reply(request, built())

    app.include_router(routes)


@functools.cache
def _asset(name: str) -> File:
    content = importlib.resources.files("fastapi_swagger").joinpath("resources", name).read_bytes()
    return _file(content, MEDIA[name[name.rindex(".") :]])


def _file(content: bytes, media: str) -> File:
    return File(content, gzip.compress(content, 6, mtime=0), media, hashlib.sha256(content).hexdigest()[:16])


def _reply(request: Request, file: File) -> Response:
    packed = _takes_gzip(request.headers.get("accept-encoding", ""))
    content, etag = (file.packed, f'"{file.etag}-gzip"') if packed else (file.plain, f'"{file.etag}"')
    headers = {**HEADERS, "Cache-Control": "no-cache", "ETag": etag, "Vary": "Accept-Encoding"}
    known = request.headers.get("if-none-match", "").split(",")
    if etag in (tag.strip().removeprefix("W/") for tag in known):
        return Response(status_code=304, headers=headers)
    if packed:
        headers["Content-Encoding"] = "gzip"
    return Pieces(content, media_type=file.media, headers=headers)


def _takes_gzip(accepted: str) -> bool:
    """Whether it is named, and not by a weight of 0 (RFC 9110, section 12.5.3)."""
    for each in accepted.lower().split(","):
        coding, _, weight = each.replace(" ", "").partition(";q=")
        if coding == "gzip":
            return weight.strip("0.") != "" or not weight
    return False

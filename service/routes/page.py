"""The demo page, ``/``, and its files, ``/page/...``: read once, served from memory, alike on every instance."""

import hashlib
from pathlib import Path
from typing import NamedTuple

from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

FOLDER = Path(__file__).parents[1] / "page"

MEDIA = {".css": "text/css", ".html": "text/html", ".js": "text/javascript", ".svg": "image/svg+xml"}

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "base-uri 'self'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()",
}
"""Of every page for people, and of its files: it runs and loads what this service serves, nothing else."""


class File(NamedTuple):
    content: bytes
    media: str
    etag: str


def router() -> APIRouter:
    """The routes. Addresses on the page are relative: it works under a prefix that a proxy takes off."""
    routes = APIRouter(include_in_schema=False)
    files = {path.name: _read(path) for path in FOLDER.iterdir() if path.suffix in MEDIA and path.is_file()}
    index = files.pop("index.html")

    @routes.api_route("/", methods=["GET", "HEAD"])
    async def page(request: Request) -> Response:
        return _reply(request, index)

    @routes.api_route("/page/{name}", methods=["GET", "HEAD"])
    async def file(name: str, request: Request) -> Response:
        if name not in files:
            raise HTTPException(404, "the page has no such file")
        return _reply(request, files[name])

    return routes


def _read(path: Path) -> File:
    content = path.read_bytes()
    return File(content, MEDIA[path.suffix], f'"{hashlib.sha256(content).hexdigest()[:16]}"')


def _reply(request: Request, file: File) -> Response:
    headers = {**HEADERS, "Cache-Control": "no-cache", "ETag": file.etag}  # kept, but asked for again each time
    known = request.headers.get("if-none-match", "").split(",")
    if file.etag in (tag.strip().removeprefix("W/") for tag in known):
        return Response(status_code=304, headers=headers)
    return Response(file.content, media_type=file.media, headers=headers)

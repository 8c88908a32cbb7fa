"""Files for people's browsers: read or built once, served from memory, alike on every instance."""

import gzip
import hashlib
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

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


PIECE = 1 << 16
"""Bytes that are written at a time: a client that does not read holds no more of a file than a few of these."""


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


def file_of(content: bytes, media: str) -> File:
    return File(content, gzip.compress(content, 6, mtime=0), media, hashlib.sha256(content).hexdigest()[:16])


def send_file(request: Request, file: File) -> Response:
    """The file, or 304 where the client has it; kept by it, but asked for again each time."""
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

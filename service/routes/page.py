"""The demo page, ``/``, and its files, ``/page/...``: read once, served from memory."""

from pathlib import Path

from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from service.routes.files import MEDIA, File, file_of, send_file

FOLDER = Path(__file__).parents[1] / "page"


def router() -> APIRouter:
    """The routes. Addresses on the page are relative: it works under a prefix that a proxy takes off."""
    routes = APIRouter(include_in_schema=False)
    files = {path.name: _read(path) for path in FOLDER.iterdir() if path.suffix in MEDIA and path.is_file()}
    index = files.pop("index.html")

    @routes.api_route("/", methods=["GET", "HEAD"])
    async def page(request: Request) -> Response:
        return send_file(request, index)

    @routes.api_route("/page/{name}", methods=["GET", "HEAD"])
    async def file(name: str, request: Request) -> Response:
        if name not in files:
            raise HTTPException(404, "the page has no such file")
        return send_file(request, files[name])

    return routes


def _read(path: Path) -> File:
    return file_of(path.read_bytes(), MEDIA[path.suffix])

"""``/docs``, Swagger UI over ``/openapi.json``: read or built once, served from memory, nothing from another host."""

import functools
import html
import importlib.resources
import json

from fastapi import APIRouter, FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from service.routes.files import HEADERS, MEDIA, File, file_of, send_file

ASSETS = ("swagger-ui.css", "swagger-ui-bundle.js")

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
        return send_file(request, assets[name])

    @functools.cache
    def built() -> File:
        return file_of(json.dumps(app.openapi(), ensure_ascii=False).encode(), "application/json")

    @routes.api_route("/openapi.json", methods=["GET", "HEAD"])
    async def document(request: Request) -> Response:
        return send_file(request, built())

    app.include_router(routes)


@functools.cache
def _asset(name: str) -> File:
    content = importlib.resources.files("fastapi_swagger").joinpath("resources", name).read_bytes()
    return file_of(content, MEDIA[name[name.rindex(".") :]])

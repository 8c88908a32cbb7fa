"""``/docs``: Swagger UI, whose assets come from an installed package and are served from here."""

import html
from typing import Any

from fastapi import APIRouter, FastAPI
from starlette.responses import HTMLResponse, Response
from starlette.staticfiles import StaticFiles

from service.routes.page import HEADERS

ASSETS = "/docs/assets"

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


class Assets(StaticFiles):
    def file_response(self, *args: Any, **named: Any) -> Response:
        response = super().file_response(*args, **named)
        response.headers.update(HEADERS)
        return response


def mount(app: FastAPI) -> None:
    """Adds the page and its assets; nothing on it is loaded from another host."""
    routes = APIRouter(include_in_schema=False)
    page = PAGE.format(title=html.escape(f"{app.title} {app.version}"))

    @routes.get("/docs")
    async def docs() -> HTMLResponse:
        return HTMLResponse(page, headers=HEADERS)

    app.include_router(routes)
    app.mount(ASSETS, Assets(packages=[("fastapi_swagger", "resources")]))

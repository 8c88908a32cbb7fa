"""What serves here: ``GET /models``, ``GET /models/{name}`` and its card."""

import asyncio
import html
from pathlib import Path

from fastapi import APIRouter
from markdown_it import MarkdownIt
from starlette.responses import FileResponse, HTMLResponse, Response

from models.artifact import CARD
from service.errors import UnknownModel
from service.repository import Model
from service.routes.call import Serving
from service.routes.described import UNKNOWN
from service.routes.files import HEADERS
from service.schemas.models import ModelReply
from service.schemas.shared import problems
from service.store import Store

MOST_CARD_BYTES = 1 << 16

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<base href="card/">
<link rel="icon" href="../../../page/icon.svg">
<link rel="stylesheet" href="../../../page/theme.css">
<link rel="stylesheet" href="../../../page/card.css">
</head>
<body>
<nav><a href="../../../">lstm-serve</a></nav>
<main>
{body}
</main>
</body>
</html>
"""
"""Addresses are relative to where the card's pictures are, so that it works under a prefix too."""


def router(serving: Serving, store: Store) -> APIRouter:
    routes = APIRouter(tags=["models"])
    repository, settings = serving.repository, serving.settings

    @routes.get("/models", summary="The models that serve")
    async def every() -> list[ModelReply]:
        return await asyncio.to_thread(lambda models: [described(model) for model in models], list(repository))

    @routes.get("/models/{name}", summary="One of them", responses=problems(UNKNOWN))
    async def one(name: str) -> ModelReply:
        return await asyncio.to_thread(described, repository.get(name))

    @routes.get(
        "/models/{name}/card",
        summary="Its model card",
        response_class=HTMLResponse,
        responses=problems({404: "no model of that name, or it has no card"}),
    )
    async def card(name: str) -> Response:
        page = await asyncio.to_thread(_page, repository.get(name))
        return HTMLResponse(page, headers=HEADERS)

    @routes.get("/models/{name}/card/{picture}", include_in_schema=False)
    async def picture(name: str, picture: str) -> Response:
        path = _file(repository.get(name), picture)
        if path is None or path.suffix != ".png":
            raise UnknownModel(f"the model card of {name!r} has no picture of that name")
        return FileResponse(path, media_type="image/png", headers=HEADERS)

    def described(model: Model) -> ModelReply:
        config = model.config
        return ModelReply(
            name=model.name,
            version=model.version,
            versions=store.versions(model.name),
            default=model.name == repository.default,
            labels=list(config.labels),
            output=config.output,
            precision=model.precision,
            max_tokens=min(config.max_length, settings.max_tokens),
            vocab_size=config.vocab_size,
            pad_id=config.pad_id,
            tokenizer=model.tokenizer is not None,
            card=f"/models/{model.name}/card" if _file(model, CARD) else None,
        )

    return routes


def _page(model: Model) -> str:
    """Raises UnknownModel where there is no card."""
    path = _file(model, CARD)
    if path is None:
        raise UnknownModel(f"version {model.version} of {model.name!r} has no model card ({CARD})")
    with path.open("rb") as file:
        text = file.read(MOST_CARD_BYTES).decode(errors="replace")
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    return PAGE.format(title=html.escape(f"{model.name}, version {model.version}"), body=body)


def _file(model: Model, name: str) -> Path | None:
    """A file of the version's folder; None where there is none, or where it is a link to elsewhere."""
    if model.folder is None:
        return None
    try:
        path = (model.folder / name).resolve()
    except ValueError:  # no name for a file
        return None
    return path if path.is_relative_to(model.folder.resolve()) and path.is_file() else None

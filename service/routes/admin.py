"""For the operator: which versions there are, and which serve (Triton's model repository extension).

``POST /v2/repository/index``, ``/v2/repository/models/{name}/load`` and ``/unload``, all with an admin key
(`service.authorization`).
"""

import asyncio
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from models.artifact import ArtifactError
from service.comparison import Comparison
from service.errors import InvalidContent, NotReady
from service.loader import Loader, Refused
from service.routes.call import Call, Serving
from service.routes.described import Plain
from service.schemas.admin import IndexEntry, IndexRequest, LoadReply, LoadRequest
from service.schemas.shared import parse
from service.schemas.v2 import refusals
from service.store import Store

FAILURES = refusals(
    {
        400: "the body is not right, or the version cannot serve: nothing has changed",
        404: "no such model or version in the store",
        408: "the body did not arrive by the deadline",
        413: "the body is over the limit",
        415: "the body is compressed by other than gzip or deflate",
        503: "the engine does not run, or there is no store",
    }
)


def router(serving: Serving, loader: Loader) -> APIRouter:
    routes = APIRouter(tags=["admin"], route_class=Plain, prefix="/v2/repository")
    repository, store = serving.repository, loader.store

    @routes.post(
        "/index",
        summary="The versions in the store, and which of them serve",
        response_model=list[IndexEntry],
        responses=FAILURES,
        **_documented(IndexRequest.__name__),
    )
    async def index(request: Request) -> Response:
        call = Call(request, serving)
        asked = parse(IndexRequest, await call.body() or b"{}")
        ready = {(model.name, model.version) for model in repository}
        found = set() if asked.ready else await asyncio.to_thread(_on_disk, store)
        return call.reply([_entry(*key, key in ready, loader.refused.get(key)) for key in sorted(ready | found)])

    @routes.post(
        "/models/{name}/load",
        summary="Serve the highest version, or pin one",
        description="It is read, verified, warmed and compared with the version that it replaces; then they are "
        "swapped. Requests in flight end on the version on which they began.",
        response_model=LoadReply,
        responses=FAILURES,
        **_documented(LoadRequest.__name__),
    )
    async def load(name: str, request: Request) -> Response:
        call = Call(request, serving)
        asked = parse(LoadRequest, await call.body() or b"{}")
        try:
            loaded = await loader.load(name, asked.version)
        except ArtifactError as error:
            raise InvalidContent(f"failed to load {name!r}, nothing has changed: {error}") from error
        model = loaded.model
        return call.reply(
            {
                "model": model.name,
                "version": model.version,
                "precision": model.precision,
                "pinned": loader.pinned(name),
                "replaced": loaded.replaced,
                "seconds": loaded.seconds,
                "comparison": loaded.comparison and _told(loaded.comparison),
            }
        )

    @routes.post(
        "/models/{name}/unload",
        summary="Serve a model no more",
        response_model=dict[str, str],
        responses=FAILURES,
        **_documented(LoadRequest.__name__),
    )
    async def unload(name: str, request: Request) -> Response:
        call = Call(request, serving)
        await call.body()  # {"parameters": {"unload_dependents": false}}: there are none
        loader.unload(name)
        return call.reply({"model": name, "state": "UNAVAILABLE"})

    return routes


def _on_disk(store: Store) -> set[tuple[str, int]]:
    """Every complete version. Raises NotReady where there is no store."""
    try:
        return {(name, version) for name in store.names() for version in store.versions(name)}
    except ArtifactError as error:
        raise NotReady(str(error)) from error


def _entry(name: str, version: int, ready: bool, refused: Refused | None) -> dict[str, str]:
    reason = "" if ready else f"refused: {refused.reason}" if refused else "unloaded"
    return {"name": name, "version": str(version), "state": "READY" if ready else "UNAVAILABLE", "reason": reason}


def _told(comparison: Comparison) -> dict[str, Any]:
    flips = [flip._asdict() for flip in comparison.golden_flips]
    return {
        "golden": {"texts": comparison.golden, "flips": flips},
        "served": {"sequences": comparison.served, "flips": comparison.served_flips},
    }


def _documented(schema: str) -> dict[str, Any]:
    return {
        "openapi_extra": {
            "requestBody": {"content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}}
        }
    }

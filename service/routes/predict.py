"""Token batches in, logits out: ``POST /predict`` and ``POST /models/{name}/predict``."""

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from service.routes.call import PROBLEMS, UNKNOWN, Call, Plain, Serving, documented
from service.schemas.predict import PredictReply, PredictRequest, Vocabulary
from service.schemas.shared import parse, problems


def router(serving: Serving, schema: type[PredictRequest]) -> APIRouter:
    """The routes, whose bodies are of `schema`, a component of the OpenAPI document."""
    routes = APIRouter(tags=["predict"], route_class=Plain)
    described = documented(serving.settings, schema.__name__, PredictReply)

    @routes.post(
        "/predict", summary="Logits of a token batch, by the default model", responses=problems(PROBLEMS), **described
    )
    async def predict(request: Request) -> Response:
        return await answer(request)

    @routes.post(
        "/models/{name}/predict",
        summary="Logits of a token batch, by a named model",
        responses=problems(PROBLEMS | UNKNOWN),
        **described,
    )
    async def predict_by(name: str, request: Request) -> Response:
        return await answer(request, name)

    async def answer(request: Request, name: str | None = None) -> Response:
        call = Call(request, serving)
        body = await call.json()
        model = serving.repository.get(name)
        config = model.config
        batch = parse(schema, body, Vocabulary(config.vocab_size, config.pad_id, config.max_length))
        logits = await call.answer(model, batch.sequences())
        return call.reply({"model": model.name, "version": model.version, "labels": config.labels, "logits": logits})

    return routes

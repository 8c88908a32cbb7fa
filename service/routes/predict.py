"""Token batches in, logits out: ``POST /predict`` and ``POST /models/{name}/predict``."""

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from service.routes.call import Call, Serving
from service.routes.described import Plain, by_model, documented
from service.schemas.predict import PredictReply, PredictRequest, Vocabulary
from service.schemas.shared import parse


def router(serving: Serving, schema: type[PredictRequest]) -> APIRouter:
    """The routes, whose bodies are of `schema`, a component of the OpenAPI document."""

    async def answer(request: Request, name: str | None) -> Response:
        call = Call(request, serving)
        body = await call.json()
        model = serving.repository.get(name)
        config = model.config
        batch = parse(schema, body, Vocabulary(config.vocab_size, config.pad_id, config.max_length))
        logits = await call.answer(model, batch.sequences())
        return call.reply({"model": model.name, "version": model.version, "labels": config.labels, "logits": logits})

    routes = APIRouter(tags=["predict"], route_class=Plain)
    described = documented(serving.settings, schema.__name__, PredictReply)
    by_model(routes, "predict", "Logits of a token batch", answer, described)
    return routes

"""Text Embeddings Inference's dialect, for its clients with the base URL ``.../tei``; the default model answers."""

import importlib.metadata
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from service.dialects import TEI
from service.errors import NotReady
from service.health import Health
from service.routes.call import Call, Serving
from service.routes.described import PROBLEMS, UNKNOWN, Plain, documented
from service.schemas.shared import parse
from service.schemas.tei import ClassifierModel, ModelType, Prediction, TeiInfo, TeiPredictRequest, TeiRefusal
from service.texts import all_readable
from service.verdict import label_logits, verdicts


def router(serving: Serving, schema: type[TeiPredictRequest], health: Health) -> APIRouter:
    """The routes, whose bodies are of `schema`, a component of the OpenAPI document."""
    routes = APIRouter(tags=["tei"])
    inference = APIRouter(route_class=Plain)
    repository, settings = serving.repository, serving.settings
    described = {
        **documented(settings, schema.__name__, list[Prediction] | list[list[Prediction]]),
        "responses": _refusals(PROBLEMS | UNKNOWN),
    }

    @inference.post("/tei/predict", summary="Labels of a text or of a batch of texts", **described)
    @inference.post("/tei", summary="The same, for clients that post to the base URL itself", **described)
    async def predict(request: Request) -> Response:
        call = Call(request, serving)
        body = await call.json()
        model = repository.get()
        asked = parse(schema, body)
        alone = isinstance(asked.inputs, str)
        texts = [asked.inputs] if isinstance(asked.inputs, str) else asked.inputs
        encoded = all_readable(
            await call.encode(model, texts, asked.cut), lambda number: "#/inputs" if alone else f"#/inputs/{number}"
        )
        logits = await call.answer(model, [each.token_ids for each in encoded])
        scores = (verdict.scores for verdict in verdicts(logits, model.config))
        values = label_logits(logits, model.config) if asked.raw else scores
        replies = [_ranked(each)[: asked.parameters.top_k] for each in values]
        return call.reply(replies[0] if alone else replies)

    @routes.get(
        "/tei/health",
        summary="Whether requests should be sent here",
        response_class=Response,
        responses=_refusals({503: "elsewhere"}),
    )
    async def healthy() -> Response:
        if reason := health.not_ready:
            raise NotReady(reason)
        return Response()

    @routes.get("/tei/info", summary="What serves", responses=_refusals(UNKNOWN))
    async def info() -> TeiInfo:
        model = repository.get()
        labels = model.config.labels
        classifier = ClassifierModel(
            id2label={str(index): label for index, label in enumerate(labels)},
            label2id={label: index for index, label in enumerate(labels)},
        )
        return TeiInfo(
            model_id=model.name,
            model_sha=str(model.version),
            model_dtype=model.precision,
            model_type=ModelType(classifier=classifier),
            max_input_length=min(model.config.max_length, settings.max_tokens),
            max_client_batch_size=settings.max_sequences,
            version=importlib.metadata.version("lstm-serve"),
        )

    routes.include_router(inference)
    return routes


def _ranked(values: dict[str, float]) -> list[dict[str, object]]:
    """The highest first."""
    return [{"score": values[label], "label": label} for label in sorted(values, key=values.__getitem__, reverse=True)]


def _refusals(reasons: dict[int, str]) -> dict[int | str, dict[str, Any]]:
    """What OpenAPI says of a route that may fail so: our status -> why."""
    told: dict[int | str, list[str]] = {}
    for status, reason in sorted(reasons.items()):
        told.setdefault(TEI[status][0], []).append(reason)
    return {status: {"model": TeiRefusal, "description": "; or ".join(why)} for status, why in told.items()}

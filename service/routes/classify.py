"""Texts in, labels out: ``POST /classify`` and ``POST /models/{name}/classify``."""

import functools
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from service.errors import Overloaded
from service.explain import Budget, contributions
from service.repository import Model
from service.routes.call import Call, Serving
from service.routes.described import Plain, by_model, documented
from service.schemas.classify import ClassifyReply, ClassifyRequest
from service.schemas.shared import parse
from service.texts import Encoded, TextError
from service.verdict import Verdict, verdicts


def router(serving: Serving, schema: type[ClassifyRequest]) -> APIRouter:
    """The routes, whose bodies are of `schema`, a component of the OpenAPI document."""

    async def answer(request: Request, name: str | None) -> Response:
        call = Call(request, serving)
        body = await call.json()
        model = serving.repository.get(name)
        asked = parse(schema, body)
        encoded = await call.encode(model, asked.texts, asked.truncate)
        readable = [each for each in encoded if isinstance(each, Encoded)]
        logits = await call.answer(model, [each.token_ids for each in readable])
        judged = zip(verdicts(logits, model.config), logits, strict=True)
        budget = Budget(serving.settings.explain_tokens)
        results = []
        for text, each in zip(asked.texts, encoded, strict=True):
            if isinstance(each, TextError):
                results.append({"error": each._asdict()})
                continue
            verdict, row = next(judged)
            result = _result(each, verdict, row)
            if asked.explain:
                result |= await _explained(call, model, text, each, verdict, row, budget)
            results.append(result)
        return call.reply({"model": model.name, "version": model.version, "results": results})

    routes = APIRouter(tags=["classify"], route_class=Plain)
    described = documented(serving.settings, schema.__name__, ClassifyReply)
    by_model(routes, "classify", "Labels of texts", answer, described)
    return routes


def _result(encoded: Encoded, verdict: Verdict, logits: list[float]) -> dict[str, Any]:
    return {
        **verdict._asdict(),
        "logits": logits,
        "tokens": encoded.tokens,
        "unknown_tokens": encoded.unknown,
        "kept_tokens": len(encoded.token_ids),
        "dropped_tokens": encoded.dropped,
    }


async def _explained(
    call: Call, model: Model, text: str, encoded: Encoded, verdict: Verdict, logits: list[float], budget: Budget
) -> dict[str, Any]:
    if refused := budget.refuses(encoded):
        return {"contributions": None, "not_explained": refused}
    winner = model.config.labels.index(verdict.label)
    compute = functools.partial(call.compute, model)
    try:
        values = await contributions(encoded, logits, winner, model.config, compute)
    except Overloaded:  # the label stands, all the same
        return {"contributions": None, "not_explained": "too much is waiting: ask again, or without an explanation"}
    tokens = await call.locate(model, text, encoded)
    return {
        "contributions": [
            {**token._asdict(), "unknown": token_id == model.unknown_id, "contribution": value}
            for token, token_id, value in zip(tokens, encoded.token_ids, values, strict=True)
        ]
    }

"""The Open Inference Protocol V2, as Triton's and KServe's clients speak it: ``/v2/...``."""

import importlib.metadata
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Path
from starlette.requests import Request
from starlette.responses import Response

from service.errors import NotReady, UnknownModel
from service.health import Health
from service.repository import Model, Repository
from service.routes.call import Serving
from service.routes.described import PROBLEMS, UNKNOWN, Plain, documented
from service.routes.infer import LENGTH, Inference
from service.schemas.v2 import (
    INPUTS,
    OUTPUTS,
    InferReply,
    ModelMetadata,
    ModelReady,
    Refusal,
    ServerLive,
    ServerMetadata,
    ServerReady,
    StatisticsReply,
    TensorMetadata,
    refusals,
)
from service.settings import Settings
from service.statistics import Statistics

EXTENSIONS = ["binary_tensor_data", "classification", "parameters", "schedule_policy", "statistics"]

UNSUPPORTED = {
    "/models/{name}/config": "there is no configuration of Triton's; the model's metadata names its tensors",
    "/models/{name}/versions/{version}/config": "there is no configuration of Triton's; the metadata names the tensors",
    "/models/{name}/trace/setting": "Triton's tracing is not supported: LSTMSERVE_TRACES sets the traces",
    "/trace/setting": "Triton's tracing is not supported: LSTMSERVE_TRACES sets the traces",
    "/logging": "logging is set by LSTMSERVE_LOG_LEVEL",
    "/systemsharedmemory/{rest:path}": "shared memory is not supported: send the tensors' data",
    "/cudasharedmemory/{rest:path}": "shared memory is not supported: send the tensors' data",
}
"""Of Triton's routes, those whose clients deserve a reason rather than a 404."""

Name = Annotated[str, Path(examples=["imdb"])]
Version = Annotated[str, Path(examples=["1"])]


def router(serving: Serving, health: Health) -> APIRouter:
    repository, statistics = serving.repository, Statistics()
    described = _inference(serving.settings)
    routes = APIRouter(prefix="/v2", tags=["v2"])
    inference = APIRouter(route_class=Plain)
    extensions = EXTENSIONS + ["model_repository"] * (serving.settings.admin_keys_file is not None)
    unknown = refusals({404: "no such model, or that version does not serve"})

    def check_ready() -> None:
        if reason := health.not_ready:
            raise NotReady(reason)

    @routes.get("", summary="What serves here, and which extensions it knows")
    async def server() -> ServerMetadata:
        version = importlib.metadata.version("lstm-serve")
        return ServerMetadata(name="lstm-serve", version=version, extensions=extensions)

    @routes.get("/health/live", summary="Whether the process can go on", responses=refusals({503: "it cannot"}))
    async def server_live() -> ServerLive:
        if reason := health.not_live:
            raise NotReady(reason)
        return ServerLive()

    @routes.get("/health/ready", summary="Whether requests should be sent here", responses=refusals({503: "elsewhere"}))
    async def server_ready() -> ServerReady:
        check_ready()
        return ServerReady()

    @routes.get("/models/stats", summary="Statistics of all models that serve")
    async def statistics_of_all() -> StatisticsReply:
        return _statistics(statistics, list(repository))

    @routes.get("/models/{name}", summary="A model's tensors", responses=unknown)
    async def model(name: Name) -> ModelMetadata:
        return _metadata(repository.get(name))

    @routes.get("/models/{name}/versions/{version}", summary="A version's tensors", responses=unknown)
    async def model_version(name: Name, version: Version) -> ModelMetadata:
        return _metadata(_version(repository, name, version))

    @routes.get(
        "/models/{name}/ready",
        summary="Whether a model answers",
        responses=refusals({404: "no such model", 503: "the service is not ready"}),
    )
    async def model_ready(name: Name) -> ModelReady:
        repository.get(name)
        check_ready()
        return ModelReady(name=name)

    @routes.get(
        "/models/{name}/versions/{version}/ready",
        summary="Whether a version answers",
        responses=refusals({404: "no such model, or that version does not serve", 503: "the service is not ready"}),
    )
    async def model_version_ready(name: Name, version: Version) -> ModelReady:
        _version(repository, name, version)
        check_ready()
        return ModelReady(name=name)

    @routes.get("/models/{name}/stats", summary="Statistics of a model", responses=unknown)
    async def model_statistics(name: Name) -> StatisticsReply:
        return _statistics(statistics, [repository.get(name)])

    @routes.get("/models/{name}/versions/{version}/stats", summary="Statistics of a version", responses=unknown)
    async def model_version_statistics(name: Name, version: Version) -> StatisticsReply:
        return _statistics(statistics, [_version(repository, name, version)])

    @inference.post("/models/{name}/infer", summary="Tensors in, tensors out", **described)
    async def infer(name: Name, request: Request) -> Response:
        return await answer(request, lambda: repository.get(name))

    @inference.post(
        "/models/{name}/versions/{version}/infer",
        summary="Tensors in, tensors out, by a version that serves",
        **described,
    )
    async def infer_by_version(name: Name, version: Version, request: Request) -> Response:
        return await answer(request, lambda: _version(repository, name, version))

    async def answer(request: Request, find: Callable[[], Model]) -> Response:
        call = Inference(request, serving)
        body = await call.body()
        call.check_room(body)
        model = find()
        key = (model.name, model.version)
        try:
            response = await call.infer(body, model)
        except Exception:
            statistics.failed(key, call.elapsed)
            raise
        statistics.succeeded(key, call.sequences, **call.seconds())
        return response

    def unsupported(reason: str) -> Callable[[Request], Awaitable[Response]]:
        async def refuse(request: Request) -> Response:
            named = request.path_params
            if "version" in named:
                _version(repository, named["name"], named["version"])
            elif "name" in named:
                repository.get(named["name"])
            error = Refusal(error=f"{request.method} {request.url.path}: {reason}")
            return Response(error.model_dump_json(), 501, media_type="application/json")

        return refuse

    for path, reason in UNSUPPORTED.items():
        routes.add_api_route(path, unsupported(reason), methods=["GET", "POST"], include_in_schema=False)
    routes.include_router(inference)
    return routes


def _inference(settings: Settings) -> dict[str, Any]:
    """What OpenAPI says of a route that infers."""
    described = documented(settings, "InferRequest", InferReply)
    described["openapi_extra"]["parameters"].append(
        {
            "name": LENGTH,
            "in": "header",
            "description": "bytes of the JSON at the body's beginning, where the data of a tensor follows it",
            "schema": {"type": "integer", "minimum": 1},
        }
    )
    binary = {"schema": {"type": "string", "format": "binary", "description": "the JSON, then the tensors' data"}}
    described["openapi_extra"]["requestBody"]["content"]["application/octet-stream"] = binary
    reasons = {status: reason for status, reason in {**PROBLEMS, **UNKNOWN}.items() if status != 422}
    reasons |= {400: "the body is not JSON, or the content is invalid", 415: "compressed by other than gzip or deflate"}
    responses = refusals(reasons)
    responses[200] = {"content": {"application/octet-stream": binary}}
    return {**described, "responses": responses}


def _version(repository: Repository, name: str, version: str) -> Model:
    """Raises UnknownModel."""
    if not (version.isascii() and version.isdecimal() and len(version) < 19):
        raise UnknownModel(f"no version {version[:64]!r} of {name!r}: versions are numbers")
    return repository.get(name, int(version))


def _metadata(model: Model) -> ModelMetadata:
    columns = {"logits": model.config.num_logits, "probabilities": len(model.config.labels)}
    return ModelMetadata(
        name=model.name,
        versions=[str(model.version)],
        platform="lstm_serve_safetensors",
        inputs=[
            TensorMetadata(name=name, datatype=datatype, shape=[-1] * rank)
            for name, (datatype, rank) in INPUTS.items()
            if name != "text" or model.tokenizer
        ],
        outputs=[
            TensorMetadata(name=name, datatype=datatype, shape=[-1, columns[name]] if name in columns else [-1])
            for name, datatype in OUTPUTS.items()
        ],
    )


def _statistics(statistics: Statistics, models: list[Model]) -> StatisticsReply:
    return StatisticsReply.model_validate(statistics.document((model.name, model.version) for model in models))

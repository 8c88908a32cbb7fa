"""The OpenAPI document, completed by what the framework cannot see."""

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

NEVER_SENT = "HTTPValidationError"
"""The framework's reply to parameters that it refuses: every route with a parameter would claim it."""


def complete(app: FastAPI, *schemas: type[BaseModel]) -> dict[str, Any]:
    """The application's document, with the schemas that no route's signature names; the application serves it."""
    document: dict[str, Any] = app.openapi()
    components = document["components"]["schemas"]
    for operation in (operation for path in document["paths"].values() for operation in path.values()):
        if NEVER_SENT in str(operation["responses"].get("422")):
            del operation["responses"]["422"]
    components.pop(NEVER_SENT, None)
    components.pop("ValidationError", None)
    for schema in schemas:
        described = schema.model_json_schema(ref_template="#/components/schemas/{model}")
        components.update({**described.pop("$defs", {}), schema.__name__: described})
    return document

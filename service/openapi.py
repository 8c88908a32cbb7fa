"""The OpenAPI document, completed by what the framework cannot see."""

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from service.authorization import is_admin, is_open
from service.schemas.shared import problems

NEVER_SENT = "HTTPValidationError"
"""The framework's reply to parameters that it refuses: every route with a parameter would claim it."""

SCHEMES = {
    "api_key": {"type": "http", "scheme": "bearer", "description": "a key of LSTMSERVE_API_KEYS_FILE"},
    "admin_key": {"type": "http", "scheme": "bearer", "description": "a key of LSTMSERVE_ADMIN_KEYS_FILE"},
}

NO_KEY = "no key was sent, or one that is not known"
ONLY_ADMIN = "the key is none of an administrator, or there are no such keys: nobody may"
NOT_THIS = "the key may not ask for this: X-Request-Priority, or a route that is not for administrators"
TOO_OFTEN = "more requests a second than a key, or an address, has; come back after Retry-After seconds"

REFUSALS = {"v2": "Refusal", "tei": "TeiRefusal"}
"""Schemas of what is refused under a path's first part, where that is no problem document."""


def complete(app: FastAPI, *schemas: type[BaseModel], keyed: bool = False, limited: bool = False) -> dict[str, Any]:
    """The application's document, with the schemas that no route's signature names; the application serves it.

    `keyed`: an API key is needed. `limited`: who asks too often is refused.
    """
    document: dict[str, Any] = app.openapi()
    components = document["components"]["schemas"]
    document["components"]["securitySchemes"] = {
        name: SCHEMES[name] for name in SCHEMES if keyed or name == "admin_key"
    }
    for path, operations in document["paths"].items():
        for operation in operations.values():
            if NEVER_SENT in str(operation["responses"].get("422")):
                del operation["responses"]["422"]
            if not is_open(path):
                _authorize(path, operation, keyed, limited)
    components.pop(NEVER_SENT, None)
    components.pop("ValidationError", None)
    for schema in schemas:
        described = schema.model_json_schema(ref_template="#/components/schemas/{model}")
        components.update({**described.pop("$defs", {}), schema.__name__: described})
    return document


def _authorize(path: str, operation: dict[str, Any], keyed: bool, limited: bool) -> None:
    """Adds which key is needed, and how `service.authorization` refuses."""
    reasons = {}
    if is_admin(path):
        operation["security"] = [{"admin_key": []}]
        reasons = {401: NO_KEY, 403: ONLY_ADMIN}
    elif keyed:
        operation["security"] = [{"api_key": []}]
        reasons = {401: NO_KEY, 403: NOT_THIS}
    if limited:
        reasons[429] = TOO_OFTEN
    for status, described in problems(reasons).items():
        if schema := REFUSALS.get(path.split("/")[1]):
            described["content"] = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
        if known := operation["responses"].get(str(status)):
            known["description"] += f"; or {described['description']}"
        else:
            operation["responses"][str(status)] = described
    operation["responses"] = dict(sorted(operation["responses"].items()))

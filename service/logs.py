"""Structured logs: one JSON object a line on standard error, with the request id where there is one."""

import logging
import sys
from contextvars import ContextVar

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""Of the request that the current task answers."""


def configure(level: str) -> None:
    """Routes all logging, uvicorn's too, to one handler."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_with_request_id)
    handler.setFormatter(
        JsonFormatter(
            "{levelname}{name}{message}",
            style="{",
            timestamp="time",
            rename_fields={"levelname": "level", "name": "logger"},
            reserved_attrs=[*RESERVED_ATTRS, "color_message"],  # uvicorn's, for terminals
        )
    )
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def _with_request_id(record: logging.LogRecord) -> bool:
    if identity := request_id.get():
        record.request_id = identity
    return True

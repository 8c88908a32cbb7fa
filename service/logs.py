"""Structured logs: one JSON object a line on standard error, with the request id where there is one."""

import logging
import random
import re
import sys
import traceback
from contextvars import ContextVar
from typing import Any

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""Of the request that the current task answers."""


def request_id_of(sent: str) -> str:
    """The id of a request that came with this one, which is taken if it is fit for headers and logs."""
    return sent if re.fullmatch(r"[\w.:/+=-]{1,128}", sent, re.ASCII) else f"{random.getrandbits(128):032x}"


def configure(level: str) -> None:
    """Routes all logging, uvicorn's too, to one handler."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_with_request_id)
    handler.setFormatter(
        _Formatter(
            "{levelname}{name}{message}",
            style="{",
            timestamp="time",
            rename_fields={"levelname": "level", "name": "logger"},
            reserved_attrs=[*RESERVED_ATTRS, "color_message"],  # uvicorn's, for terminals
        )
    )
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


class _Formatter(JsonFormatter):
    def formatException(self, ei: Any) -> str:  # noqa: N802
        """Where an error came from and of what kind it is; its words may repeat what was asked, but the system's."""
        return _trace(ei[1])


def _trace(error: BaseException) -> str:
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    said = f": {error}" if isinstance(error, OSError) else ""
    within = [_trace(each) for each in error.exceptions] if isinstance(error, BaseExceptionGroup) else []
    frames = "".join(traceback.format_tb(error.__traceback__))
    parts = [*([_trace(before)] if before else []), f"{frames}{type(error).__qualname__}{said}", *within]
    return "\n".join(parts)


def _with_request_id(record: logging.LogRecord) -> bool:
    if identity := request_id.get():
        record.request_id = identity
    return True

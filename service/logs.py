"""Structured logs: one line an event, JSON for programs or coloured text for people.

The correlation id of a request is bound to the context and stands in every line logged during it.
Keys, secrets and bodies are never logged; nothing here could print them.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import Callable
from typing import Any, TextIO, cast

import orjson
import structlog
from structlog.typing import FilteringBoundLogger, Processor


class _Sink:
    """Where lines go while they can be written: a full disk or a terminal that is gone must not end what logs."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


def configure_logging(level: str, fmt: str, process: str) -> None:
    """Send structlog and the standard library's logging to stderr as `fmt` (json or console) from `level` on."""
    threshold = logging.getLevelNamesMapping()[level.upper()]
    renderer: Processor = (
        structlog.processors.JSONRenderer(serializer=_encode) if fmt == "json" else structlog.dev.ConsoleRenderer()
    )
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.processors.format_exc_info, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(file=cast("TextIO", _Sink(sys.stderr))),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(process=process)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(threshold, logging.WARNING))


def get_logger(name: str) -> FilteringBoundLogger:
    """A logger whose lines carry `component=name` and whatever is bound to the context."""
    return structlog.get_logger(component=name)


# What is no plain value goes through its own repr, which may hide something.
_PLAIN = orjson.OPT_NON_STR_KEYS | orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_SUBCLASS


def _encode(event: Any, default: Callable[[Any], Any], **_options: Any) -> str:
    """A line of JSON. The worker writes one for each notification, and the standard library takes ten times as long."""
    try:
        return orjson.dumps(event, default=default, option=_PLAIN).decode()
    except orjson.JSONEncodeError:  # half a character, or a number of more than 64 bits
        return json.dumps(event, default=default)

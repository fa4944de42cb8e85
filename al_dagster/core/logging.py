"""How every process logs: structlog by way of the standard library's logging to stderr, for people or as JSON."""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog
from structlog.stdlib import ProcessorFormatter

from al_dagster.core.errors import UserError
from al_dagster.core.settings import Settings
from al_dagster.core.text import printable

PACKAGE = "al_dagster"

UNITS = f"{PACKAGE}.units"
"""The logger of what is told of each frame or object: it is written to stderr only, for there may be many."""


def configure_logging(settings: Settings, stream: TextIO | None = None, *, quiet: bool = False) -> None:
    """Send what structlog logs, and warnings of libraries, to stderr; may be called again.

    Args:
        settings: ``log_format`` is ``console`` (aligned, coloured on a terminal) or ``json`` (one object a line);
            ``log_level`` is a standard level's name.
        stream: in place of stderr.
        quiet: write only warnings and errors, unless the environment sets a level. Handlers of other places, such as
            a run's event log, get the rest all the same.

    Raises:
        UserError: there is no such level.
    """
    level = logging.getLevelNamesMapping().get(settings.log_level.upper())
    if level is None:
        raise UserError(
            f"AL_LOG_LEVEL: {settings.log_level!r} is no level; use DEBUG, INFO, WARNING, ERROR or CRITICAL"
        )
    written = max(level, logging.WARNING) if quiet and "log_level" not in settings.model_fields_set else level
    handler = _ProcessLog(stream)
    handler.setLevel(written)
    handler.setFormatter(_formatter(settings, handler.stream))
    root = logging.getLogger()
    for other in [other for other in root.handlers if isinstance(other, _ProcessLog)]:
        root.removeHandler(other)
    root.addHandler(handler)
    logging.getLogger(PACKAGE).setLevel(level)
    logging.getLogger(UNITS).setLevel(written)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.contextvars.merge_contextvars,
            ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=_logger,
        cache_logger_on_first_use=False,
    )


def as_text(record: logging.LogRecord) -> str:
    """The message of a record with its values, without time, level and stack trace."""
    if not isinstance(record.msg, dict):
        return printable(record.getMessage())
    values = {name: value for name, value in record.msg.items() if name not in ("event", "exc_info")}
    return " ".join([printable(str(record.msg["event"])), *(f"{k}={printable(str(v))}" for k, v in values.items())])


class _ProcessLog(logging.StreamHandler[TextIO]):
    """Writes to a stream, or to what is stderr at the time."""

    def __init__(self, stream: TextIO | None) -> None:
        logging.Handler.__init__(self)
        self._stream = stream

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return self._stream or sys.stderr


def _logger(*names: str) -> logging.Logger:
    """The standard library's logger behind one of structlog; whoever gives no name of this package logs as it."""
    return logging.getLogger(names[0] if names and names[0].split(".")[0] == PACKAGE else PACKAGE)


def _formatter(settings: Settings, target: TextIO) -> logging.Formatter:
    as_json = settings.log_format == "json"
    known: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso" if as_json else "%H:%M:%S", utc=as_json),
    ]
    shown: list[Any] = (
        [
            _traces_of_errors_only,
            structlog.processors.dict_tracebacks,
            structlog.processors.JSONRenderer(ensure_ascii=False, default=str),
        ]
        if as_json
        else [_traces_of_errors_only, _printable, structlog.dev.ConsoleRenderer(colors=target.isatty())]
    )
    return ProcessorFormatter(processors=[*known, *shown[:-1], ProcessorFormatter.remove_processors_meta, shown[-1]])


def _traces_of_errors_only(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    if logging.getLevelNamesMapping()[event["level"].upper()] < logging.ERROR:
        event.pop("exc_info", None)
    return event


def _printable(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Values fit for a terminal; a foreign text, such as a stack trace that Dagster logs, keeps its lines."""
    for name, value in event.items():
        if isinstance(value, str):
            lines = [value] if event["_from_structlog"] else value.split("\n")
            event[name] = "\n".join(map(printable, lines))
    return event

"""How the program logs: structlog to stderr, for people or as JSON."""

import logging
import sys
from typing import TextIO

import structlog

from al_dagster.core.errors import UserError
from al_dagster.core.settings import Settings


def configure_logging(settings: Settings, stream: TextIO | None = None) -> None:
    """Send what structlog logs to stderr, in the format and from the level of the settings; may be called again.

    Args:
        settings: ``log_format`` is ``console`` (aligned, coloured on a terminal) or ``json`` (one object a line);
            ``log_level`` is a standard level's name.
        stream: in place of stderr.

    Raises:
        UserError: there is no such level.
    """
    level = logging.getLevelNamesMapping().get(settings.log_level.upper())
    if level is None:
        raise UserError(
            f"AL_LOG_LEVEL: {settings.log_level!r} is no level; use DEBUG, INFO, WARNING, ERROR or CRITICAL"
        )
    target = stream or sys.stderr
    as_json = settings.log_format == "json"
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso" if as_json else "%H:%M:%S", utc=as_json),
            *(
                [
                    structlog.processors.dict_tracebacks,
                    structlog.processors.JSONRenderer(ensure_ascii=False, default=str),
                ]
                if as_json
                else [structlog.dev.ConsoleRenderer(colors=target.isatty())]
            ),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=target),
        cache_logger_on_first_use=False,
    )

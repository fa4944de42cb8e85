"""What the packages log, in the event log of the run that is at work, and what Dagster logs of a run, on stderr."""

import logging

import dagster as dg
from dagster import _loggers

from al_dagster.core.logging import PACKAGE, UNITS, as_text

MOST_A_STEP = 10
"""So many lines of a step are kept there; the event log is a database, which only grows."""

HANDED_ON = "al_handed_on"
"""Attribute of records that are on stderr already."""


class EventLogHandler(logging.Handler):
    """Hands what this package logs, from INFO on, to Dagster's handler of the step that this process is at, if any."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._step: logging.Handler | None = None
        self._lines = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Hand on a copy without stack trace."""
        if record.name == UNITS:
            return
        for handler in list(dg.get_dagster_logger().handlers):
            if handler is not self._step:
                self._step, self._lines = handler, 0
            self._lines += 1
            if self._lines > MOST_A_STEP + 1:
                continue
            text = as_text(record) if self._lines <= MOST_A_STEP else "more was logged, which is in the process's log"
            values = {"name": record.name, "levelno": record.levelno, "levelname": record.levelname, "msg": text}
            handler.handle(logging.makeLogRecord({**values, HANDED_ON: True}))


def log_to_runs() -> None:
    """Have the runs of this process log as it does, and what this package logs reach their event logs.

    It may be called again.
    """
    logger = logging.getLogger(PACKAGE)
    if not any(isinstance(handler, EventLogHandler) for handler in logger.handlers):
        logger.addHandler(EventLogHandler())
    # Those of a code server would write everything a second time.
    logging.getLogger("dagster").handlers.clear()
    # Dagster gives a run that names no logger this one, and has no setting for it.
    _loggers.create_console_logger = _run_logger  # type: ignore[attr-defined]


def _run_logger(name: str, level: str | int) -> logging.Logger:
    """The logger of a run's own lines, in place of Dagster's coloured one: it hands them to this process's handler."""
    logger = logging.Logger(name, max(int(level), logging.getLogger(PACKAGE).level))
    logger.parent = logging.getLogger()
    logger.addFilter(lambda record: not hasattr(record, HANDED_ON))
    return logger

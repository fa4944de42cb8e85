import io
import json
import logging

import pytest
import structlog

from al_dagster.core.errors import UserError
from al_dagster.core.logging import configure_logging
from al_dagster.core.settings import Settings


def test_json_is_one_object_a_line_with_level_time_and_values():
    out = io.StringIO()
    configure_logging(Settings(log_format="json"), out)
    log = structlog.get_logger("test")
    log.info("files found", count=3, name="나사")
    try:
        raise ValueError("broken")
    except ValueError:
        log.exception("batch failed")
    first, second = (json.loads(line) for line in out.getvalue().splitlines())
    assert first.pop("timestamp").endswith("Z")
    assert first == {"event": "files found", "level": "info", "count": 3, "name": "나사"}
    assert second["exception"][0]["exc_value"] == "broken"


def test_console_is_a_line_for_people_without_colours_where_there_is_no_terminal():
    out = io.StringIO()
    configure_logging(Settings(), out)
    structlog.get_logger().warning("files left out", count=2)
    assert "files left out" in out.getvalue()
    assert "count=2" in out.getvalue()
    assert "\x1b" not in out.getvalue()


def test_less_severe_events_than_the_level_are_left_out():
    out = io.StringIO()
    configure_logging(Settings(log_level="warning"), out)
    log = structlog.get_logger()
    log.info("not shown")
    log.error("shown")
    assert "not shown" not in out.getvalue()
    assert "shown" in out.getvalue()


def test_logs_go_to_stderr(capsys):
    configure_logging(Settings())
    structlog.get_logger().info("here")
    captured = capsys.readouterr()
    assert "here" in captured.err
    assert captured.out == ""


def test_an_unknown_level_is_answered_with_the_known_ones():
    with pytest.raises(UserError, match="AL_LOG_LEVEL: 'loud' is no level; use DEBUG, INFO"):
        configure_logging(Settings(log_level="loud"))


def test_a_warning_of_a_library_has_the_same_format_and_its_details_are_left_out():
    out = io.StringIO()
    configure_logging(Settings(log_format="json", log_level="debug"), out)
    logging.getLogger("some.library").warning("%d pages", 3)
    logging.getLogger("some.library").info("not shown")
    (row,) = [json.loads(line) for line in out.getvalue().splitlines()]
    assert (row["event"], row["level"]) == ("3 pages", "warning")


def test_names_of_files_cannot_steer_a_terminal_or_forge_a_line():
    out = io.StringIO()
    configure_logging(Settings(), out)
    structlog.get_logger().warning("left out", file="a\x1b[2J\nb\x9b1m\u202e.png")
    assert "a\\x1b[2J\\nb\\x9b1m\\u202e.png" in out.getvalue()


def test_a_stack_trace_is_written_with_errors_only():
    out = io.StringIO()
    configure_logging(Settings(), out)
    try:
        raise ValueError("broken")
    except ValueError:
        structlog.get_logger().warning("tried again", exc_info=True)
    assert "Traceback" not in out.getvalue()
    assert "tried again" in out.getvalue()


def test_a_quiet_process_writes_warnings_only_unless_a_level_is_set(monkeypatch):
    def written() -> str:
        out = io.StringIO()
        configure_logging(Settings(), out, quiet=True)
        structlog.get_logger().info("done")
        return out.getvalue()

    assert written() == ""
    monkeypatch.setenv("AL_LOG_LEVEL", "INFO")
    assert "done" in written()

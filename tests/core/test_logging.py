import io
import json
from collections.abc import Iterator

import pytest
import structlog

from al_dagster.core.errors import UserError
from al_dagster.core.logging import configure_logging
from al_dagster.core.settings import Settings


@pytest.fixture(autouse=True)
def _configuration_as_before() -> Iterator[None]:
    yield
    structlog.reset_defaults()


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

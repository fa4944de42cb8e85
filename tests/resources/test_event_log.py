import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
import structlog

from al_dagster.core.logging import UNITS, configure_logging
from al_dagster.core.settings import Settings
from al_dagster.resources.event_log import MOST_A_STEP, log_to_runs
from al_dagster.resources.executor import run_executor
from al_dagster.resources.instance import prepare_home

log = structlog.get_logger("al_dagster.labelling.somewhere")


@dg.op(config_schema={"lines": dg.Field(int, default_value=1)})
def speaks(context) -> None:
    for number in range(context.op_config["lines"]):
        log.info("frames read", count=number, file="a\x1b[31mb.png")
    log.debug("a detail")
    structlog.get_logger(UNITS).info("object_registered", object_id="obj_1")
    try:
        raise ValueError("broken")
    except ValueError:
        log.exception("a frame failed")
    context.log.info("of the asset")


@dg.job(executor_def=run_executor)
def speaking_job() -> None:
    speaks()


RUN = """
import dagster as dg
from al_dagster import definitions
from tests.resources.test_event_log import speaking_job
with dg.DagsterInstance.get() as instance:
    dg.execute_job(dg.reconstructable(speaking_job), instance)
"""


@pytest.fixture(autouse=True)
def _configured():
    configure_logging(Settings(), quiet=True)
    log_to_runs()


def said(lines: int = 1) -> list[tuple[int, str]]:
    """Level and text of what was logged in a run, beside Dagster's own events."""
    with dg.DagsterInstance.ephemeral() as instance:
        config = {"ops": {"speaks": {"config": {"lines": lines}}}, "loggers": {"console": {"config": {}}}}
        result = speaking_job.execute_in_process(instance=instance, run_config=config)
        entries = instance.all_logs(result.run_id)
        return [(entry.level, entry.user_message) for entry in entries if not entry.is_dagster_event]


def test_what_a_package_logs_is_in_the_event_log_of_the_run_without_details_units_and_stack_traces():
    assert said() == [
        (logging.INFO, "frames read count=0 file=a\\x1b[31mb.png"),
        (logging.ERROR, "a frame failed"),
        (logging.INFO, "of the asset"),
    ]


def test_the_event_log_takes_a_bounded_number_of_lines_of_a_step():
    texts = [text for _, text in said(lines=5000)]
    assert texts[-2:] == ["more was logged, which is in the process's log", "of the asset"]
    assert len(texts) == MOST_A_STEP + 2


def test_what_is_logged_outside_a_step_is_in_no_event_log_and_does_no_harm():
    log.info("nothing is running")
    assert said()[0][1].startswith("frames read")


@pytest.mark.parametrize(("level", "units"), [("DEBUG", 1), ("INFO", 1), ("WARNING", 0)])
def test_a_run_logs_json_on_stderr_from_the_level_on_its_own_lines_and_the_packages_alike(
    home, monkeypatch, level, units
):
    monkeypatch.setenv("DAGSTER_HOME", str(home.settings.dagster_home))
    root = Path(__file__).parents[2]
    prepare_home(home.settings)
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), "AL_LOG_FORMAT": "json", "AL_LOG_LEVEL": level},
        capture_output=True,
        text=True,
        timeout=120,
    )
    rows = [json.loads(line) for line in done.stderr.splitlines()]
    assert [row["event"] for row in rows].count("object_registered") == units
    assert [row["event"] for row in rows].count("frames read") == units
    assert sum("STEP_START" in row["event"] for row in rows) == (level == "DEBUG")
    assert sum("of the asset" in row["event"] for row in rows) == units
    assert [row["exception"][0]["exc_value"] for row in rows if row["event"] == "a frame failed"] == ["broken"]

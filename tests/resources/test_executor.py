import os
import signal
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from al_dagster.resources.executor import run_executor
from al_dagster.resources.instance import ABANDONED_TAG, close_abandoned_runs, open_instance


@dg.op
def wait_for_a_line() -> None:
    sys.stdout.write("at work\n")
    sys.stdout.flush()
    sys.stdin.readline()


@dg.job(executor_def=run_executor)
def waiting_job() -> None:
    wait_for_a_line()


RUN = """
import dagster as dg
from tests.resources.test_executor import waiting_job
with dg.DagsterInstance.get() as instance:
    print(dg.execute_job(dg.reconstructable(waiting_job), instance).success)
"""


@pytest.fixture
def instance(home):
    with open_instance(home.settings) as instance:
        yield instance


@pytest.fixture
def process(instance):
    """A process that executes a run which waits for a line."""
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", RUN]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, **pipes) as process:
        assert process.stdout.readline() == b"at work\n"
        yield process
        process.kill()


def status(instance: dg.DagsterInstance) -> dg.DagsterRunStatus:
    (run,) = instance.get_runs()
    return run.status


def test_a_run_whose_process_lives_is_left_alone_and_ends_well(instance, process):
    assert close_abandoned_runs(instance) == []
    assert close_abandoned_runs(instance, server_stopped=True) == []
    assert process.communicate(b"\n", timeout=120)[0] == b"True\n"
    assert status(instance) == dg.DagsterRunStatus.SUCCESS
    assert list(Path(instance.root_directory, "run_locks").iterdir()) == []


def test_a_run_whose_process_was_killed_is_closed_with_the_reason(instance, process):
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert status(instance) == dg.DagsterRunStatus.STARTED
    (run,) = instance.get_runs()
    assert close_abandoned_runs(instance) == [run.run_id]
    assert status(instance) == dg.DagsterRunStatus.FAILURE
    assert ABANDONED_TAG in instance.get_run_by_id(run.run_id).tags
    assert any(
        "process that executed this run is gone" in (event.message or "") for event in instance.all_logs(run.run_id)
    )
    assert close_abandoned_runs(instance) == []


def test_a_run_that_was_being_cancelled_when_its_process_was_killed_is_cancelled(instance, process):
    (run,) = instance.get_runs()
    instance.report_run_canceling(run)
    process.send_signal(signal.SIGKILL)
    process.wait()
    close_abandoned_runs(instance)
    assert status(instance) == dg.DagsterRunStatus.CANCELED


@pytest.mark.parametrize("left", [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED])
def test_what_a_stopped_server_was_starting_is_closed_and_what_waits_in_the_queue_is_not(instance, left):
    for kind in (left, dg.DagsterRunStatus.NOT_STARTED):
        instance.create_run_for_job(waiting_job, status=kind)
    assert close_abandoned_runs(instance) == []
    assert len(close_abandoned_runs(instance, server_stopped=True)) == 1
    assert {run.status for run in instance.get_runs()} == {dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.NOT_STARTED}

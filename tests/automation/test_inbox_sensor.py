import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dagster as dg

from al_dagster.automation.sensors import inbox_sensor
from al_dagster.definitions import defs
from al_dagster.labelling.intake import take_folder
from al_dagster.registry.batches import batch_manifest, list_batches, unfinished_batches
from al_dagster.registry.database import open_registry
from al_dagster.resources import build_resources
from al_dagster.resources.instance import owned_run

TICK = """
import dagster as dg
from al_dagster.automation.sensors import inbox_sensor
from al_dagster.core.settings import load_settings
from al_dagster.resources import build_resources
print("ready", flush=True)
input()
with dg.DagsterInstance.ephemeral() as instance:
    with dg.build_sensor_context(instance=instance, resources=build_resources(load_settings())) as context:
        result = inbox_sensor(context)
print(*sorted(request.partition_key for request in result.run_requests))
"""


def files_of(home) -> list[str]:
    """The names of the files of all batches."""
    with open_registry(home.settings.database_url) as registry:
        return sorted(
            os.path.basename(file.file_path)  # noqa: PTH119
            for key in list_batches(registry)
            for file in batch_manifest(registry, key)
        )


def test_new_files_become_a_batch_with_its_partition_and_run(daemon, home, fill_inbox):
    fill_inbox(count=2)
    result = daemon.tick(inbox_sensor)
    (request,) = result.run_requests
    assert request.run_key.startswith(request.partition_key)
    assert request.partition_key.startswith("shapes--")
    assert daemon.instance.get_dynamic_partitions("batch") == [request.partition_key]
    assert files_of(home) == ["picture_0.png", "picture_1.png"]
    assert daemon.execute("label_batch", request.partition_key).success


def test_after_its_run_a_batch_is_not_requested_again(daemon, fill_inbox):
    fill_inbox()
    (request,) = daemon.tick(inbox_sensor).run_requests
    daemon.execute("label_batch", request.partition_key)
    result = daemon.tick(inbox_sensor)
    assert isinstance(result, dg.SkipReason)
    assert result.skip_message == "no new files"
    fill_inbox(count=1, first=7)
    (other,) = daemon.tick(inbox_sensor).run_requests
    assert other.run_key != request.run_key


def test_until_its_run_a_batch_is_requested_under_the_same_key(daemon, fill_inbox):
    fill_inbox()
    first, second = daemon.tick(inbox_sensor), daemon.tick(inbox_sensor)
    assert [request.run_key for request in first.run_requests] == [request.run_key for request in second.run_requests]
    assert second.dynamic_partitions_requests == []


def test_a_batch_whose_tick_died_after_the_claim_is_requested_by_the_next(daemon, home, fill_inbox):
    fill_inbox()
    resources = build_resources(home.settings)
    with open_registry(home.settings.database_url) as registry:
        (claimed,) = resources["inbox"].take(registry).unfinished
    (request,) = daemon.tick(inbox_sensor).run_requests
    assert request.partition_key == claimed
    assert daemon.instance.get_dynamic_partitions("batch") == [claimed]


def test_a_batch_whose_tick_died_after_its_partition_was_added_is_requested_by_the_next(daemon, home, fill_inbox):
    fill_inbox()
    with open_registry(home.settings.database_url) as registry:
        (claimed,) = build_resources(home.settings)["inbox"].take(registry).unfinished
    daemon.instance.add_dynamic_partitions("batch", [claimed])
    assert [request.partition_key for request in daemon.tick(inbox_sensor).run_requests] == [claimed]


def test_overlapping_ticks_of_threads_take_each_file_once(daemon, home, fill_inbox):
    fill_inbox(count=6)
    home.settings.batch_size = 2
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: daemon.tick(inbox_sensor), range(8)))
    assert files_of(home) == [f"picture_{index}.png" for index in range(6)]
    keys = {tuple(request.run_key for request in result.run_requests) for result in results}
    assert len(keys) == 1


def test_overlapping_ticks_of_two_processes_take_each_file_once(daemon, home, fill_inbox):
    fill_inbox(count=6)
    environment = {**os.environ, "AL_BATCH_SIZE": "2"}
    ticks = [
        subprocess.Popen(
            [sys.executable, "-c", TICK],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for _ in range(2)
    ]
    for tick in ticks:
        assert tick.stdout.readline() == "ready\n"
    for tick in ticks:
        tick.stdin.write("\n")
        tick.stdin.flush()
    said = [tick.communicate() for tick in ticks]
    assert [tick.returncode for tick in ticks] == [0, 0], said
    requested = [output.splitlines()[-1].split() for output, _ in said]
    assert requested[0] == requested[1]
    assert files_of(home) == [f"picture_{index}.png" for index in range(6)]
    with open_registry(home.settings.database_url) as registry:
        assert sorted(unfinished_batches(registry)) == requested[0]


def test_a_file_that_is_still_being_written_waits_for_a_later_tick(daemon, home, fill_inbox):
    fill_inbox(count=1)
    home.settings.settle_seconds = 30
    result = daemon.tick(inbox_sensor)
    assert isinstance(result, dg.SkipReason)
    picture = home.settings.inbox / "shapes" / "picture_0.png"
    os.utime(picture, (time.time() - 60, time.time() - 60))
    assert len(daemon.tick(inbox_sensor).run_requests) == 1


def test_a_wrong_project_file_is_reported_and_the_other_projects_go_on(daemon, home, fill_inbox):
    fill_inbox("wrong")
    (home.settings.inbox / "wrong" / "project.yaml").write_text("klasses: [disc]\n")
    result = daemon.tick(inbox_sensor)
    assert isinstance(result, dg.SkipReason)
    assert "wrong/project.yaml: unknown key 'klasses'" in result.skip_message or "is missing" in result.skip_message
    fill_inbox("right")
    (request,) = daemon.tick(inbox_sensor).run_requests
    assert request.partition_key.startswith("right--")


def test_more_batches_than_dagster_adds_at_once_are_all_requested_in_the_end(daemon, home, monkeypatch, fill_inbox):
    monkeypatch.setattr("al_dagster.automation.requests.PARTITIONS_A_REQUEST", 2)
    fill_inbox(count=5)
    home.settings.batch_size = 1
    counts = [len(daemon.tick(inbox_sensor).run_requests) for _ in range(4)]
    assert counts == [2, 4, 5, 5]
    assert len(daemon.instance.get_dynamic_partitions("batch")) == 5


def test_an_unknown_class_is_said_by_the_run(daemon, fill_inbox):
    fill_inbox(classes=["disc", "bar", "unicorn"])
    (request,) = daemon.tick(inbox_sensor).run_requests
    result = daemon.execute("label_batch", request.partition_key, raise_on_error=False)
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    error = failure.step_failure_data.error
    assert "does not know 'unicorn'; it knows person" in (error.cause or error).message


def fail(daemon, request: dg.RunRequest) -> None:
    result = daemon.execute("label_batch", request.partition_key, raise_on_error=False, tags=request.tags)
    assert not result.success


def test_a_batch_whose_run_failed_is_tried_again_after_a_wait_until_it_is_labelled(
    daemon, home, fill_inbox, monkeypatch
):
    examples = home.support.rename(home.path / "late")
    fill_inbox(support=str(home.path / "examples"))
    (first,) = daemon.tick(inbox_sensor).run_requests
    fail(daemon, first)
    assert "1 wait to be tried again" in daemon.tick(inbox_sensor).skip_message
    monkeypatch.setattr("al_dagster.automation.requests.FIRST_WAIT_SECONDS", 0.0)
    (second,) = daemon.tick(inbox_sensor).run_requests
    fail(daemon, second)
    examples.rename(home.path / "examples")
    (third,) = daemon.tick(inbox_sensor).run_requests
    assert len({first.run_key, second.run_key, third.run_key}) == 3
    assert daemon.execute("label_batch", third.partition_key, tags=third.tags).success
    assert daemon.tick(inbox_sensor).skip_message == "no new files"
    (home.path / "examples").rename(home.support)


def test_a_batch_whose_project_was_corrected_is_tried_again_at_once(daemon, fill_inbox):
    fill_inbox(classes=["disc", "bar", "unicorn"])
    (request,) = daemon.tick(inbox_sensor).run_requests
    fail(daemon, request)
    assert isinstance(daemon.tick(inbox_sensor), dg.SkipReason)
    fill_inbox(count=0)
    (again,) = daemon.tick(inbox_sensor).run_requests
    assert again.partition_key == request.partition_key
    assert daemon.execute("label_batch", again.partition_key, tags=again.tags).success


def test_a_batch_whose_run_a_person_cancelled_is_left_alone(daemon, fill_inbox, monkeypatch):
    monkeypatch.setattr("al_dagster.automation.requests.FIRST_WAIT_SECONDS", 0.0)
    fill_inbox(classes=["disc", "bar", "unicorn"])
    (request,) = daemon.tick(inbox_sensor).run_requests
    fail(daemon, request)
    (run,) = daemon.instance.get_runs()
    daemon.instance.report_run_canceled(run)
    assert isinstance(daemon.tick(inbox_sensor), dg.SkipReason)


def test_the_batch_of_a_command_whose_process_is_gone_is_requested(daemon, home):
    with open_registry(home.settings.database_url) as registry:
        (key,) = take_folder(registry, home.pictures(2), home.project(), batch_size=10)
    daemon.instance.add_dynamic_partitions("batch", [key])
    assert isinstance(daemon.tick(inbox_sensor), dg.SkipReason)
    run = daemon.instance.create_run_for_job(
        defs.resolve_job_def("label_batch"), tags={"dagster/partition": key}, status=dg.DagsterRunStatus.STARTED
    )
    Path(daemon.instance.root_directory, "run_locks").mkdir(exist_ok=True)
    with owned_run(daemon.instance, run.run_id):
        assert isinstance(daemon.tick(inbox_sensor), dg.SkipReason)
    Path(daemon.instance.root_directory, "run_locks", run.run_id).touch()
    (request,) = daemon.tick(inbox_sensor).run_requests
    assert request.partition_key == key
    assert daemon.instance.get_run_by_id(run.run_id).status == dg.DagsterRunStatus.FAILURE
    assert daemon.execute("label_batch", key, tags=request.tags).success
    assert daemon.tick(inbox_sensor).skip_message == "no new files"


def test_a_problem_of_the_inbox_is_warned_of_once_until_it_changes(daemon, home, capfd):
    (home.settings.inbox / "box").mkdir(parents=True)
    resources = build_resources(home.settings)

    def warnings(cursor: str | None) -> tuple[int, str | None]:
        capfd.readouterr()
        with dg.build_sensor_context(instance=daemon.instance, resources=resources, cursor=cursor) as context:
            assert "has no project.yaml" in inbox_sensor(context).skip_message
            return capfd.readouterr().err.count("has no project.yaml"), context.cursor

    first, cursor = warnings(None)
    assert (first, warnings(cursor)[0]) == (1, 0)
    (home.settings.inbox / "other").mkdir()
    assert warnings(cursor)[0] == 2

import os
import sqlite3
from contextlib import closing
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from al_dagster.core.settings import Settings
from al_dagster.resources.instance import POOLS, open_instance, owned_run, prepare_home


def test_the_instance_lies_in_the_home_with_its_settings_and_one_slot_a_pool(home):
    with open_instance(home.settings) as instance:
        assert os.environ["DAGSTER_HOME"] == str(home.settings.dagster_home)
        assert not instance.telemetry_enabled
        slots = {pool: instance.event_log_storage.get_concurrency_info(pool).slot_count for pool in POOLS}
        assert slots == dict.fromkeys(POOLS, 1)
    assert (home.settings.dagster_home / "dagster.yaml").exists()


def test_settings_that_a_person_changed_are_left_as_they_are(home):
    folder = prepare_home(home.settings)
    (folder / "dagster.yaml").write_text("telemetry:\n  enabled: true\n")
    with open_instance(home.settings) as instance:
        instance.event_log_storage.set_concurrency_slots("gpu", 3)
    with open_instance(home.settings) as instance:
        assert instance.event_log_storage.get_concurrency_info("gpu").slot_count == 3
    assert (folder / "dagster.yaml").read_text() == "telemetry:\n  enabled: true\n"


def test_a_dagster_home_of_the_environment_is_used(home, tmp_path, monkeypatch):
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "elsewhere"))
    assert prepare_home(home.settings) == tmp_path / "elsewhere"
    assert (tmp_path / "elsewhere" / "dagster.yaml").exists()
    assert not home.settings.dagster_home.exists()


def test_a_run_that_is_executed_right_now_is_not_taken_for_abandoned(home):
    with open_instance(home.settings) as instance:
        lock = home.settings.dagster_home / "run_locks" / "a-run"
        with owned_run(instance, "a-run"):
            with open_instance(home.settings):
                pass
            assert lock.exists()
        assert not lock.exists()


def test_the_lock_of_a_run_is_removed_also_when_the_run_raises(home):
    with open_instance(home.settings) as instance:
        with pytest.raises(RuntimeError), owned_run(instance, "a-run"):
            raise RuntimeError
        with open_instance(home.settings):
            pass
        assert list((home.settings.dagster_home / "run_locks").iterdir()) == []


PROCESSES, HOMES = 3, 8


def _open_at_once(homes: list[Path], barrier: Barrier) -> None:
    for home in homes:
        os.environ.pop("DAGSTER_HOME", None)
        barrier.wait(timeout=120)
        open_instance(Settings(home=home)).dispose()


def test_processes_that_open_a_new_home_at_once_make_one_instance(tmp_path):
    homes = [tmp_path / str(number) for number in range(HOMES)]
    spawning = get_context("spawn")
    barrier = spawning.Barrier(PROCESSES)
    processes = [spawning.Process(target=_open_at_once, args=(homes, barrier)) for _ in range(PROCESSES)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * PROCESSES
    for home in homes:
        for database in ("history/runs.db", "history/runs/index.db", "schedules/schedules.db"):
            with closing(sqlite3.connect(home / "dagster" / database)) as connection:
                assert len(connection.execute("SELECT version_num FROM alembic_version").fetchall()) == 1

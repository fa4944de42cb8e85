"""The Dagster instance in ``AL_HOME``, and the runs that a command executes itself."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import structlog
from filelock import FileLock, Timeout

from al_dagster.core.databases import damage_of
from al_dagster.core.errors import UserError
from al_dagster.core.files import write_whole
from al_dagster.core.settings import Settings

log = structlog.get_logger(__name__)

DATABASES = ("history/runs.db", "history/runs/index.db", "schedules/schedules.db")
"""Of Dagster, in its home."""

POOLS = ("gpu", "vectors")
"""Each lets one run at a time through: one accelerator, one writer of the vector store."""

ABANDONED_TAG = "al/abandoned"
"""Of runs that were closed because their process was gone."""

PROCESS_GONE = "The process that executed this run is gone: it was stopped or killed."

LOCK_TAKEN_SECONDS = 60.0
"""So long after a run began, its process holds its lock or is gone."""


def prepare_home(settings: Settings) -> Path:
    """Make Dagster's folder with its ``dagster.yaml``, point ``DAGSTER_HOME`` and ``AL_HOME`` to it, and return it.

    A ``DAGSTER_HOME`` that is already set is left as it is.
    """
    os.environ["AL_HOME"] = str(settings.home.absolute())
    home = Path(os.environ.setdefault("DAGSTER_HOME", str(settings.dagster_home)))
    if not (home / "dagster.yaml").exists():
        write_whole(home / "dagster.yaml", _template().read_bytes())
    return home


def open_instance(settings: Settings, *, server_stopped: bool = False) -> dg.DagsterInstance:
    """The instance, with the limits of the pools set and the runs of killed processes closed.

    Args:
        settings: name the home.
        server_stopped: no server of this instance is running, so that a run which it was starting will not start.

    Raises:
        UserError: a database of Dagster is damaged.
    """
    home = prepare_home(settings)
    # Dagster makes and stamps its databases without a lock, and two processes that do so at once damage them for good.
    with FileLock(home / "instance.lock"):
        _check_databases(home)
        instance = dg.DagsterInstance.get()
        # Each is made when it is first asked for.
        storages = (instance.run_storage, instance.event_log_storage, instance.schedule_storage)
        log.debug("instance opened", storages=[type(storage).__name__ for storage in storages])
        for pool in POOLS:
            if pool not in instance.event_log_storage.get_concurrency_keys():
                instance.event_log_storage.set_concurrency_slots(pool, 1)
    close_abandoned_runs(instance, server_stopped=server_stopped)
    return instance


@contextmanager
def owned_run(instance: dg.DagsterInstance, run_id: str) -> Iterator[None]:
    """Hold the lock of a run while this process executes it, so that others can tell if the process was killed."""
    path = _lock_folder(instance) / run_id
    with FileLock(path):
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def close_abandoned_runs(instance: dg.DagsterInstance, *, server_stopped: bool = False) -> list[str]:
    """Mark as failed the runs whose process is gone, which otherwise hold their slots of the pools for ever.

    Every process that executes a run holds its lock. A run without a lock file counts as gone some time after it
    began, since its process may be about to take the lock.

    Args:
        instance: whose runs are looked at.
        server_stopped: no server of this instance is running; then a run without a lock file is gone at once, and so
            is one that the server was starting.

    Returns:
        The ids of the runs that failed so; each has the tag ``al/abandoned``. Those being cancelled are cancelled.
    """
    statuses = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
    if server_stopped:
        statuses.append(dg.DagsterRunStatus.STARTING)
    folder = _lock_folder(instance)
    closed = []
    for record in instance.get_run_records(dg.RunsFilter(statuses=statuses)):
        run, lock = record.dagster_run, folder / record.dagster_run.run_id
        if not lock.exists():
            began = record.start_time or record.create_timestamp.timestamp()
            if not server_stopped and time.time() - began < LOCK_TAKEN_SECONDS:
                continue
        try:
            with FileLock(lock, timeout=0):
                # It may have ended since the list was made.
                now = instance.get_run_by_id(run.run_id)
                if now and now.status == dg.DagsterRunStatus.CANCELING:
                    instance.report_run_canceled(now, PROCESS_GONE)
                elif now and now.status in statuses:
                    instance.add_run_tags(run.run_id, {ABANDONED_TAG: "true"})
                    instance.report_run_failed(now, PROCESS_GONE)
                    closed.append(run.run_id)
        except Timeout:
            continue
        lock.unlink(missing_ok=True)
    return closed


def _check_databases(home: Path) -> None:
    for name in DATABASES:
        damage = damage_of(home / name)
        if damage:
            raise UserError(
                f"{home / name}: a database of Dagster is damaged ({damage}): move it away, and Dagster begins a new "
                "one; it holds the history of runs, labels and models are elsewhere"
            )


def _lock_folder(instance: dg.DagsterInstance) -> Path:
    folder = Path(instance.root_directory) / "run_locks"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _template() -> Path:
    package = Path(__file__).resolve().parent.parent
    packaged = package / "dagster.yaml"
    return packaged if packaged.exists() else package.parent / "dagster.yaml"

"""The Dagster instance in ``AL_HOME``, and the runs that a command executes itself."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import structlog
from dagster._core.storage.dagster_run import IN_PROGRESS_RUN_STATUSES
from filelock import FileLock, Timeout

from al_dagster.core.settings import Settings

log = structlog.get_logger(__name__)

POOLS = ("gpu", "vectors")
"""Each lets one run at a time through: one accelerator, one writer of the vector store."""


def prepare_home(settings: Settings) -> Path:
    """Make Dagster's folder with its ``dagster.yaml``, point ``DAGSTER_HOME`` and ``AL_HOME`` to it, and return it.

    A ``DAGSTER_HOME`` that is already set is left as it is.
    """
    os.environ["AL_HOME"] = str(settings.home.absolute())
    home = Path(os.environ.setdefault("DAGSTER_HOME", str(settings.dagster_home)))
    home.mkdir(parents=True, exist_ok=True)
    if not (home / "dagster.yaml").exists():
        staged = home / f".dagster.yaml.{os.getpid()}"
        shutil.copyfile(_template(), staged)
        staged.replace(home / "dagster.yaml")
    return home


def open_instance(settings: Settings) -> dg.DagsterInstance:
    """The instance, with the limits of the pools set and the runs of killed commands marked as failed."""
    home = prepare_home(settings)
    # Dagster makes and stamps its databases without a lock, and two processes that do so at once damage them for good.
    with FileLock(home / "instance.lock"):
        instance = dg.DagsterInstance.get()
        # Each is made when it is first asked for.
        storages = (instance.run_storage, instance.event_log_storage, instance.schedule_storage)
        log.debug("instance opened", storages=[type(storage).__name__ for storage in storages])
        for pool in POOLS:
            if pool not in instance.event_log_storage.get_concurrency_keys():
                instance.event_log_storage.set_concurrency_slots(pool, 1)
    _fail_abandoned_runs(instance)
    return instance


@contextmanager
def owned_run(instance: dg.DagsterInstance, run_id: str) -> Iterator[None]:
    """Hold the lock of a run while this process executes it, so that others can tell if the process was killed."""
    path = _lock_folder() / run_id
    with FileLock(path):
        yield
    path.unlink(missing_ok=True)


def _fail_abandoned_runs(instance: dg.DagsterInstance) -> None:
    for path in _lock_folder().iterdir():
        try:
            with FileLock(path, timeout=0):
                run = instance.get_run_by_id(path.name)
                if run and run.status in IN_PROGRESS_RUN_STATUSES:
                    instance.report_run_failed(run, "The command that executed this run was killed.")
                path.unlink(missing_ok=True)
        except Timeout:
            continue


def _lock_folder() -> Path:
    folder = Path(os.environ["DAGSTER_HOME"]) / "commands"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _template() -> Path:
    package = Path(__file__).resolve().parent.parent
    packaged = package / "dagster.yaml"
    return packaged if packaged.exists() else package.parent / "dagster.yaml"

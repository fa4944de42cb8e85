"""Dagster runs that a command executes in its own process; they are in the UI like any other."""

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg
from dagster import DagsterEventType
from dagster._core.errors import DagsterExecutionInterruptedError

from al_dagster.core.disk import require_space
from al_dagster.core.errors import UserError
from al_dagster.core.settings import load_settings
from al_dagster.resources import build_resources
from al_dagster.resources.instance import open_instance, owned_run


class RunFailedError(Exception):
    """A run failed for a reason that is not the user's; raised from it."""


def execute(
    job: str,
    *,
    partition: str | None = None,
    partitions: dg.DynamicPartitionsDefinition | None = None,
    config: Mapping[str, Mapping[str, Any]] | None = None,
) -> dg.ExecuteInProcessResult:
    """Execute a job of the code location in this process.

    Args:
        job: its name.
        partition: key of the partition to materialize.
        partitions: the partitions definition, to which a new key is added.
        config: of assets, by their names.

    Raises:
        UserError: the run failed for a reason that the user can put right; says what the asset said.
        DiskFullError: there is no room to begin.
        RunFailedError: it failed for another reason; names the run.
    """
    settings = load_settings()
    require_space(settings.home)
    with open_instance(settings) as instance:
        from al_dagster.definitions import defs

        if partition is not None and partitions is not None:
            instance.add_dynamic_partitions(str(partitions.name), [partition])
        run_id = str(uuid.uuid4())
        try:
            with owned_run(instance, run_id):
                return defs.resolve_job_def(job).execute_in_process(
                    instance=instance,
                    partition_key=partition,
                    resources=build_resources(settings),
                    run_id=run_id,
                    run_config={
                        "ops": {asset: {"config": dict(values)} for asset, values in (config or {}).items()},
                        "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
                    },
                )
        except DagsterExecutionInterruptedError:
            raise KeyboardInterrupt from None
        except Exception as error:
            found = _user_error(error)
            if found is not None:
                raise found  # noqa: B904
            raise RunFailedError(_told(error, instance, run_id)) from error


def batches_under_way(keys: Sequence[str]) -> set[str]:
    """Those of the batches that a run of another process is working on or waiting to work on."""
    from al_dagster.automation.requests import under_way

    with open_instance(load_settings()) as instance:
        return under_way(instance, keys)


def step_seconds(result: dg.ExecuteInProcessResult) -> dict[str, float]:
    """Seconds that each asset took in a run."""
    return {
        event.step_key: round(event.step_success_data.duration_ms / 1000, 2)
        for event in result.all_events
        if event.is_step_success and event.step_key
    }


def asset_metadata(result: dg.ExecuteInProcessResult, asset: str) -> Mapping[str, Any]:
    """The metadata values of an asset's materialization in a run."""
    (materialization,) = result.asset_materializations_for_node(asset)
    return {name: value.value for name, value in materialization.metadata.items()}


def failed_checks(result: dg.ExecuteInProcessResult) -> list[str]:
    """A sentence for each asset check that failed in a run: its name and what it found first."""
    return [
        f"{check.check_name}: {_finding({name: value.value for name, value in check.metadata.items()})}"
        for check in result.get_asset_check_evaluations()
        if not check.passed
    ]


def _finding(figures: Mapping[str, Any]) -> str:
    more = int(figures.get("wrong", 1)) - 1
    first = figures.get("first_wrong", "see `al ui`")
    return f"{first} and {more} more" if more else str(first)


def _user_error(error: BaseException | None) -> UserError | None:
    """The error that a user can put right, where it is the error or what Dagster wrapped in it."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__
    return error


def _told(error: Exception, instance: dg.DagsterInstance, run_id: str) -> str:
    """Which asset failed, the last line of the reason, and where more is to be seen."""
    said = (str(error).strip() or type(error).__name__).splitlines()[-1]
    try:
        failures = instance.all_logs(run_id, of_type=DagsterEventType.STEP_FAILURE)
    except Exception:
        failures = []  # What the run could not write cannot be read either.
    where = failures[0].step_key if failures else "the run"
    return f"{where} failed: {type(error).__name__}: {said} (run {run_id}; `al ui` shows its log)"

"""Dagster runs that a command executes in its own process; they are in the UI like any other."""

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg
from dagster import DagsterEvent
from dagster_shared.error import SerializableErrorInfo

from al_dagster.core.errors import UserError
from al_dagster.core.settings import load_settings
from al_dagster.resources import build_resources
from al_dagster.resources.instance import open_instance, owned_run


class RunFailedError(Exception):
    """A run failed for a reason that is not the user's."""


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
        RunFailedError: it failed for another reason; names the run.
    """
    settings = load_settings()
    with open_instance(settings) as instance:
        from al_dagster.definitions import defs

        if partition is not None and partitions is not None:
            instance.add_dynamic_partitions(str(partitions.name), [partition])
        run_id = str(uuid.uuid4())
        with owned_run(instance, run_id):
            result = defs.resolve_job_def(job).execute_in_process(
                instance=instance,
                partition_key=partition,
                resources=build_resources(settings),
                raise_on_error=False,
                run_id=run_id,
                run_config={
                    "ops": {asset: {"config": dict(values)} for asset, values in (config or {}).items()},
                    "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
                },
            )
        if not result.success:
            raise _failure(result, run_id)
        return result


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


def _failure(result: dg.ExecuteInProcessResult, run_id: str) -> Exception:
    failures = [event for event in result.all_events if event.is_step_failure]
    for event in failures:
        message = _user_error(event)
        if message:
            return UserError(message)
    where = failures[0].step_key if failures else "the run"
    error = failures[0].step_failure_data.error if failures else None
    reason = (error.cause or error).message.strip().splitlines()[-1] if error else "see its log"
    return RunFailedError(f"{where} failed: {reason} (run {run_id}; `al ui` shows its log)")


def _user_error(event: DagsterEvent) -> str | None:
    error: SerializableErrorInfo | None = event.step_failure_data.error
    while error is not None:
        if error.cls_name in ("UserError", "UnreadableFileError"):
            return error.message.partition(": ")[2].strip() or error.message.strip()
        error = error.cause
    return None

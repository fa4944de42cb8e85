"""Dagster runs that a command executes in its own process; they are in the UI like any other."""

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg
from dagster import DagsterEvent, DagsterEventType
from dagster._core.events import RunFailureReason
from dagster._core.storage.tags import PARTITION_NAME_TAG
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
        KeyboardInterrupt: Ctrl-C or SIGTERM came meanwhile; the run is cancelled.
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
        if _was_interrupted(result):
            # Dagster takes the run for failed, since nobody asked it to cancel it.
            instance.report_run_canceled(result.dagster_run, "The command that executed this run was interrupted.")
            raise KeyboardInterrupt
        if not result.success:
            raise _failure(result, run_id)
        return result


def batches_under_way(keys: Sequence[str]) -> set[str]:
    """Those of the batches that a run of another process is working on or waiting to work on."""
    from al_dagster.automation.requests import under_way

    with open_instance(load_settings()) as instance:
        return under_way(instance, keys)


def why_unfinished(keys: Sequence[str]) -> dict[str, str]:
    """What became of the newest run of each batch: what it failed of, or that it is under way.

    Args:
        keys: of batches that are not finished; those that no run has begun are left out of the result.
    """
    from al_dagster.automation.requests import UNFINISHED

    said = {}
    with open_instance(load_settings()) as instance:
        for key in keys:
            for run in instance.get_runs(dg.RunsFilter(tags={PARTITION_NAME_TAG: key}), limit=1):
                if run.status == dg.DagsterRunStatus.FAILURE:
                    said[key] = _why_failed(instance, run.run_id)
                elif run.status == dg.DagsterRunStatus.CANCELED:
                    said[key] = "its run was cancelled"
                elif run.status == dg.DagsterRunStatus.SUCCESS:
                    said[key] = "some of its images could not be labelled; `al images list --state failed` names them"
                elif run.status in UNFINISHED:
                    said[key] = (
                        "being labelled now" if run.status == dg.DagsterRunStatus.STARTED else "waits in the queue"
                    )
    return said


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


def _why_failed(instance: dg.DagsterInstance, run_id: str) -> str:
    kinds = {DagsterEventType.STEP_FAILURE, DagsterEventType.RUN_FAILURE}
    records = instance.get_records_for_run(run_id, of_type=kinds).records
    events = [record.event_log_entry.dagster_event for record in records if record.event_log_entry.dagster_event]
    reasons = [_reason(event)[0] for event in events if event.is_step_failure]
    said = reasons or [event.message for event in events if event.message]
    return said[0] if said else f"its run {run_id} failed; `al ui` shows its log"


def _finding(figures: Mapping[str, Any]) -> str:
    more = int(figures.get("wrong", 1)) - 1
    first = figures.get("first_wrong", "see `al ui`")
    return f"{first} and {more} more" if more else str(first)


def _was_interrupted(result: dg.ExecuteInProcessResult) -> bool:
    ends = [event for event in result.all_events if event.event_type == DagsterEventType.RUN_FAILURE]
    return any(event.job_failure_data.failure_reason == RunFailureReason.UNEXPECTED_TERMINATION for event in ends)


def _failure(result: dg.ExecuteInProcessResult, run_id: str) -> Exception:
    failures = [event for event in result.all_events if event.is_step_failure]
    reasons = [_reason(event) for event in failures]
    for reason, of_user in reasons:
        if of_user:
            return UserError(reason)
    where, why = (failures[0].step_key, reasons[0][0]) if failures else ("the run", "see its log")
    return RunFailedError(f"{where} failed: {why} (run {run_id}; `al ui` shows its log)")


def _reason(event: DagsterEvent) -> tuple[str, bool]:
    """What a step failed of, and whether the user can put it right."""
    said = _user_error(event)
    if said:
        return said, True
    error = event.step_failure_data.error
    return ((error.cause or error).message.strip().splitlines()[-1] if error else "see its log"), False


def _user_error(event: DagsterEvent) -> str | None:
    error: SerializableErrorInfo | None = event.step_failure_data.error
    while error is not None:
        if error.cls_name in ("UserError", "UnreadableFileError"):
            return error.message.partition(": ")[2].strip() or error.message.strip()
        error = error.cause
    return None

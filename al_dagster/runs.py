"""Dagster runs that a command executes in its own process; they are in the UI like any other."""

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg
from dagster import DagsterEvent, DagsterEventType
from dagster._core.errors import DagsterExecutionInterruptedError
from dagster._core.storage.tags import PARTITION_NAME_TAG

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
        KeyboardInterrupt: Ctrl-C or SIGTERM came meanwhile; the run is cancelled.
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
        except (KeyboardInterrupt, DagsterExecutionInterruptedError):
            _cancel(instance, run_id)
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
    reasons = [_reason(event) for event in events if event.is_step_failure]
    said = reasons or [event.message for event in events if event.message]
    return said[0] if said else f"its run {run_id} failed; `al ui` shows its log"


def _finding(figures: Mapping[str, Any]) -> str:
    more = int(figures.get("wrong", 1)) - 1
    first = figures.get("first_wrong", "see `al ui`")
    return f"{first} and {more} more" if more else str(first)


def _cancel(instance: dg.DagsterInstance, run_id: str) -> None:
    """Mark a run as cancelled; Dagster takes it for failed, since nobody asked it to cancel the run."""
    run = instance.get_run_by_id(run_id)
    if run is not None and run.status != dg.DagsterRunStatus.CANCELED:
        instance.report_run_canceled(run, "The command that executed this run was interrupted.")


def _reason(event: DagsterEvent) -> str:
    """What a step of a run of any process failed of, as its log has it."""
    error = event.step_failure_data.error
    while error is not None and error.cause is not None:
        error = error.cause
    if error is None:
        return "see its log in `al ui`"
    said = error.message.strip()
    kind, _, text = said.partition(": ")
    return text.strip() if kind.rpartition(".")[2] == error.cls_name and text.strip() else said


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

"""What the sensors have in common: a run is requested as long as its cause stands, again and again if it fails."""

import time
from collections.abc import Container, Sequence

import dagster as dg
from dagster._core.storage.tags import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    PARTITION_NAME_TAG,
)

from al_dagster.resources.instance import ABANDONED_TAG

UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]

CAUSE_TAG = "al/cause"
"""Of requested runs: the run key of the first request, which says why they were requested."""

FIRST_WAIT_SECONDS = 30.0
LONGEST_WAIT_SECONDS = 3600.0
PARTITIONS_A_REQUEST = 1000  # the most that Dagster takes


def due(instance: dg.DagsterInstance, requests: Sequence[dg.RunRequest], *, once: bool = False) -> list[dg.RunRequest]:
    """Those of the requests whose turn it is; Dagster itself never runs a run key twice, even if its run failed.

    A request whose run key is new is due at once. If its newest run ended and the cause still stands, it is due again
    under a key of its own after a wait, which doubles with each run from half a minute to an hour. A run that a person
    cancelled is left at that.

    Args:
        instance: whose runs are looked at.
        requests: what would have to be run now; the run key of each says why.
        once: a run that succeeded did what could be done, though its cause stands.
    """
    from al_dagster.registry.base import chunked

    runs: dict[str, list[dg.RunRecord]] = {}
    for chunk in chunked([str(request.run_key) for request in requests]):
        for record in instance.get_run_records(dg.RunsFilter(tags={CAUSE_TAG: list(chunk)})):
            runs.setdefault(record.dagster_run.tags[CAUSE_TAG], []).append(record)
    settled = {*UNFINISHED, dg.DagsterRunStatus.CANCELED, *([dg.DagsterRunStatus.SUCCESS] if once else [])}
    found = [_next(request, runs.get(str(request.run_key), []), settled) for request in requests]
    return [request for request in found if request]


def failed_request(instance: dg.DagsterInstance, partition_key: str, jobs: Sequence[str]) -> dg.RunRequest | None:
    """The request of the newest requested run of a partition by any of these jobs, if that run failed."""
    newest = [
        record
        for job in jobs
        for record in instance.get_run_records(
            dg.RunsFilter(job_name=job, tags={PARTITION_NAME_TAG: partition_key}), limit=1
        )
    ]
    run = max(newest, key=lambda record: record.storage_id).dagster_run if newest else None
    if run is None or run.status != dg.DagsterRunStatus.FAILURE or CAUSE_TAG not in run.tags:
        return None
    return dg.RunRequest(run_key=run.tags[CAUSE_TAG], partition_key=partition_key, job_name=run.job_name)


def under_way(instance: dg.DagsterInstance, partition_keys: Sequence[str]) -> set[str]:
    """Those of the partitions that a run, whoever began it, is working on or waiting to work on."""
    from al_dagster.registry.base import chunked

    found: set[str] = set()
    for chunk in chunked(list(partition_keys)):
        filters = dg.RunsFilter(tags={PARTITION_NAME_TAG: list(chunk)}, statuses=UNFINISHED)
        found.update(run.tags[PARTITION_NAME_TAG] for run in instance.get_runs(filters))
    return found


def abandoned(instance: dg.DagsterInstance, partitions: dg.DynamicPartitionsDefinition) -> set[str]:
    """The partitions that some run was working on when its process was gone."""
    keys = list(instance.get_dynamic_partitions(str(partitions.name)))
    found: set[str] = set()
    for run in instance.get_runs(dg.RunsFilter(tags={ABANDONED_TAG: "true"})):
        first, last = (run.tags.get(tag) for tag in (ASSET_PARTITION_RANGE_START_TAG, ASSET_PARTITION_RANGE_END_TAG))
        if first in keys and last in keys:
            found.update(keys[keys.index(first) : keys.index(last) + 1])
        elif PARTITION_NAME_TAG in run.tags:
            found.add(run.tags[PARTITION_NAME_TAG])
    return found & set(keys)


def requested(
    context: dg.SensorEvaluationContext, partitions: dg.DynamicPartitionsDefinition, requests: Sequence[dg.RunRequest]
) -> dg.SensorResult:
    """The requests with the missing partitions that they need; what is too much at once waits for the next tick."""
    known = set(context.instance.get_dynamic_partitions(str(partitions.name)))
    needed = [str(request.partition_key) for request in requests]
    new = [key for key in needed if key not in known][:PARTITIONS_A_REQUEST]
    known.update(new)
    return dg.SensorResult(
        run_requests=[request for request in requests if request.partition_key in known],
        dynamic_partitions_requests=[partitions.build_add_request(new)] if new else [],
    )


def _next(
    request: dg.RunRequest, runs: Sequence[dg.RunRecord], settled: Container[dg.DagsterRunStatus]
) -> dg.RunRequest | None:
    cause = str(request.run_key)
    key = cause
    if runs:
        newest = max(runs, key=lambda record: record.storage_id)
        if newest.dagster_run.status in settled:
            return None
        wait = min(FIRST_WAIT_SECONDS * 2 ** min(len(runs) - 1, 30), LONGEST_WAIT_SECONDS)
        if time.time() - (newest.end_time or 0.0) < wait:
            return None
        key = f"{cause}:again{len(runs)}"
    return request.with_replaced_attrs(run_key=key, tags={**request.tags, CAUSE_TAG: cause})

"""The sensors: new files become runs, reviews calibrations, moved boxes vectors, changed labels datasets and models."""

import dagster as dg
from dagster._core.storage.tags import PARTITION_NAME_TAG

from al_dagster.assets.partitions import batches, datasets, projects
from al_dagster.automation.jobs import (
    build_and_train,
    build_dataset,
    calibrate,
    label_batch,
    refresh,
    refresh_stale_objects,
)
from al_dagster.core.errors import UserError
from al_dagster.resources import InboxResource, RegistryResource

PARTITIONS_A_REQUEST = 1000  # the most that Dagster takes
UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
]


@dg.sensor(job=label_batch, minimum_interval_seconds=10, default_status=dg.DefaultSensorStatus.RUNNING)
def inbox_sensor(
    context: dg.SensorEvaluationContext, inbox: InboxResource, registry: RegistryResource
) -> dg.SensorResult | dg.SkipReason:
    """Labels what lies in ``inbox/<project>``: cuts new files into batches and requests a run for each.

    The claim of a file is committed before its run is requested, and every unfinished batch is requested at each tick
    under the same run key: a tick that overlaps another or dies half-way neither loses nor repeats a file.
    """
    intake = inbox.take(registry.open())
    for problem in intake.problems:
        context.log.warning(problem)
    if not intake.unfinished:
        return dg.SkipReason("; ".join(["no new files", *intake.problems]))
    requests = [dg.RunRequest(run_key=key, partition_key=key) for key in intake.unfinished]
    return _requested(context, batches, requests)


@dg.sensor(job=calibrate, minimum_interval_seconds=60, default_status=dg.DefaultSensorStatus.RUNNING)
def calibration_sensor(
    context: dg.SensorEvaluationContext, registry: RegistryResource
) -> dg.SensorResult | dg.SkipReason:
    """Calibrates the detectors of a project when its reviews are not those that it was calibrated on.

    It compares states, not events, and asks only when enough reviews have changed, so that a person who is reviewing
    does not start a run with every click.
    """
    from al_dagster.labelling.calibrate import due_calibrations

    requests = []
    for name, reviews in due_calibrations(registry.open()).items():
        # Reviews may change back: what was calibrated since tells this request from an earlier one for the same.
        done = dg.RunsFilter(
            job_name=calibrate.name, tags={PARTITION_NAME_TAG: name}, statuses=[dg.DagsterRunStatus.SUCCESS]
        )
        run_key = f"{name}:{reviews}:{context.instance.get_runs_count(done)}"
        requests.append(dg.RunRequest(run_key=run_key, partition_key=name))
    if not requests:
        return dg.SkipReason("no project has enough new reviews")
    return _requested(context, projects, requests)


@dg.sensor(job=refresh, minimum_interval_seconds=60, default_status=dg.DefaultSensorStatus.RUNNING)
def refresh_sensor(context: dg.SensorEvaluationContext, registry: RegistryResource) -> dg.SensorResult | dg.SkipReason:
    """Makes masks and vectors anew of the objects whose box a person moved, by whatever door.

    It compares states, not events. What could not be made, since an image cannot be read, is not asked for again until
    another box is moved or `al objects refresh` is called.
    """
    from al_dagster.registry.stale import stale_projects

    if context.instance.get_run_ids(dg.RunsFilter(job_name=refresh.name, statuses=UNFINISHED), limit=1):
        return dg.SkipReason("waiting for the refresh that is running")
    requests = [
        dg.RunRequest(
            run_key=f"{name}:{waiting}",
            run_config={"ops": {refresh_stale_objects.name: {"config": {"project": name}}}},
        )
        for name, waiting in stale_projects(registry.open()).items()
    ]
    return dg.SensorResult(run_requests=requests) if requests else dg.SkipReason("every object has its vector")


@dg.sensor(
    jobs=[build_dataset, build_and_train],
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def dataset_sensor(context: dg.SensorEvaluationContext, registry: RegistryResource) -> dg.SensorResult | dg.SkipReason:
    """Rebuilds a dataset, and trains its model, when the labels it would hold are not those it holds.

    It compares states, not events: whatever changed, and however many ticks were missed, a definition with
    ``auto_build`` whose content differs from its newest version is requested once for that content. While batches are
    being labelled it waits, so that a backlog makes one version and not one a batch.
    """
    from al_dagster.datasets.build import unbuilt_content
    from al_dagster.datasets.definition import parse_definition
    from al_dagster.registry.datasets import list_definitions

    labelling = dg.RunsFilter(job_name=label_batch.name, statuses=UNFINISHED)
    if context.instance.get_run_ids(labelling, limit=1):
        return dg.SkipReason("waiting for the batches that are being labelled")
    requests, problems = [], []
    for name, values in list_definitions(registry.open()).items():
        try:
            definition = parse_definition(values, f"dataset {name}")
            content = definition.auto_build and unbuilt_content(
                registry.open(), definition, duplicate_distance=registry.duplicate_distance
            )
        except UserError as error:
            problems.append(str(error))
            continue
        if content:
            job = build_and_train if definition.auto_train else build_dataset
            # Labels may change back: what was built since tells this request from an earlier one for the same content.
            built = dg.RunsFilter(tags={PARTITION_NAME_TAG: name}, statuses=[dg.DagsterRunStatus.SUCCESS])
            run_key = f"{name}:{content}:{context.instance.get_runs_count(built)}"
            requests.append(dg.RunRequest(run_key=run_key, partition_key=name, job_name=job.name))
    if not requests:
        return dg.SkipReason("; ".join(["every dataset is up to date", *problems]))
    return _requested(context, datasets, requests)


def _requested(
    context: dg.SensorEvaluationContext, partitions: dg.DynamicPartitionsDefinition, requests: list[dg.RunRequest]
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

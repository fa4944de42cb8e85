"""The sensors: new files become runs, reviews calibrations, moved boxes vectors, changed labels datasets and models."""

import dagster as dg
from dagster._core.storage.tags import PARTITION_NAME_TAG
from pydantic import TypeAdapter, ValidationError

from al_dagster.assets.partitions import batches, datasets, projects
from al_dagster.automation.jobs import (
    build_and_train,
    build_dataset,
    calibrate,
    label_batch,
    refresh,
    refresh_stale_objects,
)
from al_dagster.automation.requests import UNFINISHED, abandoned, due, failed_request, requested, under_way
from al_dagster.core.errors import UserError
from al_dagster.resources import InboxResource, RegistryResource
from al_dagster.resources.instance import close_abandoned_runs


@dg.sensor(job=label_batch, minimum_interval_seconds=10, default_status=dg.DefaultSensorStatus.RUNNING)
def inbox_sensor(
    context: dg.SensorEvaluationContext, inbox: InboxResource, registry: RegistryResource
) -> dg.SensorResult | dg.SkipReason:
    """Labels what lies in ``inbox/<project>``: cuts new files into batches and requests a run for each.

    The claim of a file is committed before its run is requested, and every unfinished batch is requested until it is
    finished: a tick that overlaps another or dies half-way neither loses nor repeats a file. Runs whose process is
    gone are closed first, and their batches requested again, whoever began them. A batch whose run failed is tried
    again after a while, and at once when its project's configuration has changed.
    """
    from al_dagster.core.fingerprints import fingerprint
    from al_dagster.core.ids import batch_project
    from al_dagster.registry.batches import unfinished_batches
    from al_dagster.registry.projects import list_projects

    close_abandoned_runs(context.instance)
    store = registry.open()
    intake = inbox.take(store)
    said = fingerprint(problems=intake.problems)
    if said != context.cursor:
        for problem in intake.problems:
            context.log.warning(problem)
        context.update_cursor(said)
    wanted = {*intake.unfinished, *abandoned(context.instance, batches)}
    waiting = [key for key in unfinished_batches(store) if key in wanted]
    running = under_way(context.instance, waiting)
    configured = {config.name: fingerprint(config=config.model_dump(mode="json")) for config in list_projects(store)}
    requests = due(
        context.instance,
        [
            dg.RunRequest(run_key=f"{key}:{configured[batch_project(key)][:8]}", partition_key=key)
            for key in waiting
            if key not in running
        ],
    )
    if not requests:
        return dg.SkipReason("; ".join([_waiting(len(waiting), len(running)), *intake.problems]))
    return requested(context, batches, requests)


@dg.sensor(job=calibrate, minimum_interval_seconds=60, default_status=dg.DefaultSensorStatus.RUNNING)
def calibration_sensor(
    context: dg.SensorEvaluationContext, registry: RegistryResource
) -> dg.SensorResult | dg.SkipReason:
    """Calibrates the detectors of a project when its reviews are not those that it was calibrated on.

    It compares states, not events, and asks only when enough reviews have changed, so that a person who is reviewing
    does not start a run with every click.
    """
    from al_dagster.core.ids import project_slug
    from al_dagster.labelling.calibrate import due_calibrations

    requests = []
    for name, reviews in due_calibrations(registry.open()).items():
        key = project_slug(name)
        # Reviews may change back: what was calibrated since tells this request from an earlier one for the same.
        done = dg.RunsFilter(
            job_name=calibrate.name, tags={PARTITION_NAME_TAG: key}, statuses=[dg.DagsterRunStatus.SUCCESS]
        )
        run_key = f"{key}:{reviews}:{context.instance.get_runs_count(done)}"
        requests.append(dg.RunRequest(run_key=run_key, partition_key=key))
    requests = due(context.instance, requests)
    if not requests:
        return dg.SkipReason("no project has enough new reviews")
    return requested(context, projects, requests)


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
    requests = due(context.instance, requests, once=True)
    return dg.SensorResult(run_requests=requests) if requests else dg.SkipReason("every object has its vector")


@dg.sensor(
    jobs=[build_dataset, build_and_train],
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def dataset_sensor(context: dg.SensorEvaluationContext, registry: RegistryResource) -> dg.SensorResult | dg.SkipReason:
    """Rebuilds a dataset, and trains its model, when the labels it would hold are not those it holds.

    It compares states, not events: whatever changed, and however many ticks were missed, a definition with
    ``auto_build`` whose content differs from its newest version is requested for that content, and again if its run
    failed. While batches are being labelled it waits, so that a backlog makes one version and not one a batch.
    The cursor holds what each would hold and the state of the registry that it follows from: nothing is selected
    before that state changes.
    """
    from al_dagster.datasets.definition import parse_definition
    from al_dagster.datasets.unbuilt import Content, content_now, is_built
    from al_dagster.registry.datasets import list_definitions

    labelling = dg.RunsFilter(job_name=label_batch.name, statuses=UNFINISHED)
    if context.instance.get_run_ids(labelling, limit=1):
        return dg.SkipReason("waiting for the batches that are being labelled")
    store = registry.open()
    contents = TypeAdapter(dict[str, Content])
    try:
        known = contents.validate_json(context.cursor or "{}")
    except ValidationError:  # a cursor of another version of the program
        known = {}
    current: dict[str, Content] = {}
    requests, problems = [], []
    for name, values in list_definitions(store).items():
        try:
            definition = parse_definition(values, f"dataset {name}")
            if not definition.auto_build:
                continue
            found = content_now(
                store, definition, duplicate_distance=registry.duplicate_distance, known=known.get(name)
            )
        except UserError as error:
            problems.append(str(error))
            continue
        current[name] = found
        content = found.content_hash
        if content is None:
            problems.append(str(found.problem))
            continue
        if not is_built(store, name, content):
            job = build_and_train if definition.auto_train else build_dataset
            # Labels may change back: what was built since tells this request from an earlier one for the same content.
            built = dg.RunsFilter(tags={PARTITION_NAME_TAG: name}, statuses=[dg.DagsterRunStatus.SUCCESS])
            run_key = f"{name}:{content}:{context.instance.get_runs_count(built)}"
            requests.append(dg.RunRequest(run_key=run_key, partition_key=name, job_name=job.name))
        else:
            # A run that failed after its dataset was frozen has still to export it and to train.
            failed = failed_request(context.instance, name, [build_dataset.name, build_and_train.name])
            requests += [failed] if failed else []
    context.update_cursor(contents.dump_json(current).decode())
    requests = due(context.instance, requests)
    if not requests:
        return dg.SkipReason("; ".join(["every dataset is up to date", *problems]))
    return requested(context, datasets, requests)


def _waiting(unfinished: int, running: int) -> str:
    if not unfinished:
        return "no new files"
    return f"no new files; {running} batches are being labelled, {unfinished - running} wait to be tried again"

"""An asset that is materialized before what it reads: it fails, names what to materialize, and retires nothing."""

from pathlib import Path

import dagster as dg
import pytest
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus

from al_dagster.registry.batches import unfinished_batches
from al_dagster.registry.database import open_registry

NEEDS = {
    "frames": "sources",
    "detections": "frames",
    "masks": "frames",
    "embeddings": "frames",
    "classifications": "frames|detections|masks",
    "objects": "frames|detections|masks",
    "vector_index": "objects",
}


def errors(result) -> str:
    told = []
    for event in result.all_events:
        if event.is_step_failure:
            error = event.step_failure_data.error
            while error is not None:
                told.append(error.message)
                error = error.cause
    return "\n".join(told)


def unfinished(bench) -> list[str]:
    with open_registry(bench.home.settings.database_url) as registry:
        return unfinished_batches(registry)


@pytest.mark.parametrize("asset", NEEDS)
def test_an_asset_before_its_inputs_fails_and_names_the_first_that_is_missing(bench, asset):
    (key,) = bench.claim(bench.home.pictures(1))
    result = bench.run(key, only=[asset], raise_on_error=False)
    assert not result.success
    missing = NEEDS[asset].split("|")
    assert any(f"{name} of {key} is not in the lake: materialize {name} first" in errors(result) for name in missing)
    assert unfinished(bench) == [key]
    assert not bench.lake.exists(asset, key)


def test_objects_after_a_part_of_the_chain_fails_too_and_the_batch_is_still_asked_for(bench):
    (key,) = bench.claim(bench.home.pictures(1))
    bench.run(key, only=["sources", "frames", "detections"])
    result = bench.run(key, only=["objects"], raise_on_error=False)
    assert not result.success
    assert f"masks of {key} is not in the lake" in errors(result)
    assert unfinished(bench) == [key]
    assert bench.run(key).success
    assert unfinished(bench) == []
    assert len(bench.objects()) == 2


@pytest.mark.parametrize(
    ("asset", "name"),
    [
        ("sources", "quarantined_share"),
        ("masks", "masks_inside_boxes"),
        ("embeddings", "embeddings_well_formed"),
    ],
)
def test_a_check_that_could_not_look_at_its_data_has_failed_to_run_and_found_nothing(bench, asset, name):
    (key,) = bench.claim(bench.home.pictures(1))
    bench.run(key, only=["sources", "frames", "detections"])
    for path in Path(bench.home.settings.lake, asset).rglob("*.parquet"):
        path.unlink()
    result = bench.run(key, only=["detections"], check_only=[(asset, name)], raise_on_error=False)
    assert name not in {evaluation.check_name for evaluation in result.get_asset_check_evaluations()}
    record, *_ = bench.instance.event_log_storage.get_asset_check_execution_history(
        dg.AssetCheckKey(dg.AssetKey(asset), name), limit=1
    )
    assert record.status is AssetCheckExecutionRecordStatus.PLANNED, "Dagster shows this as an execution failure"
    assert f"{asset} of {key} is not in the lake: materialize {asset} first" in errors(result)

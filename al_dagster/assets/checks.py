"""Asset checks: what must hold of every batch and dataset, looked at again in what was stored.

A run over a range of partitions gives one result for all of them, which fails if any of them does.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import dagster as dg

from al_dagster.assets.dataset import DATASET_ID, dataset, dataset_export
from al_dagster.assets.ingest import sources
from al_dagster.assets.label import detections, embeddings, masks
from al_dagster.assets.partitions import batches, datasets
from al_dagster.assets.register import objects, vector_index
from al_dagster.core.ids import batch_project
from al_dagster.resources import LakeIOManager, RegistryResource

if TYPE_CHECKING:
    from al_dagster.core.verdict import Verdict

Lake = dg.ResourceParam[LakeIOManager]
Context = dg.AssetCheckExecutionContext


@dg.asset_check(asset=sources, partitions_def=batches, name="quarantined_share")
def check_quarantined_share(context: Context, lake: Lake) -> dg.AssetCheckResult:
    """At most a tenth of the files of a batch are quarantined."""
    from al_dagster.labelling.quality import quarantined_share

    return _judge(context, lambda key: quarantined_share(lake.lake.read("sources", key)), dg.AssetCheckSeverity.WARN)


@dg.asset_check(asset=detections, partitions_def=batches, name="boxes_inside_image")
def check_boxes_inside_image(context: Context, lake: Lake) -> dg.AssetCheckResult:
    """Every box has an area and lies inside its image."""
    from al_dagster.labelling.quality import boxes_inside_image

    return _judge(
        context, lambda key: boxes_inside_image(lake.lake.read("detections", key), lake.lake.read("frames", key))
    )


@dg.asset_check(asset=detections, partitions_def=batches, name="no_duplicate_boxes")
def check_no_duplicate_boxes(context: Context, lake: Lake) -> dg.AssetCheckResult:
    """No two boxes of one label in one frame cover nearly the same pixels."""
    from al_dagster.labelling.quality import no_duplicate_boxes

    return _judge(context, lambda key: no_duplicate_boxes(lake.lake.read("detections", key)))


@dg.asset_check(asset=masks, partitions_def=batches, name="masks_inside_boxes")
def check_masks_inside_boxes(context: Context, lake: Lake, registry: RegistryResource) -> dg.AssetCheckResult:
    """Every mask has pixels, lies inside its box, and its file is there and undamaged."""
    from al_dagster.labelling.quality import masks_inside_boxes

    return _judge(
        context,
        lambda key: masks_inside_boxes(
            lake.lake.read("masks", key),
            lake.lake.read("detections", key),
            lake.lake.read("frames", key),
            registry.masks(),
        ),
    )


@dg.asset_check(asset=embeddings, partitions_def=batches, name="embeddings_well_formed")
def check_embeddings_well_formed(context: Context, lake: Lake, registry: RegistryResource) -> dg.AssetCheckResult:
    """Every vector has the dimension of its embedding version and L2 norm 1."""
    from al_dagster.labelling.quality import embeddings_well_formed
    from al_dagster.registry.embedding_versions import list_versions

    dimensions = {version.version_id: version.dimension for version in list_versions(registry.open())}
    return _judge(context, lambda key: embeddings_well_formed(lake.lake.read("embeddings", key), dimensions))


@dg.asset_check(asset=objects, partitions_def=batches, name="frames_labelled")
def check_frames_labelled(context: Context, lake: Lake, registry: RegistryResource) -> dg.AssetCheckResult:
    """Every frame of the batch could be labelled; one that could not is tried again the next time."""
    from al_dagster.labelling.quality import frames_labelled

    return _judge(
        context,
        lambda key: frames_labelled(registry.open(), batch_project(key), lake.lake.read("frames", key)),
        dg.AssetCheckSeverity.WARN,
    )


@dg.asset_check(asset=vector_index, partitions_def=batches, name="outbox_drained")
def check_outbox_drained(context: Context, lake: Lake, registry: RegistryResource) -> dg.AssetCheckResult:
    """Nothing of the batch waits in the outbox or failed, and the store holds every object of the batch."""
    from al_dagster.labelling.index import outbox_drained

    return _judge(context, lambda key: outbox_drained(registry.open(), key, lake.lake.read("vector_index", key)))


@dg.asset_check(asset=dataset, partitions_def=datasets, name="no_split_leakage")
def check_no_split_leakage(context: Context, lake: Lake, registry: RegistryResource) -> dg.AssetCheckResult:
    """No image is in a split while the same or nearly the same picture, or another of its group, is in another."""
    from al_dagster.datasets.leaks import no_split_leakage
    from al_dagster.datasets.versions import load_version

    def rule(key: str) -> "Verdict":
        frozen = load_version(registry.open(), lake.lake, _version(context, key))
        return no_split_leakage(registry.open(), frozen, registry.duplicate_distance)

    return _judge(context, rule)


@dg.asset_check(asset=dataset_export, partitions_def=datasets, name="export_equals_registry")
def check_export_equals_registry(context: Context, lake: Lake, registry: RegistryResource) -> dg.AssetCheckResult:
    """What independent readers find in the exported files is what was frozen."""
    from al_dagster.datasets.verify import export_equals_registry
    from al_dagster.datasets.versions import read_version

    def rule(key: str) -> "Verdict":
        version = read_version(registry.open(), lake.lake, _version(context, key))
        record = version.record
        return export_equals_registry(version.dataset, record.export_path, record.exported_at)

    return _judge(context, rule)


all_checks = [
    check_quarantined_share,
    check_boxes_inside_image,
    check_no_duplicate_boxes,
    check_masks_inside_boxes,
    check_embeddings_well_formed,
    check_frames_labelled,
    check_outbox_drained,
    check_no_split_leakage,
    check_export_equals_registry,
]


def _version(context: Context, name: str) -> str:
    """The version of a dataset that its asset was last materialized with; the one that was built last if never."""
    key = context.check_specs[0].asset_key
    made = context.instance.fetch_materializations(dg.AssetRecordsFilter(key, asset_partitions=[name]), limit=1).records
    found = made[0].asset_materialization if made else None
    return str(found.metadata[DATASET_ID].value) if found and DATASET_ID in found.metadata else name


def _judge(
    context: Context, rule: "Callable[[str], Verdict]", severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR
) -> dg.AssetCheckResult:
    verdicts = {key: rule(key) for key in context.partition_keys}
    failed = [key for key, verdict in verdicts.items() if not verdict.passed]
    shown = failed[0] if failed else next(iter(verdicts))
    return dg.AssetCheckResult(
        passed=not failed,
        severity=severity,
        metadata={"partitions": len(verdicts), "failed": len(failed), "partition": shown, **verdicts[shown].figures},
    )

"""``calibration``: what the confidence of a project's detectors means, by its reviews."""

import dagster as dg

from al_dagster.assets.metadata import picture, table_of
from al_dagster.assets.partitions import projects
from al_dagster.assets.register import objects
from al_dagster.core.ids import slug_project
from al_dagster.resources import RegistryResource


@dg.asset(
    partitions_def=projects,
    deps=[dg.AssetDep(objects, partition_mapping=dg.AllPartitionMapping())],
    group_name="review",
    kinds={"scikitlearn", "sqlite"},
    code_version="1",
)
def calibration(context: dg.AssetExecutionContext, registry: RegistryResource) -> dg.MaterializeResult:
    """Raw confidence turned into the probability of being right, for each detector that people have reviewed enough."""
    from al_dagster.labelling.calibrate import calibrate

    found = calibrate(registry.open(), registry.project(slug_project(context.partition_key)).name)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(found.content_hash),
        metadata={
            "reviews": sum(row["reviews"] for row in found.detectors),
            "calibrated_detectors": sum(row["missing"] is None for row in found.detectors),
            "recalibrated_objects": found.recalibrated,
            "detectors": table_of(found.detectors),
            "thresholds": table_of(found.thresholds),
            **({"reliability": picture(found.diagram, "png")} if found.diagram else {}),
        },
    )

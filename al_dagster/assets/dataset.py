"""``dataset`` and ``dataset_export``: a frozen selection with its split, and the same on disk."""

from pathlib import Path

import dagster as dg
from pydantic import Field

from al_dagster.assets.metadata import table_of
from al_dagster.assets.partitions import datasets
from al_dagster.assets.register import objects
from al_dagster.resources import ExportsResource, ImagesResource, LakeIOManager, RegistryResource
from al_dagster.resources.lake import column_schema

Lake = dg.ResourceParam[LakeIOManager]
DATASET_ID = "dataset_id"
"""Metadata of a materialization: the version of the dataset that it is of."""


class VersionConfig(dg.Config):
    """Which version of a dataset a run is about."""

    version: str | None = Field(None, description="Such as 1.0; the version that was built last if left out.")

    def of(self, name: str) -> str:
        """The name of a dataset with this version."""
        return name if self.version is None else f"{name}@{self.version}"


@dg.asset(
    partitions_def=datasets,
    deps=[dg.AssetDep(objects, partition_mapping=dg.AllPartitionMapping())],
    group_name="dataset",
    kinds={"duckdb", "parquet"},
    code_version="2",
)
def dataset(context: dg.AssetExecutionContext, registry: RegistryResource, lake: Lake) -> dg.MaterializeResult:
    """The objects that a definition selects from the registry, split by group and frozen as a version."""
    from al_dagster.datasets.build import build_dataset
    from al_dagster.datasets.definition import parse_definition
    from al_dagster.registry.datasets import get_definition

    name = context.partition_key
    definition = parse_definition(get_definition(registry.open(), name), f"dataset {name}")
    built = build_dataset(
        registry.open(),
        definition,
        lake=lake.lake,
        masks_dir=Path(registry.masks_dir),
        duplicate_distance=registry.duplicate_distance,
        run_id=context.run_id,
    )
    report = built.report
    return dg.MaterializeResult(
        data_version=dg.DataVersion(built.dataset.content_hash),
        metadata={
            DATASET_ID: built.dataset.dataset_id,
            "version": built.dataset.version,
            "new_version": built.created,
            "dagster/row_count": built.dataset.table.num_rows,
            "dagster/column_schema": column_schema("dataset"),
            "bytes_written": built.bytes_written,
            "images": sum(report.images.values()),
            "background": sum(report.background.values()),
            "objects": sum(report.objects.values()),
            "ignored": report.ignored,
            **{f"images_{split}": count for split, count in report.images.items()},
            **{f"objects_{split}": count for split, count in report.objects.items()},
            **{f"ratio_{split}": round(ratio, 4) for split, ratio in report.ratios.items()},
            "left_out": report.left_out_sentence or "nothing",
            "left_out_frames": sum(item.count for item in report.left_out if item.unit == "frames"),
            "held_out": len(report.held_out),
            "groups": report.groups,
            "empty_splits": report.empty_splits_sentence(definition.split) or "none",
            "confidence": report.confidence_sentence or "as the filter asks",
            "categories": table_of([{"category": name, **counts} for name, counts in report.categories.items()]),
            "categories_in_one_split": ", ".join(report.one_sided) or "none",
        },
    )


@dg.asset(partitions_def=datasets, deps=[dataset], group_name="dataset", kinds={"yolo", "coco"}, code_version="2")
def dataset_export(
    context: dg.AssetExecutionContext,
    config: VersionConfig,
    registry: RegistryResource,
    lake: Lake,
    images: ImagesResource,
    exports: ExportsResource,
) -> dg.MaterializeResult:
    """A version of the dataset in YOLO and COCO form, with a manifest of hashes."""
    from al_dagster.datasets.export import export_dataset
    from al_dagster.datasets.versions import load_version

    frozen = load_version(registry.open(), lake.lake, config.of(context.partition_key))
    export = export_dataset(registry.open(), frozen, exports.path, max_pixels=images.max_pixels)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(frozen.content_hash),
        metadata={
            DATASET_ID: frozen.dataset_id,
            "folder": dg.MetadataValue.path(str(export.folder)),
            "version": frozen.version,
            "formats": ", ".join(frozen.definition.formats),
            "reused": export.reused,
            "cloned": export.cloned,
            "copied": export.copied,
            "linked": export.linked,
            "written": export.written,
            "files": len(export.manifest["files"]),
        },
    )

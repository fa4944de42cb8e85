"""``dataset`` and ``dataset_export``: a frozen selection with its split, and the same on disk."""

import dagster as dg

from al_dagster.assets.metadata import table_of
from al_dagster.assets.partitions import datasets
from al_dagster.assets.register import objects
from al_dagster.resources import ExportsResource, ImagesResource, RegistryResource
from al_dagster.resources.lake import NewTables, StoredTables


@dg.asset(
    partitions_def=datasets,
    deps=[dg.AssetDep(objects, partition_mapping=dg.AllPartitionMapping())],
    io_manager_key="lake",
    group_name="dataset",
    kinds={"duckdb", "parquet"},
    code_version="1",
)
def dataset(context: dg.AssetExecutionContext, registry: RegistryResource) -> NewTables:
    """The objects that a definition selects from the registry, split by group and frozen as a version."""
    from al_dagster.datasets.build import build_dataset
    from al_dagster.datasets.definition import parse_definition
    from al_dagster.registry.datasets import get_definition

    name = context.partition_key
    definition = parse_definition(get_definition(registry.open(), name), f"dataset {name}")
    built = build_dataset(
        registry.open(), definition, duplicate_distance=registry.duplicate_distance, run_id=context.run_id
    )
    report = built.report
    context.add_output_metadata(
        {
            "dataset_id": built.dataset.dataset_id,
            "version": built.dataset.version,
            "new_version": built.created,
            "dagster/row_count": built.dataset.table.num_rows,
            "images": sum(report.images.values()),
            "objects": sum(report.objects.values()),
            **{f"images_{split}": count for split, count in report.images.items()},
            **{f"objects_{split}": count for split, count in report.objects.items()},
            **{f"ratio_{split}": round(ratio, 4) for split, ratio in report.ratios.items()},
            "held_out": len(report.held_out),
            "categories": table_of([{"category": name, **counts} for name, counts in report.categories.items()]),
            "categories_in_one_split": ", ".join(report.one_sided) or "none",
        }
    )
    context.set_data_version(context.asset_key, dg.DataVersion(built.dataset.content_hash))
    return NewTables([(name, built.dataset.to_table())])


@dg.asset(partitions_def=datasets, group_name="dataset", kinds={"yolo", "coco"}, code_version="1")
def dataset_export(
    context: dg.AssetExecutionContext,
    registry: RegistryResource,
    images: ImagesResource,
    exports: ExportsResource,
    dataset: StoredTables,
) -> dg.MaterializeResult:
    """The dataset in YOLO and COCO form, with a manifest of hashes; images are linked where the file system allows."""
    from al_dagster.datasets.export import export_dataset
    from al_dagster.datasets.frozen import FrozenDataset

    frozen = FrozenDataset.from_table(dataset[context.partition_key])
    export = export_dataset(registry.open(), frozen, exports.path, max_pixels=images.max_pixels)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(frozen.content_hash),
        metadata={
            "folder": dg.MetadataValue.path(str(export.folder)),
            "version": frozen.version,
            "formats": ", ".join(frozen.definition.formats),
            "reused": export.reused,
            "linked": export.linked,
            "copied": export.copied,
            "written": export.written,
            "files": len(export.manifest["files"]),
        },
    )

"""What the assets of a batch have in common: the loop over the partitions of a run, and what each reports."""

import hashlib
import time
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import dagster as dg

from al_dagster.assets.metadata import table_of
from al_dagster.assets.partitions import batches
from al_dagster.core.blas import one_blas_thread
from al_dagster.core.fingerprints import table_hash
from al_dagster.core.progress import listening
from al_dagster.resources.lake import NewTables
from al_dagster.resources.pictures import shown_picture

if TYPE_CHECKING:
    import pyarrow as pa

    from al_dagster.labelling.stage import StageResult

# Range runs are in beta and checks by partition in preview; the tests hold both to what is needed here.
for category in (dg.BetaWarning, dg.PreviewWarning):
    warnings.filterwarnings("ignore", category=category, module="dagster|al_dagster")

LOG_EVERY_SECONDS = 5.0

BATCH: dict[str, Any] = {
    "partitions_def": batches,
    "backfill_policy": dg.BackfillPolicy.single_run(),
    "io_manager_key": "lake",
}
"""Arguments of every asset that is partitioned by batch."""


def each_batch(
    context: dg.AssetExecutionContext,
    stage: "Callable[[str], StageResult]",
    stored: Callable[[str], None] = lambda key: None,
) -> NewTables:
    """Run a stage for each partition of the run, one after the other, and report figures, picture and data version.

    The data version is of the content. A run over a range has one for all its partitions, since Dagster takes one an
    asset and run; ``content_version`` in the metadata is each partition's own.

    Args:
        context: of the run.
        stage: makes the table of a partition.
        stored: called with each partition whose table is in the lake.
    """
    return NewTables(_each(context, stage, stored))


def _each(
    context: dg.AssetExecutionContext, stage: "Callable[[str], StageResult]", stored: Callable[[str], None]
) -> "Iterator[tuple[str, pa.Table]]":
    versions = []
    for key in context.partition_keys:
        started = time.perf_counter()
        with listening(_log_progress(context)), one_blas_thread():
            result = stage(key)
        versions.append(table_hash(result.table.drop_columns(list(result.of_the_run))))
        context.add_asset_metadata(
            {
                "dagster/row_count": result.table.num_rows,
                "dagster/partition_row_count": result.table.num_rows,
                "seconds": round(time.perf_counter() - started, 3),
                "computed": result.computed,
                "reused": result.reused,
                "content_version": versions[-1],
                **result.figures,
                **{name: table_of(rows) for name, rows in result.tables.items() if rows},
                **_contact_sheet(result),
            },
            partition_key=key,
        )
        yield key, result.table
        # The lake asks for the next table when it has written this one.
        stored(key)
    combined = versions[0] if len(versions) == 1 else hashlib.sha256("".join(versions).encode()).hexdigest()[:32]
    context.set_data_version(context.asset_key, dg.DataVersion(combined))


def _contact_sheet(result: "StageResult") -> dict[str, dg.MetadataValue]:
    from al_dagster.core.settings import load_settings

    sheet = result.contact_sheet
    shown = sheet and shown_picture(load_settings().pictures_dir, sheet.made_from, "jpeg", sheet.draw)
    return {"contact_sheet": shown} if shown else {}


def _log_progress(context: dg.AssetExecutionContext) -> Callable[[str, int, int], None]:
    last = time.monotonic()

    def log(step: str, done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= LOG_EVERY_SECONDS:
            last = time.monotonic()
            context.log.info(f"{step}: {done} of {total}")

    return log

"""The asset graph, a module per stage: read, call a room below, return, describe."""

from al_dagster.assets.calibration import calibration
from al_dagster.assets.checks import all_checks
from al_dagster.assets.dataset import dataset, dataset_export
from al_dagster.assets.ingest import frames, sources
from al_dagster.assets.label import classifications, detections, embeddings, masks
from al_dagster.assets.model import evaluation, trained_model
from al_dagster.assets.register import objects, vector_index

all_assets = [
    sources,
    frames,
    detections,
    masks,
    embeddings,
    classifications,
    objects,
    vector_index,
    calibration,
    dataset,
    dataset_export,
    trained_model,
    evaluation,
]

__all__ = ["all_assets", "all_checks"]

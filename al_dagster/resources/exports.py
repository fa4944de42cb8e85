"""The folder of exported datasets as a resource."""

from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from al_dagster.core.errors import UserError

if TYPE_CHECKING:
    from al_dagster.registry.database import Registry
    from al_dagster.training.config import TrainingConfig
    from al_dagster.training.dataset import ExportedDataset


class ExportsResource(dg.ConfigurableResource):
    """Where exports are written, and where training reads them."""

    folder: str = Field(description="Folder of all exports.")

    @property
    def path(self) -> Path:
        """The folder of all exports."""
        return Path(self.folder)

    def exported(self, registry: "Registry", reference: str) -> "tuple[ExportedDataset, TrainingConfig]":
        """A version of a dataset as training sees it, and how a model is to be trained on it.

        Args:
            registry: where versions are recorded.
            reference: the name of a dataset (the version that was built last), ``name@version`` or the id of a version.

        Raises:
            UserError: the version was not built, not exported, or not to YOLO.
        """
        from al_dagster.datasets.definition import parse_definition
        from al_dagster.datasets.manifest import read_manifest
        from al_dagster.registry.datasets import get_dataset, get_definition
        from al_dagster.training.dataset import ExportedDataset

        record = get_dataset(registry, reference)
        if record.export_path is None:
            raise UserError(f"dataset {record.reference} is not exported; `al dataset export {reference}` does it")
        folder = Path(record.export_path)
        manifest = read_manifest(folder)
        if "yolo" not in manifest["formats"]:
            raise UserError(
                f"dataset {record.reference} is not exported to YOLO; add 'yolo' to the formats of its definition"
            )
        exported = ExportedDataset(
            path=folder / "yolo",
            dataset_id=record.dataset_id,
            name=record.name,
            version=record.version,
            content_hash=record.content_hash,
            splits={split: counts["images"] for split, counts in manifest["counts"].items()},
            content_names={
                name: f"{origin['source_id']}_{origin['frame_idx']:06d}"
                for name, origin in manifest.get("images", {}).items()
            },
        )
        return exported, parse_definition(get_definition(registry, record.name), f"dataset {record.name}").training

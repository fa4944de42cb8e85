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

    def exported(self, registry: "Registry", name: str) -> "tuple[ExportedDataset, TrainingConfig]":
        """The newest version of a dataset as training sees it, and how a model is to be trained on it.

        Raises:
            UserError: the dataset was not built, not exported, or not to YOLO.
        """
        from al_dagster.datasets.definition import parse_definition
        from al_dagster.datasets.manifest import read_manifest
        from al_dagster.registry.datasets import get_dataset, get_definition
        from al_dagster.training.dataset import ExportedDataset

        record = get_dataset(registry, name)
        if record.export_path is None:
            raise UserError(f"dataset {name} {record.version} is not exported; `al dataset export {name}` does it")
        folder = Path(record.export_path)
        manifest = read_manifest(folder)
        if "yolo" not in manifest["formats"]:
            raise UserError(f"dataset {name} is not exported to YOLO; add 'yolo' to the formats of its definition")
        exported = ExportedDataset(
            path=folder / "yolo",
            dataset_id=record.dataset_id,
            name=name,
            version=record.version,
            content_hash=record.content_hash,
            splits={split: counts["images"] for split, counts in manifest["counts"].items()},
        )
        return exported, parse_definition(get_definition(registry, name), f"dataset {name}").training

"""The examples of a project: the pictures of its support folder, and objects that people have validated."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from al_dagster.core.errors import UnreadableFileError, UserError
from al_dagster.core.project import ProjectConfig
from al_dagster.labelling.labels import classes_by_example
from al_dagster.labelling.masks import BOX_COLUMNS, RunMasks, corners
from al_dagster.labelling.stage import Rows
from al_dagster.media.reading import ImageFile, open_file, read_file, read_image
from al_dagster.registry.database import Registry
from al_dagster.registry.objects import list_objects
from al_dagster.registry.paths import seen_files
from al_dagster.registry.review import AUTO
from al_dagster.registry.sources import frame_indexes, get_source
from al_dagster.vision.crops import crop_object
from al_dagster.vision.fewshot import (
    BACKGROUND,
    SupportSet,
    build_support,
    example_files,
    picture_crops,
    support_classes,
)
from al_dagster.vision.profiles import Models
from al_dagster.vision.protocols import Image

VALIDATED_PER_CLASS = 50
"""As many validated objects of a class are examples, those validated last."""


@dataclass(frozen=True)
class Examples:
    """The examples of a project, found without calling a model.

    Args:
        folder: the support folder, or None.
        validated: for each class, rows of validated objects with ``sha256`` and ``files``, a tuple of ``ImageFile``:
            wherever their image was seen, any that still holds it serves.
        content_hash: 32 hex characters that change with any example or the classes they stand for.
    """

    folder: Path | None
    validated: Mapping[str, Rows]
    content_hash: str


def find_examples(project: ProjectConfig, registry: Registry) -> Examples | None:
    """The examples of a project, or None where none of its classes is labelled by example.

    Raises:
        UserError: the support folder does not fit the classes, or a class has no example at all.
    """
    if not classes_by_example(project):
        return None
    validated = {name: _validated(registry, project.name, name) for name in project.validated_examples}
    digest = hashlib.sha256()
    pictured: tuple[str, ...] = ()
    if project.support is not None:
        pictured = support_classes(project.support, project.classes)
        for name in (*pictured, BACKGROUND):
            for path in example_files(project.support / name):
                content = _content(path)
                digest.update(f"{name}\x1f{path.name}\x1f{content}\x1e".encode())
    for name, rows in validated.items():
        if not rows and name not in pictured:
            raise UserError(
                f"class {name!r} is to be labelled by its validated objects, and none is validated yet: validate some "
                "(`al objects validate`), or put example pictures of it into the support folder"
            )
        for row in sorted(rows, key=lambda row: str(row["object_id"])):
            box = [row[column] for column in BOX_COLUMNS]
            digest.update(f"{name}\x1f{row['sha256']}\x1f{row['mask_path']}\x1f{box}\x1e".encode())
    return Examples(project.support, validated, digest.hexdigest()[:32])


def _content(path: Path) -> str:
    """The hash of an example picture, or the reason why it cannot be opened, which changes when it can."""
    try:
        with open_file(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except UnreadableFileError as error:
        return str(error)


def load_examples(
    examples: Examples, project: ProjectConfig, models: Models, masks: RunMasks, max_pixels: int
) -> SupportSet:
    """Cut out and embed the examples as any object is.

    Args:
        examples: of the project.
        project: its classes.
        models: the segmenter and the embedder.
        masks: where the masks of validated objects are.
        max_pixels: pictures of more pixels are not read.

    Raises:
        UserError: a class has no example that can be read.
    """
    read = partial(read_image, max_pixels=max_pixels)
    crops: dict[str, list[Image]] = {}
    if examples.folder is not None:
        crops |= picture_crops(examples.folder, project.classes, read, models.segmenter)
    for name, rows in examples.validated.items():
        found = [crop for row in rows if (crop := _crop(row, masks, max_pixels)) is not None]
        if not found and name not in crops:
            raise UserError(f"no image of the validated objects of class {name!r} can be read any more")
        crops[name] = [*crops.get(name, []), *found]
    return build_support(
        {name: crops[name] for name in (*project.classes, BACKGROUND) if name in crops}, models.embedder
    )


def _validated(registry: Registry, project_id: str, category: str) -> Rows:
    """The objects that people validated last, with the content of their image and the files that held it."""
    rows = list_objects(registry, project=project_id, category=category, is_validated=True, limit=None)
    seen = sorted(
        (row for row in rows if row["validated_by"] != AUTO),
        key=lambda row: (row["validated_at"], row["object_id"]),
        reverse=True,
    )
    chosen = seen[:VALIDATED_PER_CLASS]
    files = seen_files(registry, [row["source_id"] for row in chosen], project_id)
    pages = frame_indexes(registry, [row["frame_id"] for row in chosen])
    found = []
    for row in chosen:
        source = get_source(registry, row["source_id"])
        page = pages.get(row["frame_id"], 0)
        candidates = [
            ImageFile(file.file_path, source["sha256"], file.size_bytes, file.mtime_ns, page)
            for file in files.get(row["source_id"], [])
        ] or [ImageFile(source["file_path"], source["sha256"], page=page)]
        found.append({**row, "sha256": source["sha256"], "files": tuple(candidates)})
    return found


def _crop(row: Mapping[str, Any], masks: RunMasks, max_pixels: int) -> Image | None:
    """The crop of a validated object, or None where its image or mask can no longer be read."""
    image = _first_readable(row["files"], max_pixels)
    if image is None:
        return None
    height, width = image.shape[:2]
    try:
        if row["mask_path"]:
            masks.restore((width, height), row["mask_path"], row["mask_rle"])
        mask = masks.read(row, row["mask_path"]) if row["mask_path"] else None
    except UserError:
        return None
    return crop_object(image, corners([row])[0], mask)


def _first_readable(files: Sequence[ImageFile], max_pixels: int) -> Image | None:
    for file in files:
        try:
            return read_file(file, max_pixels=max_pixels)
        except UnreadableFileError:
            continue
    return None

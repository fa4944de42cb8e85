"""Objects that wait for a vector: a person moved the box, so that the mask is gone too, or the embedder is another."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, and_, or_, select, update

from al_dagster.core.fingerprints import fingerprint
from al_dagster.registry.base import chunked
from al_dagster.registry.database import Registry
from al_dagster.registry.labels import BOX
from al_dagster.registry.matching import Box
from al_dagster.registry.queueing import queue_upserts
from al_dagster.registry.tables import Frame, Object, Source

_BOX = tuple(getattr(Object, side) for side in BOX)


@dataclass(frozen=True, slots=True)
class StaleObject:
    """An active object that waits for a new vector.

    Attributes:
        object_id: the object.
        source_id: its source.
        sha256: of the source's content.
        frame_id: its frame.
        frame_idx: the frame's place in the source, from 0.
        is_stale: it waits for a mask too.
        mask_path: its mask's, relative to the mask store, or None.
        mask_rle: its mask in COCO's compressed run lengths, or None.
        box: x, y, w, h in pixels.
    """

    object_id: str
    source_id: str
    sha256: str
    frame_id: str
    frame_idx: int
    is_stale: bool
    mask_path: str | None
    mask_rle: str | None
    box: Box


@dataclass(frozen=True, slots=True, eq=False)
class Renewal:
    """What was made anew of an object.

    Attributes:
        of: the object as it stood.
        mask: the columns of its new mask, by name; none where it kept its own.
        embedding_version: registered before.
        embedding: (d,) float32, L2 norm 1.
    """

    of: StaleObject
    mask: Mapping[str, Any]
    embedding_version: str
    embedding: NDArray[np.float32]


def stale_objects(
    registry: Registry, project_id: str, version_id: str, object_ids: Sequence[str] | None = None
) -> list[StaleObject]:
    """The objects of a project that wait for a vector, those of a frame together.

    These are the stale ones, and those that a person or a rule touched whose vector is of another version: labelling
    again, which renews all others, leaves them alone.

    Args:
        registry: the registry.
        project_id: the project.
        version_id: the embedding version of the project's embedder.
        object_ids: of these only; None for all.
    """
    of_other_version = and_(
        or_(Object.is_validated, Object.edited_at.is_not(None)), Object.embedding_version != version_id
    )
    of_object = (Object.object_id, Object.source_id, Object.frame_id, Object.is_stale)
    known = (*of_object, Object.mask_path, Object.mask_rle, Source.sha256, Frame.frame_idx)
    query = (
        select(*known, *_BOX)
        .join(Frame, Frame.frame_id == Object.frame_id)
        .join(Source, Source.source_id == Object.source_id)
        .where(Object.project_id == project_id, Object.state == "active", Source.sha256.is_not(None))
        .where(or_(Object.is_stale, of_other_version))
    )
    queries = [query]
    if object_ids is not None:
        queries = [query.where(Object.object_id.in_(chunk)) for chunk in chunked(list(dict.fromkeys(object_ids)))]
    with registry.reader() as session:
        rows = [row for each in queries for row in session.execute(each).mappings()]
    found = [
        StaleObject(
            **{column.key: row[column.key] for column in known},
            box=(row["bbox_x"], row["bbox_y"], row["bbox_w"], row["bbox_h"]),
        )
        for row in rows
    ]
    return sorted(found, key=lambda one: (one.source_id, one.frame_idx, one.object_id))


def stale_projects(registry: Registry) -> dict[str, str]:
    """The projects that have stale objects, with a hash of which they are, where their boxes are and since when."""
    query = (
        select(Object.project_id, Object.object_id, Object.edited_at, *_BOX)
        .where(Object.is_stale, Object.state == "active", Object.project_id.is_not(None))
        .order_by(Object.object_id)
    )
    by_project: dict[str, list[list[Any]]] = {}
    with registry.reader() as session:
        for project_id, object_id, edited_at, *box in session.execute(query):
            by_project.setdefault(project_id, []).append([object_id, str(edited_at), *box])
    return {name: fingerprint(stale=rows) for name, rows in sorted(by_project.items())}


def renew_objects(registry: Registry, renewals: Sequence[Renewal]) -> list[str]:
    """Write masks and queue vectors, in one transaction, of those objects that still stand as they did.

    Returns:
        The ids of those that were renewed.
    """
    renewed = []
    with registry.session() as session:
        for renewal in renewals:
            values = {**renewal.mask, "embedding_version": renewal.embedding_version, "is_stale": False}
            change = update(Object).where(*_unchanged(renewal.of)).values(**values)
            if session.connection().execute(change).rowcount:
                renewed.append(renewal)
        vectors = {(one.of.object_id, one.embedding_version): one.embedding for one in renewed}
        queue_upserts(session, {}, vectors)
    return [one.of.object_id for one in renewed]


def _unchanged(stood: StaleObject) -> list[ColumnElement[bool]]:
    same_box = [column == value for column, value in zip(_BOX, stood.box, strict=True)]
    same = (
        Object.state == "active",
        Object.is_stale == stood.is_stale,
        Object.mask_path.is_not_distinct_from(stood.mask_path),
    )
    return [Object.object_id == stood.object_id, *same, *same_box]

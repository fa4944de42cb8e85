"""What is known of each frame in a project: labelled or not, and why not; and the frames that people call empty."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import ColumnElement, Subquery, and_, case, func, literal, select, update
from sqlalchemy.orm import Session

from al_dagster.core.errors import UserError
from al_dagster.registry.base import bulk_insert, chunked
from al_dagster.registry.database import Registry
from al_dagster.registry.review import person
from al_dagster.registry.tables import BatchFile, Frame, FrameLabel, Object

FrameState = Literal["objects", "background", "unsure", "failed", "waiting"]
STATES: tuple[FrameState, ...] = ("objects", "background", "unsure", "failed", "waiting")
"""Has objects; shows nothing; only proposals like no example; could not be labelled; was never tried."""


@dataclass(frozen=True)
class FrameOutcome:
    """What labelling a frame came to.

    Attributes:
        is_unsure: something was proposed in it that is "Unknown".
        is_left_out: something was found in it, and not registered, since a person called it background.
        error: why it could not be labelled; None if it was.
    """

    is_unsure: bool = False
    is_left_out: bool = False
    error: str | None = None


def record_frames(
    registry: Registry,
    project_id: str,
    batch_key: str,
    outcomes: Mapping[str, FrameOutcome],
    classes: Sequence[str] | None = None,
) -> None:
    """Note what labelling came to, by frame id. A frame that failed keeps what was known of it before, and its error.

    Args:
        registry: the registry.
        project_id: the project that was labelled.
        batch_key: the batch that the frames are in.
        outcomes: of registered frames.
        classes: what they were searched for.
    """
    now = datetime.now(UTC).replace(tzinfo=None)
    with registry.session() as session:
        known: set[str] = set()
        for chunk in chunked(list(outcomes)):
            query = select(FrameLabel.frame_id).where(
                FrameLabel.project_id == project_id, FrameLabel.frame_id.in_(chunk)
            )
            known.update(session.scalars(query))
        missing = [frame_id for frame_id in outcomes if frame_id not in known]
        bulk_insert(session, FrameLabel, [{"project_id": project_id, "frame_id": frame_id} for frame_id in missing])
        groups: dict[FrameOutcome, list[str]] = {}
        for frame_id, outcome in outcomes.items():
            groups.setdefault(outcome, []).append(frame_id)
        for outcome, frame_ids in groups.items():
            values: dict[str, Any] = {"batch_key": batch_key, "error": outcome.error}
            if outcome.error is None:
                # Of what was left out nothing is known once the mark is taken back: it is not labelled then.
                labelled_at = None if outcome.is_left_out else now
                values |= {"labelled_at": labelled_at, "is_unsure": outcome.is_unsure}
                values["classes"] = classes and list(classes)
            for chunk in chunked(frame_ids):
                mine = (FrameLabel.project_id == project_id, FrameLabel.frame_id.in_(chunk))
                session.execute(update(FrameLabel).where(*mine).values(**values))


def mark_background(registry: Registry, project_id: str, frame_ids: Sequence[str], by: str) -> None:
    """Say that frames show nothing of the project's classes: all of them or, if one cannot be, none.

    Labelling them again adds no objects to them.

    Raises:
        UserError: a frame is not the project's or has objects, or no person is named.
    """
    with registry.session() as session:
        now = person(by)
        _require_frames(session, project_id, frame_ids)
        for chunk in chunked(frame_ids):
            mine = (Object.project_id == project_id, Object.frame_id.in_(chunk), Object.state == "active")
            full = session.scalars(select(Object.frame_id).where(*mine)).first()
            if full is not None:
                raise UserError(f"frame {full} has objects: delete those that are not there, then it is background")
            known = _known(session, project_id, chunk)
            missing = [frame_id for frame_id in dict.fromkeys(chunk) if frame_id not in known]
            bulk_insert(session, FrameLabel, [{"project_id": project_id, "frame_id": name} for name in missing])
            _set_background(session, project_id, chunk, by, now)


def unmark_background(registry: Registry, project_id: str, frame_ids: Sequence[str]) -> None:
    """Take back that frames are background; what labelling found of them holds again.

    Where it found objects while they were marked, these were not registered, and the frames wait to be labelled again.

    Raises:
        UserError: a frame is not the project's.
    """
    with registry.session() as session:
        _require_frames(session, project_id, frame_ids)
        for chunk in chunked(frame_ids):
            _set_background(session, project_id, chunk, None, None)


def marked_background(session: Session, project_id: str, frame_ids: Sequence[str]) -> set[str]:
    """Those of the frames that a person marked as background, as the transaction sees it."""
    found: set[str] = set()
    for chunk in chunked(frame_ids):
        mine = (FrameLabel.project_id == project_id, FrameLabel.frame_id.in_(chunk))
        found.update(session.scalars(select(FrameLabel.frame_id).where(*mine, FrameLabel.background_by.is_not(None))))
    return found


def frames_of(registry: Registry, source_id: str) -> list[str]:
    """The ids of the frames of a source, in their order; none of a source that is not registered."""
    with registry.reader() as session:
        return list(
            session.scalars(select(Frame.frame_id).where(Frame.source_id == source_id).order_by(Frame.frame_idx))
        )


def list_frames(
    registry: Registry, project_id: str, state: FrameState | None = None, limit: int | None = None
) -> list[dict[str, Any]]:
    """The frames of a project, in the order in which their files were taken, and of their pages.

    Args:
        registry: the registry.
        project_id: the project.
        state: only frames in this state.
        limit: most frames returned.

    Returns:
        ``frame_id``, ``source_id``, ``frame_idx``, ``state`` (see `STATES`), ``objects`` (active ones), ``error`` of
        the last attempt and ``background_by``.
    """
    files = _files(project_id)
    query = _states(project_id, files)
    if state is not None:
        query = query.where(query.selected_columns.state == state)
    with registry.reader() as session:
        rows = session.execute(query.order_by(files.c.taken, Frame.frame_idx).limit(limit))
        return [dict(row) for row in rows.mappings()]


def unlabelled_frames(registry: Registry, project_id: str, frame_ids: Sequence[str]) -> dict[str, str]:
    """The frames whose last attempt failed or that were never tried, and why, by id."""
    tried: dict[str, str | None] = {}
    with registry.reader() as session:
        for chunk in chunked(frame_ids):
            mine = (FrameLabel.project_id == project_id, FrameLabel.frame_id.in_(chunk))
            tried.update(session.execute(select(FrameLabel.frame_id, FrameLabel.error).where(*mine)).tuples().all())
    return {frame_id: error for frame_id in frame_ids if (error := tried.get(frame_id, "was never tried"))}


def count_frames(registry: Registry, project_id: str) -> dict[FrameState, int]:
    """How many frames of a project are in each state."""
    states = _states(project_id, _files(project_id)).subquery()
    with registry.reader() as session:
        found = dict(session.execute(select(states.c.state, func.count()).group_by(states.c.state)).tuples().all())
    return {state: found.get(state, 0) for state in STATES}


def _states(project_id: str, files: Subquery) -> Any:
    objects = (
        select(Object.frame_id, func.count().label("objects"))
        .where(Object.project_id == project_id, Object.state == "active")
        .group_by(Object.frame_id)
        .subquery()
    )
    count = func.coalesce(objects.c.objects, 0)
    state: ColumnElement[str] = case(
        (count > 0, literal("objects")),
        (FrameLabel.background_by.is_not(None), literal("background")),
        (and_(FrameLabel.labelled_at.is_not(None), FrameLabel.is_unsure), literal("unsure")),
        (FrameLabel.labelled_at.is_not(None), literal("background")),
        (FrameLabel.error.is_not(None), literal("failed")),
        else_=literal("waiting"),
    )
    columns = (Frame.frame_id, Frame.source_id, Frame.frame_idx)
    mine = and_(FrameLabel.project_id == project_id, FrameLabel.frame_id == Frame.frame_id)
    return (
        select(*columns, state.label("state"), count.label("objects"), FrameLabel.error, FrameLabel.background_by)
        .join(FrameLabel, mine, isouter=True)
        .join(objects, objects.c.frame_id == Frame.frame_id, isouter=True)
        .join(files, files.c.source_id == Frame.source_id)
    )


def _files(project_id: str) -> Subquery:
    """The sources of a project, each with the number of the first of its files that was taken."""
    mine = select(BatchFile.source_id, func.min(BatchFile.id).label("taken")).where(
        BatchFile.project_id == project_id, BatchFile.source_id.is_not(None)
    )
    return mine.group_by(BatchFile.source_id).subquery()


def _known(session: Session, project_id: str, frame_ids: Sequence[str]) -> set[str]:
    query = select(FrameLabel.frame_id).where(FrameLabel.project_id == project_id, FrameLabel.frame_id.in_(frame_ids))
    return set(session.scalars(query))


def _sources(project_id: str) -> Any:
    return select(BatchFile.source_id).where(BatchFile.project_id == project_id, BatchFile.source_id.is_not(None))


def _require_frames(session: Session, project_id: str, frame_ids: Sequence[str]) -> None:
    for chunk in chunked(frame_ids):
        mine = select(Frame.frame_id).where(Frame.frame_id.in_(chunk), Frame.source_id.in_(_sources(project_id)))
        found = set(session.scalars(mine))
        strangers = [frame_id for frame_id in chunk if frame_id not in found]
        if strangers:
            raise UserError(f"frame {strangers[0]} is not one of project {project_id!r}; `al images list` lists them")


def _set_background(
    session: Session, project_id: str, frame_ids: Sequence[str], by: str | None, now: datetime | None
) -> None:
    mine = and_(FrameLabel.project_id == project_id, FrameLabel.frame_id.in_(frame_ids))
    session.execute(update(FrameLabel).where(mine).values(background_by=by, background_at=now))

"""What is known of each frame in a project: whether it was labelled, why not, and whether a person says it is empty."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from al_dagster.core.errors import UserError
from al_dagster.registry.base import UtcNow, bulk_insert, chunked
from al_dagster.registry.database import Registry
from al_dagster.registry.tables import Frame, FrameLabel


@dataclass(frozen=True)
class FrameOutcome:
    """What labelling a frame came to.

    Attributes:
        is_unsure: every proposal in it is "Unknown".
        error: why it failed; None if all stages succeeded.
    """

    is_unsure: bool = False
    error: str | None = None


def record_frames(session: Session, project_id: str, batch_key: str, outcomes: Mapping[str, FrameOutcome]) -> None:
    """Note what labelling came to, by frame id. A frame that failed keeps what an earlier success has left."""
    _add_missing(session, project_id, list(outcomes))
    for frame_id, outcome in outcomes.items():
        if outcome.error is None:
            values = {"labelled_at": UtcNow(), "is_unsure": outcome.is_unsure, "error": None}
        else:
            values = {"error": outcome.error}
        session.execute(
            update(FrameLabel)
            .where(FrameLabel.project_id == project_id, FrameLabel.frame_id == frame_id)
            .values(batch_key=batch_key, **values)
            .execution_options(synchronize_session=False)
        )


def mark_background(registry: Registry, project_id: str, frame_ids: Sequence[str], by: str) -> None:
    """Note that a person sees nothing of the project's classes in these frames.

    Raises:
        UserError: there is no such frame, or no person is named.
    """
    if not by.strip():
        raise UserError("say who marks the frames as background")
    with registry.session() as session:
        for chunk in chunked(list(frame_ids)):
            unknown = set(chunk) - set(session.scalars(select(Frame.frame_id).where(Frame.frame_id.in_(chunk))))
            if unknown:
                raise UserError(f"there is no frame {min(unknown)!r}")
            _add_missing(session, project_id, chunk)
            session.execute(
                update(FrameLabel)
                .where(FrameLabel.project_id == project_id, FrameLabel.frame_id.in_(chunk))
                .values(background_by=by, background_at=UtcNow())
                .execution_options(synchronize_session=False)
            )


def _add_missing(session: Session, project_id: str, frame_ids: Sequence[str]) -> None:
    for chunk in chunked(frame_ids):
        known = select(FrameLabel.frame_id).where(FrameLabel.project_id == project_id, FrameLabel.frame_id.in_(chunk))
        existing = set(session.scalars(known))
        new = [{"project_id": project_id, "frame_id": frame} for frame in chunk if frame not in existing]
        bulk_insert(session, FrameLabel, new)

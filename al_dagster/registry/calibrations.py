"""What the confidence of each detector means in each project: the calibrations and the objects that follow them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import bindparam, select, update
from sqlalchemy.orm import Session

from al_dagster.core.calibrator import Calibrator
from al_dagster.core.ids import digest
from al_dagster.registry.database import Registry
from al_dagster.registry.labels import LABEL_COLUMNS, is_corrected
from al_dagster.registry.tables import Calibration, Object


@dataclass(frozen=True)
class NewCalibration:
    """A fitted calibrator with what it was fitted on.

    Attributes:
        calibrator: raw confidence to probability.
        reviews: how many objects it was fitted on.
        correct: how many of them were right.
        ece_raw: expected calibration error of the raw confidence, 0–1.
        ece_calibrated: that of the calibrated one, out of fold.
        content_hash: of the reviews and the way of fitting.
    """

    calibrator: Calibrator
    reviews: int
    correct: int
    ece_raw: float
    ece_calibrated: float
    content_hash: str


def calibration_id(project_id: str, detection_model: str, content_hash: str) -> str:
    """The id of a calibration; the same reviews give the same one."""
    return f"cal_{digest(project_id, detection_model, content_hash)}"


def standing_calibrations(registry: Registry, project_id: str) -> dict[str, dict[str, Any]]:
    """The active calibrations of a project by detector (``model_id@revision``), with all columns."""
    table = Calibration.__table__
    query = select(*table.c).where(table.c.project_id == project_id, table.c.is_active)
    with registry.reader() as session:
        return {row["detection_model"]: dict(row) for row in session.execute(query).mappings()}


def standing_calibrators(session: Session, project_id: str) -> dict[str, Calibrator]:
    """The active calibrators of a project by detector, as the transaction sees them."""
    query = select(Calibration.detection_model, Calibration.method, Calibration.parameters).where(
        Calibration.project_id == project_id, Calibration.is_active
    )
    return {row.detection_model: Calibrator(row.method, row.parameters) for row in session.execute(query)}


def replace_calibrations(registry: Registry, project_id: str, new: Mapping[str, NewCalibration]) -> int:
    """Make these the active calibrations of a project, and calibrate its objects by them, in one transaction.

    A detector that is not among them is uncalibrated from now on, and so are its objects. Calibrations that were
    active before are kept, since acceptance rules name them. The same calibrations again change nothing.

    Args:
        registry: the registry.
        project_id: the project.
        new: by detector, ``model_id@revision``.

    Returns:
        How many objects have another calibrated confidence than before.
    """
    made = {model: calibration_id(project_id, model, one.content_hash) for model, one in new.items()}
    with registry.session() as session:
        of_project = Calibration.project_id == project_id
        active = set(session.scalars(select(Calibration.calibration_id).where(of_project, Calibration.is_active)))
        if active != set(made.values()):
            session.execute(update(Calibration).where(of_project, Calibration.is_active).values(is_active=False))
            for model, one in new.items():
                session.merge(_row(made[model], project_id, model, one))
            session.flush()
        return _calibrate_objects(session, project_id)


def _row(identifier: str, project_id: str, model: str, one: NewCalibration) -> Calibration:
    values = {name: value for name, value in asdict(one).items() if name != "calibrator"}
    return Calibration(
        calibration_id=identifier,
        project_id=project_id,
        detection_model=model,
        method=one.calibrator.method,
        parameters=dict(one.calibrator.parameters),
        is_active=True,
        fitted_at=datetime.now(UTC).replace(tzinfo=None),
        **values,
    )


def _calibrate_objects(session: Session, project_id: str) -> int:
    """Give every object of the project, in whatever state, the figure of the active calibrator of its detector.

    An object that a person corrected has none: the confidence was that of another label.
    """
    calibrators = standing_calibrators(session, project_id)
    columns = (Object.object_id, Object.detection_model, Object.confidence, Object.calibrated_confidence)
    rows = session.execute(select(*columns).where(Object.project_id == project_id)).all()
    corrected = _corrected(session, project_id)
    changed = []
    for model in {row.detection_model for row in rows}:
        mine = [row for row in rows if row.detection_model == model and row.confidence is not None]
        calibrator = calibrators.get(model)
        figures = [None] * len(mine) if calibrator is None else calibrator.apply([row.confidence for row in mine])
        for row, figure in zip(mine, figures, strict=True):
            wanted = None if figure is None or row.object_id in corrected else float(figure)
            if row.calibrated_confidence != wanted:
                changed.append({"key": row.object_id, "figure": wanted})
    if changed:
        change = (
            update(Object).where(Object.object_id == bindparam("key")).values(calibrated_confidence=bindparam("figure"))
        )
        session.connection().execute(change, changed)
    return len(changed)


def _corrected(session: Session, project_id: str) -> set[str]:
    columns = (Object.object_id, *(getattr(Object, column) for column in LABEL_COLUMNS))
    edited = select(*columns).where(Object.project_id == project_id, Object.edited_at.is_not(None))
    return {row["object_id"] for row in session.execute(edited).mappings() if is_corrected(row)}

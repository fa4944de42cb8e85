"""The table of calibrations; ``registry.tables`` has it with all the others."""

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, true
from sqlalchemy.orm import Mapped, mapped_column

from al_dagster.registry.base import Base, utc_now


class Calibration(Base):
    """What the confidence of a detector means in a project, fitted on reviews; one of a detector is active."""

    __tablename__ = "calibrations"
    __table_args__ = (CheckConstraint("method IN ('constant', 'platt', 'isotonic')", name="method"),)

    calibration_id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(index=True)
    detection_model: Mapped[str]
    method: Mapped[str]
    parameters: Mapped[dict[str, Any]]
    reviews: Mapped[int]
    correct: Mapped[int]
    ece_raw: Mapped[float]
    ece_calibrated: Mapped[float]
    content_hash: Mapped[str]
    is_active: Mapped[bool] = mapped_column(server_default=true())
    fitted_at: Mapped[datetime] = utc_now()

import pytest
from pydantic import ValidationError

from al_dagster.training.config import TrainingConfig


def test_every_field_says_what_it_is() -> None:
    assert all(field.description for field in TrainingConfig.model_fields.values())


@pytest.mark.parametrize(
    "values", [{"epoch": 3}, {"epochs": 0}, {"imgsz": 100}, {"optimizer": "sgd"}, {"lr0": 0}, {"model": ""}]
)
def test_a_wrong_value_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TrainingConfig.model_validate(values)

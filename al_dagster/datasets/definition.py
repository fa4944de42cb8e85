"""What a dataset is to hold: a YAML file, or JSON in the registry."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from al_dagster.core.errors import UserError
from al_dagster.core.project import ProjectName, load_yaml, parse_model
from al_dagster.core.text import did_you_mean
from al_dagster.training.config import TrainingConfig

Format = Literal["yolo", "yolo-seg", "coco"]
FORMATS: tuple[Format, ...] = ("yolo", "yolo-seg", "coco")

_DATASET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_SUM_TOLERANCE = 1e-6


def _valid_name(name: str) -> str:
    if not _DATASET_NAME.fullmatch(name) or "..." in name:
        raise ValueError(
            f"{name!r} cannot name a dataset: use up to 64 letters, digits, '_', '-' and '.', starting with a letter "
            "or digit, and no '...'"
        )
    return name


DatasetName = Annotated[str, AfterValidator(_valid_name)]
"""Names a dataset: a folder of the exports and a Dagster partition."""


class UnsatisfiedDefinitionError(UserError):
    """What a project has does not give the dataset that is asked for, until the project or the definition changes."""


def require_classes(definition: "DatasetDefinition", known: Sequence[str]) -> None:
    """Refuse a definition that asks for a class that no image of its project can have.

    Args:
        definition: what is asked for.
        known: the classes of the project, in their order.

    Raises:
        UnsatisfiedDefinitionError: a class is not among them.
    """
    if unknown := [name for name in definition.filter.categories or () if name not in known]:
        raise UnsatisfiedDefinitionError(
            f"dataset {definition.name!r}: project {definition.project!r} has no class "
            f"{', '.join(map(repr, unknown))}; its classes are {', '.join(known)}{did_you_mean(unknown, known)}"
        )


class ObjectFilter(BaseModel):
    """Which active objects of the project go in."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    categories: tuple[str, ...] | None = Field(None, description="Only these classes; all of the project's if absent.")
    min_confidence: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Only objects of at least this confidence, calibrated where their detector is, and validated ones.",
    )
    is_validated: bool | None = Field(None, description="Only validated objects (true) or only others (false).")
    on_dropped: Literal["exclude", "keep", "ignore"] = Field(
        "exclude",
        description="An image with an object of the classes that min_confidence or is_validated drops is left out "
        "(exclude), kept with the object as background (keep), or kept with its region painted over (ignore).",
    )

    @field_validator("categories", mode="before")
    @classmethod
    def _split_categories(cls, value: object) -> object:
        if isinstance(value, str):
            value = value.split(",")
        if isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
            names = tuple(dict.fromkeys(name for item in value if (name := " ".join(item.split()))))
            if not names:
                raise ValueError("name at least one class, or leave the key out for all classes")
            return names
        return value


class SplitRatios(BaseModel):
    """The expected share of each split; they sum to 1."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    train: float = Field(0.8, gt=0, le=1)
    val: float = Field(0.1, ge=0, lt=1)
    test: float = Field(0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _sum_to_one(self) -> Self:
        total = self.train + self.val + self.test
        if abs(total - 1) > _SUM_TOLERANCE:
            raise ValueError(f"train, val and test must sum to 1, and sum to {total:g}")
        return self


class DatasetDefinition(BaseModel):
    """A named dataset: what it selects, how it is split, what it is exported to and how a model is trained on it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: DatasetName
    project: ProjectName
    filter: ObjectFilter = ObjectFilter()
    split: SplitRatios = SplitRatios()
    include_empty: bool = Field(
        True,
        description="Keep labelled images without any object of the classes, as background; in a dataset of validated "
        "objects only those that a person confirmed: marked as background, or deleted all that was found there.",
    )
    formats: tuple[Format, ...] = Field(FORMATS, min_length=1, description="What to export.")
    images: Literal["copy", "link"] = Field(
        "copy",
        description="Image files of the export are copies (clones where the file system has them), or hard links: then "
        "editing one changes the original.",
    )
    coco_masks: Literal["rle", "polygon"] = Field(
        "rle",
        description="Masks in COCO are run lengths, or polygons where a polygon gives the mask back exactly.",
    )
    training: TrainingConfig = TrainingConfig()
    auto_build: bool = Field(False, description="Build and export a new version whenever the labels have changed.")
    auto_train: bool = Field(False, description="Train a model on each version that auto_build makes.")

    @field_validator("formats", mode="after")
    @classmethod
    def _each_format_once(cls, value: tuple[Format, ...]) -> tuple[Format, ...]:
        return tuple(name for name in FORMATS if name in value)

    @field_validator("auto_train", mode="after")
    @classmethod
    def _trains_what_is_built(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("auto_build") is False:
            raise ValueError("only versions that auto_build makes are trained on; set auto_build to true as well")
        return value


def parse_definition(values: object, where: str) -> DatasetDefinition:
    """Check a dataset definition.

    Args:
        values: the mapping read from YAML or built from options.
        where: what the sentence of an error names, such as the path of the file.

    Raises:
        UserError: a key is wrong or missing, or a value does not fit.
    """
    return parse_model(DatasetDefinition, values, where, "'name: parts' and 'project: parts'")


def load_definition(path: Path) -> DatasetDefinition:
    """Read a dataset definition; the file's name is the dataset's unless it gives one.

    Raises:
        UserError: the file cannot be read or is not a valid definition.
    """
    values = load_yaml(path)
    return parse_definition({"name": path.stem, **values} if isinstance(values, dict) else values, str(path))

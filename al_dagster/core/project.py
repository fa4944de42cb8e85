"""A project's configuration: the ``project.yaml`` in its inbox folder, kept in the registry as JSON."""

import re
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator

from al_dagster.core.errors import UserError

PROJECT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def _valid_name(name: str) -> str:
    if not PROJECT_NAME.fullmatch(name) or "--" in name or "..." in name:
        raise ValueError(
            f"{name!r} cannot name a project: use up to 64 letters, digits, '_', '-' and '.', and no '--' or '...'"
        )
    return name


ProjectName = Annotated[str, AfterValidator(_valid_name)]


class DetectionConfig(BaseModel):
    """How boxes are found."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    confidence: float = Field(0.3, ge=0, le=1, description="Boxes below this confidence are dropped.")
    nms_iou: float = Field(0.5, gt=0, le=1, description="Of two boxes that overlap more than this, one is kept.")


class ClassificationConfig(BaseModel):
    """How the few-shot classifier decides."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    threshold: float = Field(0.5, ge=-1, le=1, description='Cosine similarity below which an object is "Unknown".')
    top_k: int = Field(3, ge=1, description="Nearest examples of a class that its score is the mean of.")
    min_margin: float = Field(
        0.0, ge=0, le=2, description='Lead over the second class below which an object is "Unknown".'
    )


class ProjectConfig(BaseModel):
    """What a project labels, and with what.

    A class with a folder in ``support`` is labelled by example: class-agnostic proposals, named by the few-shot
    classifier. Every other class is asked of the profile's detector by name.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: ProjectName
    description: str = ""
    classes: tuple[str, ...] = Field(min_length=1, description="Class names, in the order of their YOLO ids.")
    profile: Literal["embedded"] = Field("embedded", description="Which models label the project.")
    support: Path | None = Field(None, description="Folder with one folder of example pictures for each class.")
    detection: DetectionConfig = DetectionConfig()
    classification: ClassificationConfig = ClassificationConfig()

    @field_validator("classes", mode="before")
    @classmethod
    def _split_classes(cls, value: object) -> object:
        if isinstance(value, str):
            value = value.split(",")
        if isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
            return tuple(dict.fromkeys(name for item in value if (name := " ".join(item.split()))))
        return value


def parse_project(values: object, where: str) -> ProjectConfig:
    """Check a project's configuration.

    Args:
        values: the mapping read from YAML or built from options.
        where: what the sentence of an error names, such as the path of the file.

    Raises:
        UserError: a key is wrong or missing, or a value does not fit.
    """
    if not isinstance(values, dict):
        raise UserError(f"{where}: expected keys and values such as 'classes: [nut, bolt]'")
    try:
        return ProjectConfig.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{where}: {describe_validation(error, ProjectConfig)}") from None


def load_project(path: Path) -> ProjectConfig:
    """Read a ``project.yaml``; its folder is the project's name unless it gives one, and anchors relative paths.

    Raises:
        UserError: the file cannot be read or is not a valid configuration.
    """
    values = load_yaml(path)
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected keys and values such as 'classes: [nut, bolt]'")
    config = parse_project({"name": path.parent.name, **values}, str(path))
    if config.support and not config.support.is_absolute():
        return config.model_copy(update={"support": (path.parent / config.support).absolute()})
    return config


def load_yaml(path: Path) -> object:
    """Read a YAML file.

    Raises:
        UserError: it is missing, not UTF-8 text or not YAML.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not UTF-8 text") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}: is not valid YAML{line}") from None
    except ValueError as error:
        # Such as a date of month 13, which YAML takes for a date all the same.
        raise UserError(f"{path}: holds a value that is not valid YAML: {error}") from None


def describe_validation(error: ValidationError, model: type[BaseModel]) -> str:
    """One sentence for the first thing that pydantic found wrong, naming the keys that would be right."""
    first = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        for part in first["loc"][:-1]:
            inner = model.model_fields[str(part)].annotation if str(part) in model.model_fields else None
            model = inner if isinstance(inner, type) and issubclass(inner, BaseModel) else model
        return f"unknown key '{key}'; the keys are {', '.join(model.model_fields)}"
    if first["type"] == "missing":
        return f"key '{key}' is missing"
    return f"{key}: {first['msg'].removeprefix('Value error, ')}"

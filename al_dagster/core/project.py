"""A project's configuration: the ``project.yaml`` in its inbox folder, kept in the registry as JSON."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar, get_args
from urllib.parse import quote

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from al_dagster.core.errors import UserError
from al_dagster.core.ids import project_slug
from al_dagster.core.input_files import read_text_file
from al_dagster.core.text import printable

TRAINED = "model:"
"""What a reference to a model that the platform trained begins with; the name of its dataset follows."""

PROPOSAL = "object"
"""What a class-agnostic proposal is labelled, and what a detector of proposals is asked for."""

MAX_YAML_DEPTH, MAX_YAML_VALUES, MAX_YAML_INTEGER = 50, 100_000, 10**15
"""Bounds of a settings file; integers up to 2**53 are exact in JSON."""

UNKNOWN = "Unknown"
"""What a proposal is called that is like no example."""

EXAMPLE = "'classes: [nut, bolt]'"
MAX_PROJECT_NAME = 64
"""Characters of a project's name."""

_MAX_FILE_NAME = 200
"""Bytes that a project's name may take of the names of its files."""

_Model = TypeVar("_Model", bound=BaseModel)


def _valid_name(name: str) -> str:
    # The names of folders come decomposed from some systems.
    name = unicodedata.normalize("NFC", name)
    if not name or name != name.strip() or name[0] in "-." or not name.isprintable() or printable(name) != name:
        raise ValueError(
            f"{printable(name)!r} cannot name a project: use printable characters, first a letter, a digit or a symbol "
            "other than '-' and '.', and no space at either end"
        )
    if len(name) > MAX_PROJECT_NAME or len(quote(project_slug(name))) > _MAX_FILE_NAME:
        raise ValueError(f"{name!r} cannot name a project: it is too long")
    return name


ProjectName = Annotated[str, AfterValidator(_valid_name)]


class DetectionConfig(BaseModel):
    """How boxes are found."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    confidence: float | None = Field(
        None, ge=0, le=1, description="Boxes below this raw confidence are dropped; default the detector's own limit."
    )
    nms_iou: float = Field(0.5, gt=0, le=1, description="Of two boxes that overlap more than this, one is kept.")


class ClassificationConfig(BaseModel):
    """How the few-shot classifier decides."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    threshold: float = Field(0.5, ge=-1, le=1, description='Cosine similarity below which an object is "Unknown".')
    top_k: int = Field(3, ge=1, description="Nearest examples of a class that its score is the mean of.")
    min_margin: float = Field(
        0.0, ge=0, le=2, description='Lead over the second class below which an object is "Unknown".'
    )


class PromptConfig(BaseModel):
    """How a detector that is asked by name is asked for a class."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    synonyms: tuple[str, ...] = Field((), description="Further phrases for the class.")
    negatives: tuple[str, ...] = Field(
        (), description="Phrases for what is easily taken for it; a box that one of them explains better is dropped."
    )


class ModelsConfig(BaseModel):
    """Models in place of those of the profile; what is left out is the profile's."""

    # "model_" would otherwise be a protected prefix.
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    detector: str | None = Field(None, description="opencv, florence-2-large, florence-2-base or yolo.")
    segmenter: str | None = Field(None, description="grabcut, sam2.1-hiera-base-plus, another SAM 2.1 or edgetam.")
    segmenter_code: Literal["transformers", "meta"] = Field(
        "transformers", description="Whose code runs SAM 2: that of transformers, or Meta's (extra sam2)."
    )
    embedder: str | None = Field(None, description="hog-color, dinov2-base, dinov2-small or dinov2-large.")
    weights: str | None = Field(
        None, description="Weights of the detector yolo: a file, or model:<dataset> for the newest model trained on it."
    )
    allow_pickle: bool = Field(
        False, description="Whether weights that are a pickle, as a .pt file of somebody else's is, may be read."
    )

    @model_validator(mode="after")
    def _weights_are_used(self) -> Self:
        if self.weights is not None and self.detector != "yolo":
            raise ValueError(f"weights {self.weights!r} are for the detector yolo alone: name it as the detector too")
        return self


class GroupingConfig(BaseModel):
    """Which files belong together, so that all of them are in one split of a dataset."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    by: Literal["content", "folder", "pattern", "time", "column"] = Field(
        "content",
        description="What says which files belong together; of files that it does not cover, near-duplicates.",
    )
    pattern: str | None = Field(
        None,
        description="By pattern: file names as '{sequence}_{n}', where {n} is any number; what stands "
        "for {sequence} is the group, within its folder.",
    )
    gap_seconds: float | None = Field(
        None, gt=0, description="By time: photos taken at most so many seconds after another belong with it; default 5."
    )
    column: Path | None = Field(
        None, description="By column: a CSV file with the columns 'file' and 'group'; paths are relative to its folder."
    )
    recordings: bool = Field(
        True,
        description="Whether numbered files that look like one recording, as a video's frames do, are recognised.",
    )

    @field_validator("pattern")
    @classmethod
    def _pattern_has_a_sequence(cls, value: str | None) -> str | None:
        if value is not None:
            sequence_pattern(value)
        return value

    @model_validator(mode="after")
    def _keys_are_used(self) -> Self:
        for key, rule in (("pattern", "pattern"), ("gap_seconds", "time"), ("column", "column")):
            if getattr(self, key) is not None and self.by != rule:
                raise ValueError(f"{key} is for 'by: {rule}' alone, and it is 'by: {self.by}'")
        for key, example in (("pattern", "'{sequence}_{n}'"), ("column", "groups.csv")):
            if self.by == key and getattr(self, key) is None:
                raise ValueError(f"'by: {key}' needs the key {key} too, such as {key}: {example}")
        return self


def sequence_pattern(pattern: str) -> re.Pattern[str]:
    """The expression that a pattern of file names such as ``{sequence}_{n}`` stands for, with the group ``sequence``.

    Raises:
        ValueError: it does not hold {sequence} once, or braces hold anything but sequence and n.
    """
    parts = re.split(r"(\{[^{}]*\})", pattern)
    if parts.count("{sequence}") != 1:
        raise ValueError(f"{pattern!r} must hold {{sequence}} once, as '{{sequence}}_{{n}}' does")
    expressions = {"{sequence}": "(?P<sequence>.+)", "{n}": r"\d+"}
    unknown = [part for part in parts if part not in expressions and ("{" in part or "}" in part)]
    if unknown:
        raise ValueError(f"{pattern!r} holds {unknown[0]!r}: only {{sequence}} and {{n}} stand for something")
    return re.compile("".join(expressions.get(part) or re.escape(part) for part in parts))


class ProjectConfig(BaseModel):
    """What a project labels, and with what.

    A class with a folder in ``support``, or among ``validated_examples``, is labelled by example: class-agnostic
    proposals, named by the few-shot classifier. Every other class is asked of the detector by name, and with the
    detector yolo every class.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: ProjectName
    description: str = ""
    classes: tuple[str, ...] = Field(min_length=1, description="Class names, in the order of their YOLO ids.")
    profile: Literal["embedded", "foundation"] = Field("embedded", description="Which models label the project.")
    models: ModelsConfig = ModelsConfig()
    prompts: dict[str, PromptConfig] = Field(
        default_factory=dict, description="For a class, synonyms and negative prompts."
    )
    support: Path | None = Field(None, description="Folder with one folder of example pictures for each class.")
    validated_examples: tuple[str, ...] = Field(
        (), description="Classes whose validated objects are examples too, beside or instead of pictures in support."
    )
    detection: DetectionConfig = DetectionConfig()
    classification: ClassificationConfig = ClassificationConfig()
    grouping: GroupingConfig = GroupingConfig()

    @field_validator("classes", "validated_examples", mode="before")
    @classmethod
    def _split_classes(cls, value: object) -> object:
        if isinstance(value, str):
            value = value.split(",")
        if isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
            return tuple(dict.fromkeys(name for item in value if (name := " ".join(item.split()))))
        return value

    @model_validator(mode="after")
    def _known_classes(self) -> Self:
        for name in self.classes:
            if name.casefold() in (PROPOSAL.casefold(), UNKNOWN.casefold()):
                raise ValueError(
                    f"classes: {name!r} is what al_dagster calls a thing it has no name for; call the class otherwise, "
                    f"such as 'item', and give {name!r} as a synonym under prompts if the detector knows it by that"
                )
        for key, names in (("prompts", self.prompts), ("validated_examples", self.validated_examples)):
            unknown = [name for name in names if name not in self.classes]
            if unknown:
                raise ValueError(f"{key}: {unknown[0]!r} is not among the classes ({', '.join(self.classes)})")
        return self


def parse_project(values: object, where: str) -> ProjectConfig:
    """Check a project's configuration.

    Args:
        values: the mapping read from YAML or built from options.
        where: what the sentence of an error names, such as the path of the file.

    Raises:
        UserError: a key is wrong or missing, or a value does not fit.
    """
    return parse_model(ProjectConfig, values, where, EXAMPLE)


def load_project(path: Path, name: str | None = None) -> ProjectConfig:
    """Read a ``project.yaml``; its folder anchors relative paths.

    Args:
        path: the file.
        name: the project's name, whatever the file says; None: the file's own, or the name of its folder.

    Raises:
        UserError: the file cannot be read or is not a valid configuration.
    """
    values = load_yaml(path)
    if isinstance(values, dict):
        values = {"name": path.absolute().parent.name, **values, **({} if name is None else {"name": name})}
    config = parse_project(values, str(path))
    changed: dict[str, object] = {}
    if config.support:
        changed["support"] = (path.parent / config.support).absolute()
    if config.models.weights:
        weights = anchored_weights(config.models.weights, path.parent)
        changed["models"] = config.models.model_copy(update={"weights": weights})
    if config.grouping.column:
        column = (path.parent / config.grouping.column).absolute()
        changed["grouping"] = config.grouping.model_copy(update={"column": column})
    return config.model_copy(update=changed)


def anchored_weights(weights: str, folder: Path) -> str:
    """Weights of a detector with the path of a file made absolute; ``model:<dataset>`` stays as it is."""
    return weights if weights.startswith(TRAINED) else str((folder / weights).absolute())


def load_yaml(path: Path) -> object:
    """Read a YAML file.

    Raises:
        UserError: it is missing, not UTF-8 text, not YAML, or holds a value that nothing could be made of.
    """
    try:
        values: object = yaml.safe_load(read_text_file(path))
    except RecursionError:
        raise UserError(f"{path}: is nested too deep") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}: is not valid YAML{line}") from None
    except ValueError as error:
        # Such as a date of month 13, which YAML takes for a date all the same.
        raise UserError(f"{path}: holds a value that is not valid YAML: {error}") from None
    _check_bounds(values, path)
    return values


def _check_bounds(values: object, path: Path) -> None:
    """Refuse what YAML allows and neither a database nor JSON can hold."""
    waiting, seen = [(values, 0)], 0
    while waiting:
        value, depth = waiting.pop()
        seen += 1
        if depth > MAX_YAML_DEPTH or seen > MAX_YAML_VALUES:
            raise UserError(
                f"{path}: is nested too deep" if depth > MAX_YAML_DEPTH else f"{path}: holds too many values"
            )
        if isinstance(value, dict):
            waiting += [(part, depth + 1) for pair in value.items() for part in pair]
        elif isinstance(value, (list, tuple, set)):
            waiting += [(part, depth + 1) for part in value]
        elif isinstance(value, int) and abs(value) > MAX_YAML_INTEGER:
            raise UserError(f"{path}: holds a number of {len(str(abs(value)))} digits; use at most 15")
        elif isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
            raise UserError(f"{path}: holds a text with half a character ({value!r}), which cannot be stored")


def parse_model(model: type[_Model], values: object, where: str, example: str) -> _Model:
    """Check values that a person wrote.

    Args:
        model: what they must fit.
        values: what was read; must be a mapping.
        where: what the sentence of an error begins with, such as the path of the file.
        example: keys and values as they could be.

    Raises:
        UserError: it is no mapping, a key is wrong or missing, or a value does not fit.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"{where}: expected keys and values such as {example}")
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{where}: {_describe(error, model)}") from None


def _describe(error: ValidationError, model: type[BaseModel]) -> str:
    """One sentence for the first thing that pydantic found wrong, naming the keys that would be right."""
    first = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"unknown key '{key}'; the keys are {', '.join(_at(model, first['loc'][:-1]).model_fields)}"
    if first["type"] == "model_type":
        keys = ", ".join(_at(model, first["loc"]).model_fields)
        return f"{key}: expected keys and values; the keys are {keys}"
    if first["type"] == "missing":
        return f"key '{key}' is missing"
    message: str = first["msg"].removeprefix("Value error, ")
    return f"{key}: {message}" if key else message


def _at(model: type[BaseModel], place: Sequence[int | str]) -> type[BaseModel]:
    """The model of the values at a place within those of another."""
    for part in place:
        annotation = model.model_fields[str(part)].annotation if str(part) in model.model_fields else None
        inner = [kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type)]
        model = next((kind for kind in inner if issubclass(kind, BaseModel)), model)
    return model

"""Who names an object: the detector by its prompt, or the few-shot classifier by example."""

from al_dagster.core.project import PROPOSAL, UNKNOWN, ProjectConfig
from al_dagster.vision.fewshot import support_classes
from al_dagster.vision.protocols import Prompt


def classes_by_example(project: ProjectConfig) -> tuple[str, ...]:
    """The classes of the project that are labelled by example, in the project's order.

    They are those that have examples; with the detector yolo there are none, since it was trained on its classes.

    Raises:
        UserError: the support folder is missing or does not fit the classes.
    """
    if project.models.detector == "yolo":
        return ()
    pictured = support_classes(project.support, project.classes) if project.support else ()
    return tuple(name for name in project.classes if name in pictured or name in project.validated_examples)


def detector_prompts(project: ProjectConfig) -> tuple[Prompt, ...]:
    """What the detector is asked for: the classes without examples and, if any has examples, proposals."""
    by_example = classes_by_example(project)
    prompts = tuple(_prompt(project, name) for name in project.classes if name not in by_example)
    return (*prompts, Prompt(PROPOSAL)) if by_example else prompts


def _prompt(project: ProjectConfig, name: str) -> Prompt:
    config = project.prompts.get(name)
    return Prompt(name, config.synonyms, config.negatives) if config else Prompt(name)


def final_label(detected: str, classified: str | None, by_example: tuple[str, ...]) -> str:
    """The category of an object.

    Args:
        detected: the label of the detection.
        classified: the label of the few-shot classifier, or None if the project has no support set.
        by_example: the classes of the support set.

    Returns:
        The classifier's label where the detection is a proposal or of a class with examples; the detector's elsewhere,
        and where the classifier says "Unknown" of a named detection.
    """
    if detected == PROPOSAL:
        return classified or UNKNOWN
    if classified and classified != UNKNOWN and detected in by_example:
        return classified
    return detected

"""Projects."""

import pytest

from al_dagster.core.errors import UserError
from al_dagster.core.project import ProjectConfig
from al_dagster.registry.projects import get_project, list_projects, save_project

PARTS = ProjectConfig(name="parts", classes=("nut", "bolt"), support="support/parts", detection={"confidence": 0.25})
PEOPLE = ProjectConfig(name="people", classes=("person", "face"))


def test_a_project_comes_back_as_it_was_saved(registry):
    save_project(registry, PARTS)
    assert get_project(registry, "parts") == PARTS


def test_saving_again_replaces_the_configuration(registry):
    save_project(registry, PARTS)
    changed = PARTS.model_copy(update={"classes": ("washer",)})
    save_project(registry, changed)
    assert list_projects(registry) == [changed]


def test_projects_are_listed_by_name(registry):
    assert list_projects(registry) == []
    save_project(registry, PEOPLE)
    save_project(registry, PARTS)
    assert list_projects(registry) == [PARTS, PEOPLE]


def test_an_unknown_project_is_an_error_that_names_the_known_ones(registry):
    with pytest.raises(UserError, match="'prats'; the projects are: none yet"):
        get_project(registry, "prats")
    save_project(registry, PEOPLE)
    save_project(registry, PARTS)
    with pytest.raises(UserError, match="the projects are: parts, people"):
        get_project(registry, "prats")

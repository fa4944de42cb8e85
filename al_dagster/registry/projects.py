"""Projects and their configurations."""

from sqlalchemy import select

from al_dagster.core.errors import UserError
from al_dagster.core.project import ProjectConfig
from al_dagster.registry.database import Registry
from al_dagster.registry.source_groups import grouping_of, regroup_in
from al_dagster.registry.tables import Category, Object, Project


def save_project(registry: Registry, config: ProjectConfig) -> None:
    """Keep a project's configuration; it replaces the one that stands under the same name.

    If it groups the files otherwise than before, the groups of the project are made anew.

    Raises:
        UserError: the project's table of groups cannot be read; nothing is changed.
    """
    values = {
        "name": config.name,
        "description": config.description,
        "classes": list(config.classes),
        "default_model": config.profile,
        "config": config.model_dump(mode="json"),
    }
    with registry.session() as session:
        before = grouping_of(session, config.name)
        project = session.get(Project, config.name)
        if project is None:
            project = Project(project_id=config.name)
            session.add(project)
        for column, value in values.items():
            setattr(project, column, value)
        if config.grouping != before:
            regroup_in(session, config.name, config.grouping)


def get_project(registry: Registry, name: str) -> ProjectConfig:
    """The configuration of a project.

    Raises:
        UserError: there is no such project; the sentence names those there are.
    """
    with registry.reader() as session:
        config = session.scalar(select(Project.config).where(Project.project_id == name))
        if config is None:
            known = ", ".join(session.scalars(select(Project.project_id).order_by(Project.project_id)))
            raise UserError(f"there is no project {name!r}; the projects are: {known or 'none yet'}")
    return ProjectConfig.model_validate(config)


def project_categories(registry: Registry, project: ProjectConfig) -> list[str]:
    """The classes that an image of a project can have, in the order of their YOLO ids.

    They are the project's own, then those that people gave its active objects, by name.
    """
    used = (
        select(Category.name)
        .where(
            Category.category_id.in_(
                select(Object.category_id).where(Object.project_id == project.name, Object.state == "active")
            )
        )
        .order_by(Category.name)
    )
    with registry.reader() as session:
        return list(dict.fromkeys([*project.classes, *session.scalars(used)]))


def list_projects(registry: Registry) -> list[ProjectConfig]:
    """The configurations of all projects, by name."""
    with registry.reader() as session:
        configs = session.scalars(select(Project.config).order_by(Project.project_id)).all()
    return [ProjectConfig.model_validate(config) for config in configs]

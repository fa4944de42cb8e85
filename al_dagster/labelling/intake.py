"""Intake: folders of files become batches, each file of a project exactly once."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from al_dagster.core.errors import UserError
from al_dagster.core.project import ProjectConfig, load_project
from al_dagster.media.inbox import FileStat, list_projects, project_file, scan_folder
from al_dagster.registry.batches import FileEntry, Origin, claim_files, unfinished_batches
from al_dagster.registry.database import Registry
from al_dagster.registry.projects import save_project


@dataclass(frozen=True)
class Intake:
    """What a look at the inbox found.

    Args:
        unfinished: keys of the batches from the inbox that are not labelled yet, oldest first.
        problems: a sentence for each folder that cannot be taken as it is.
    """

    unfinished: list[str]
    problems: list[str]


def take_inbox(registry: Registry, inbox: Path, *, batch_size: int, settle_seconds: float) -> Intake:
    """Claim the new, fully written files of every project folder in the inbox.

    A file is claimed in one transaction by its project, path, size and time of change, so that two overlapping looks
    take it once. A project whose ``project.yaml`` is wrong is a problem of that project alone.
    """
    problems = []
    for folder in list_projects(inbox):
        path = project_file(folder)
        if path is None:
            problems.append(f"{folder} has no project.yaml: write one with 'classes: [...]' to have its files labelled")
            continue
        try:
            config = load_project(path)
            save_project(registry, config)
        except UserError as error:
            problems.append(str(error))
            continue
        _claim(
            registry,
            config,
            scan_folder(folder, settle_seconds=settle_seconds, skip=no_input(config)),
            batch_size,
            "inbox",
        )
    return Intake(unfinished_batches(registry, origin="inbox"), problems)


def take_folder(registry: Registry, path: Path, project: ProjectConfig, *, batch_size: int) -> list[str]:
    """Claim the files of a folder, or one file, read in place, for a project; links may lead out of the folder.

    Returns:
        Keys of the batches of this project that are not finished: the new ones, any that a command left, and those
        with files of this folder, whoever claimed them.

    Raises:
        UserError: the path does not exist.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist: give a folder of images or one image")
    save_project(registry, project)
    folder = path if path.is_dir() else path.parent
    files = scan_folder(folder, settle_seconds=0, skip=no_input(project), links_out=True)
    if folder != path:
        files = [file for file in files if file.path == str(path.absolute())]
    _claim(registry, project, files, batch_size, "command")
    wanted = {
        *unfinished_batches(registry, project_id=project.name, origin="command"),
        *unfinished_batches(registry, project_id=project.name, path=path),
    }
    return [key for key in unfinished_batches(registry, project_id=project.name) if key in wanted]


def no_input(project: ProjectConfig) -> list[Path]:
    """What may lie among a project's files and is none of them: its examples and its table of groups."""
    return [path for path in (project.support, project.grouping.column) if path]


def _claim(
    registry: Registry, project: ProjectConfig, files: Sequence[FileStat], batch_size: int, origin: Origin
) -> None:
    entries = [FileEntry(file.path, file.size_bytes, file.mtime_ns) for file in files]
    claim_files(registry, project.name, entries, batch_size, origin=origin)

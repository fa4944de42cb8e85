"""Intake: folders of files become batches, each file of a project exactly once."""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from al_dagster.core.errors import UserError
from al_dagster.core.project import ProjectConfig, load_project
from al_dagster.media.inbox import FileStat, absolute, list_projects, loose_files, project_file, scan_folder
from al_dagster.registry.batches import FileEntry, Origin, claim_files, has_files, unfinished_batches
from al_dagster.registry.database import Registry
from al_dagster.registry.projects import list_projects as list_saved
from al_dagster.registry.projects import save_project

log = structlog.get_logger(__name__)


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
    problems = [f"{path}: lies in no project's folder; move it into one" for path in loose_files(inbox)]
    taken: dict[str, Path] = {}
    for folder in list_projects(inbox):
        path = project_file(folder)
        if path is None:
            problems.append(f"{folder} has no project.yaml: write one with 'classes: [...]' to have its files labelled")
            continue
        try:
            config = load_project(path)
            other = taken.setdefault(config.name, folder)
            if other is not folder:
                raise UserError(
                    f"{path}: names the project {config.name!r}, which is that of {other}; give another name"
                )
            _check_new_folder(registry, config, folder)
            save_project(registry, config)
            files = scan_folder(
                folder,
                settle_seconds=settle_seconds,
                skip=no_input(config),
                within=inbox,
                report=problems.append,
            )
            _claim(registry, config, files, batch_size, "inbox")
        except UserError as error:
            problems.append(str(error))
        except Exception as error:
            # Whatever is wrong with one folder, the others are taken.
            log.exception("a folder of the inbox cannot be taken", folder=str(folder))
            problems.append(f"{folder}: cannot be taken: {type(error).__name__}: {error}")
    return Intake(unfinished_batches(registry, origin="inbox"), problems)


def take_folder(
    registry: Registry,
    path: Path,
    project: ProjectConfig,
    *,
    batch_size: int,
    report: Callable[[str], None] = lambda problem: None,
) -> list[str]:
    """Claim the files of a folder, or one file, read in place, for a project; links may lead out of the folder.

    Args:
        registry: the registry.
        path: the folder or the file.
        project: is saved.
        batch_size: most files in one batch.
        report: is called with a sentence for each thing that is left out.

    Returns:
        Keys of the batches of this project that are not finished: the new ones, any that a command left, and those
        with files of this folder, whoever claimed them.

    Raises:
        UserError: the path does not exist, or holds nothing to label; nothing is saved.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist: give a folder of images or one image")
    given, path = path, absolute(path)
    folder = path if path.is_dir() else path.parent
    files = scan_folder(folder, settle_seconds=0, skip=no_input(project), report=report)
    if folder != path:
        files = [file for file in files if file.path == str(path)]
    if not files and folder == path:
        raise UserError(f"{given} holds no files to label: give a folder of images or one image")
    if not files:
        raise UserError(
            f"{given} is not taken: hidden and unfinished files, pipes and project.yaml are no images to label"
        )
    save_project(registry, project)
    _claim(registry, project, files, batch_size, "command")
    wanted = {
        *unfinished_batches(registry, project_id=project.name, origin="command"),
        *unfinished_batches(registry, project_id=project.name, path=path),
    }
    return [key for key in unfinished_batches(registry, project_id=project.name) if key in wanted]


def _check_new_folder(registry: Registry, config: ProjectConfig, folder: Path) -> None:
    """Refuse a folder that would take over a project of another place by its name."""
    if config.name == folder.name:
        return
    standing = next((known for known in list_saved(registry) if known.name == config.name), None)
    if standing in (None, config) or has_files(registry, config.name, folder):
        return
    raise UserError(
        f"{folder}: its project.yaml names the project {config.name!r}, which exists already and is configured "
        "otherwise; give another name, or add its files by "
        f"`al ingest {shlex.quote(str(folder))} -p {shlex.quote(config.name)}`"
    )


def no_input(project: ProjectConfig) -> list[Path]:
    """What may lie among a project's files and is none of them: its examples and its table of groups."""
    return [path for path in (project.support, project.grouping.column) if path]


def _claim(
    registry: Registry, project: ProjectConfig, files: Sequence[FileStat], batch_size: int, origin: Origin
) -> None:
    entries = [FileEntry(file.path, file.size_bytes, file.mtime_ns) for file in files]
    claim_files(registry, project.name, entries, batch_size, origin=origin)

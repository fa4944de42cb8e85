"""The rules by which a project says itself which files belong together: by folder, file name or a table of its own."""

import csv
import io
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePath

from al_dagster.core.errors import UserError
from al_dagster.core.input_files import read_text_file
from al_dagster.core.project import GroupingConfig, sequence_pattern

FILE, GROUP = "file", "group"
"""Columns of the table."""


def group_keys(
    config: GroupingConfig, paths: Sequence[str], all_paths: Callable[[], Sequence[str]]
) -> list[str | None]:
    """The group of each path by the project's rule, or None where the rule says nothing of it.

    Args:
        config: the rule; by content and by time no path says anything.
        paths: absolute paths.
        all_paths: gives the absolute paths of all files of the project.

    Raises:
        UserError: the table cannot be read.
    """
    if config.by == "folder":
        return [f"folder:{PurePath(path).parent}" for path in paths]
    if config.by == "pattern" and config.pattern is not None:
        return _by_pattern(config.pattern, paths)
    if config.by == "column" and config.column is not None:
        return _by_column(config.column, paths, all_paths)
    return [None] * len(paths)


def read_groups(table: Path) -> dict[str, str]:
    """The groups of a CSV file by the file as it stands there; rows without a group are left out.

    Raises:
        UserError: it cannot be read, has not both columns, or gives a file two groups.
    """
    groups: dict[str, str] = {}
    try:
        with io.StringIO(read_text_file(table, encoding="utf-8-sig", what="the table of groups"), newline="") as opened:
            reader = csv.DictReader(opened, skipinitialspace=True)
            columns = [name.strip() for name in reader.fieldnames or []]
            if not {FILE, GROUP} <= set(columns):
                raise UserError(
                    f"{table}: has the columns {', '.join(columns) or '(none)'}; grouping needs '{FILE}' and '{GROUP}'"
                )
            reader.fieldnames = columns
            for row in reader:
                file, group = (row[FILE] or "").strip(), (row[GROUP] or "").strip()
                if file and group and groups.setdefault(file, group) != group:
                    raise UserError(
                        f"{table}: line {reader.line_num}: {file!r} is in the group {groups[file]!r} and in {group!r}; "
                        "a file has one group"
                    )
    except csv.Error as error:
        raise UserError(f"{table}: is not a CSV file: {error}") from None
    return groups


def _by_pattern(pattern: str, paths: Sequence[str]) -> list[str | None]:
    expression = sequence_pattern(pattern)
    keys: list[str | None] = []
    for path in map(PurePath, paths):
        found = expression.fullmatch(path.stem) or expression.fullmatch(path.name)
        keys.append(f"pattern:{path.parent / found['sequence']}" if found else None)
    return keys


def _by_column(table: Path, paths: Sequence[str], all_paths: Callable[[], Sequence[str]]) -> list[str | None]:
    """Files are named by their path, absolute or from the table's folder, or by the end of it if no other ends so."""
    groups = read_groups(table)
    placed = {os.path.normpath(table.parent / file): group for file, group in groups.items()}
    found = [placed.get(path) for path in paths]
    if None in found:
        ends = {os.path.normpath(file): group for file, group in groups.items() if not Path(file).is_absolute()}
        taken = Counter(end for path in all_paths() if path not in placed for end in _ends(path, ends))
        unique = {end: group for end, group in ends.items() if taken[end] == 1}
        found = [
            group if group is not None else next((unique[end] for end in _ends(path, unique)), None)
            for path, group in zip(paths, found, strict=True)
        ]
    return [None if group is None else f"column:{group}" for group in found]


def _ends(path: str, known: Mapping[str, str]) -> list[str]:
    """The ends of a path that are known, longest first."""
    parts = PurePath(path).parts[1:]
    return [end for start in range(len(parts)) if (end := "/".join(parts[start:])) in known]

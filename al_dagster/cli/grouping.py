"""How a project's files are grouped, in a line."""

from collections.abc import Mapping
from typing import Any

from al_dagster.cli.output import many


def describe_groups(counts: Mapping[str, Any]) -> str | None:
    """The line that `al ingest` and `al status` show; None of a project without files.

    Args:
        counts: the values of ``registry.source_groups.GroupCounts`` by name.
    """
    files = sum(counts["sources"].values())
    if not files:
        return None
    told = []
    if counts["recordings"]:
        share = " and share a split" if counts["recordings"] == 1 else "; those of each share a split"
        told.append(
            f"{many(counts['in_recordings'], 'file')} look like {many(counts['recordings'], 'recording')}{share}"
        )
    if counts["uncovered"]:
        are = "is" if counts["uncovered"] == 1 else "are"
        told.append(f"{many(counts['uncovered'], 'file')} {are} not covered by it")
    return "; ".join([f"{many(files, 'file')} in {many(counts['groups'], 'group')}, by {counts['rule']}", *told])

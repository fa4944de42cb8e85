"""Groups of a project's sources: what is in one group is in one split of every dataset of the project.

A source gets its group when it is registered: by the project's own rule, else that of the recording which it continues,
else that of its near-duplicates. It keeps it as the data grows, since new sources join existing groups and never the
other way round. Where new sources show that two existing groups are one recording, the neighbours are noted as ties,
which must not be in two splits either. Only a project whose ``grouping`` is configured anew has its groups made anew.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import numpy as np
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from al_dagster.core.project import GroupingConfig
from al_dagster.registry.base import bulk_insert, chunked
from al_dagster.registry.database import Registry
from al_dagster.registry.group_rules import group_keys
from al_dagster.registry.recordings import REACH, RecordedFile, numbered_runs, recording_pairs
from al_dagster.registry.tables import BatchFile, Project, Source, SourceGroup, SourceTie

CONTENT, RECORDING, TIME = "content", "recording", "time"
DEFAULT_GAP_SECONDS = 5.0


@dataclass(frozen=True)
class GroupCounts:
    """How the sources of a project are grouped.

    Args:
        rule: what the project groups by.
        sources: sources by the rule that placed them: ``recording``, ``content`` or the project's own.
        groups: number of groups.
        recordings: number of groups that hold a recording.
        in_recordings: sources in these groups.
        uncovered: sources that the project's own rule says nothing of; 0 by content.
    """

    rule: str
    sources: dict[str, int]
    groups: int
    recordings: int
    in_recordings: int
    uncovered: int


@dataclass(frozen=True, slots=True)
class _Member:
    source_id: str
    path: str
    captured_at: datetime | None
    thumbnail: bytes | None
    content_key: str


@dataclass(frozen=True, slots=True)
class _Placed:
    """A file of a recording: its source and the group that it has already, if any."""

    source_id: str
    key: str | None

    def apart(self, other: "_Placed", new: Mapping[str, str]) -> bool:
        """Whether the two are in different groups, given the groups of new sources."""
        return new.get(self.source_id, self.key) != new.get(other.source_id, other.key)


@dataclass
class _Ties:
    """What ties members to each other, by index, and to existing groups; strongest rule first in ``anchors``."""

    pairs: list[tuple[int, int]] = field(default_factory=list)
    anchors: dict[int, str] = field(default_factory=dict)
    rules: dict[int, str] = field(default_factory=dict)

    def tie(self, one: int, other: int, rule: str) -> None:
        self.pairs.append((one, other))
        self.rules.setdefault(one, rule)
        self.rules.setdefault(other, rule)

    def anchor(self, one: int, key: str, rule: str) -> None:
        self.anchors.setdefault(one, key)
        self.rules.setdefault(one, rule)


def grouped(registry: Registry, project_id: str) -> GroupCounts:
    """How the sources of a project are grouped."""
    with registry.reader() as session:
        by = grouping_of(session, project_id).by
        rows = session.execute(
            select(SourceGroup.group_key, SourceGroup.rule, func.count())
            .where(SourceGroup.project_id == project_id)
            .group_by(SourceGroup.group_key, SourceGroup.rule)
        ).all()
    sources: Counter[str] = Counter()
    of_group: Counter[str] = Counter()
    for key, rule, count in rows:
        sources[rule] += count
        of_group[key] += count
    recordings = {key for key, rule, _ in rows if rule == RECORDING}
    return GroupCounts(
        rule=by,
        sources=dict(sources),
        groups=len(of_group),
        recordings=len(recordings),
        in_recordings=sum(of_group[key] for key in recordings),
        uncovered=0 if by == CONTENT else sum(sources.values()) - sources[by],
    )


def grouping_of(session: Session, project_id: str) -> GroupingConfig:
    """How a project groups its sources; as by default if it says nothing or does not exist."""
    config = session.scalar(select(Project.config).where(Project.project_id == project_id))
    return GroupingConfig.model_validate((config or {}).get("grouping") or {})


def regroup(registry: Registry, project_id: str) -> None:
    """Make the groups of a project anew from what the registry holds, by the rule that the project has now.

    Raises:
        UserError: the project's table of groups cannot be read; the groups stay as they are.
    """
    with registry.session() as session:
        regroup_in(session, project_id, grouping_of(session, project_id))


def regroup_in(session: Session, project_id: str, config: GroupingConfig) -> None:
    """Make the groups of a project anew within a transaction; see ``regroup``."""
    for table in (SourceGroup, SourceTie):
        session.execute(delete(table).where(table.project_id == project_id))
    _assign(session, project_id, config, _members(session, project_id, None))


def group_batch(session: Session, project_id: str, batch_key: str) -> None:
    """Give the sources of a batch that have no group in the project yet their groups.

    Raises:
        UserError: the project's table of groups cannot be read.
    """
    _assign(session, project_id, grouping_of(session, project_id), _members(session, project_id, batch_key))


def _members(session: Session, project_id: str, batch_key: str | None) -> list[_Member]:
    """The sources of a project, or of one batch, without a group, in the order in which their files were taken."""
    grouped_already = select(SourceGroup.source_id).where(SourceGroup.project_id == project_id)
    query = (
        select(Source.source_id, BatchFile.file_path, Source.captured_at, Source.thumbnail, Source.group_key)
        .join(Source, Source.source_id == BatchFile.source_id)
        .where(
            BatchFile.project_id == project_id,
            BatchFile.status != "quarantined",
            Source.source_id.not_in(grouped_already),
        )
        .order_by(BatchFile.id)
    )
    if batch_key is not None:
        query = query.where(BatchFile.batch_key == batch_key)
    members: dict[str, _Member] = {}
    for row in session.execute(query):
        members.setdefault(row.source_id, _Member(*row))
    return list(members.values())


def _assign(session: Session, project_id: str, config: GroupingConfig, members: Sequence[_Member]) -> None:
    own = group_keys(config, [member.path for member in members], lambda: _all_paths(session, project_id))
    rows = [_row(project_id, member, key, config.by) for member, key in zip(members, own, strict=True) if key]
    bulk_insert(session, SourceGroup, rows)
    rest = [member for member, key in zip(members, own, strict=True) if not key]
    if not rest:
        return
    ties = _Ties()
    timed: set[int] = set()
    if config.by == TIME:
        timed = {index for index, member in enumerate(rest) if member.captured_at is not None}
        _tie_by_time(session, project_id, rest, timed, config.gap_seconds or DEFAULT_GAP_SECONDS, ties)
    neighbours: list[tuple[_Placed, _Placed]] = []
    if config.recordings:
        untimed = [index for index in range(len(rest)) if index not in timed]
        neighbours = _tie_by_recording(session, project_id, rest, untimed, ties)
    _tie_by_content(session, project_id, rest, ties)
    keys = _keys(rest, ties)
    rules = [ties.rules.get(index, CONTENT) for index in range(len(rest))]
    bulk_insert(session, SourceGroup, [_row(project_id, *one) for one in zip(rest, keys, rules, strict=True)])
    new = {member.source_id: key for member, key in zip(rest, keys, strict=True)}
    apart = [(one.source_id, other.source_id) for one, other in neighbours if one.apart(other, new)]
    _note_ties(session, project_id, apart)


def _note_ties(session: Session, project_id: str, pairs: Sequence[tuple[str, str]]) -> None:
    """Note neighbours in a recording that are in different groups, since files in between came later than both."""
    known: set[tuple[str, str]] = set()
    for chunk in chunked([source for source, _ in pairs]):
        mine = (SourceTie.project_id == project_id, SourceTie.source_id.in_(chunk))
        known.update(session.execute(select(SourceTie.source_id, SourceTie.neighbour_id).where(*mine)).tuples().all())
    rows = [
        {"project_id": project_id, "source_id": source, "neighbour_id": neighbour}
        for source, neighbour in dict.fromkeys(pairs)
        if (source, neighbour) not in known and source != neighbour
    ]
    bulk_insert(session, SourceTie, rows)


def _row(project_id: str, member: _Member, key: str, rule: str) -> dict[str, Any]:
    return {"project_id": project_id, "source_id": member.source_id, "group_key": key, "rule": rule}


def _all_paths(session: Session, project_id: str) -> list[str]:
    return list(session.scalars(select(BatchFile.file_path).where(BatchFile.project_id == project_id).distinct()))


def _tie_by_time(
    session: Session, project_id: str, members: Sequence[_Member], timed: set[int], gap_seconds: float, ties: _Ties
) -> None:
    """Tie photos to the ones taken before and after them, new or existing, where the gap is small."""
    gap = timedelta(seconds=gap_seconds)
    moments: list[tuple[datetime, int, str | None]] = [
        (time, index, None) for index in timed if (time := members[index].captured_at) is not None
    ]
    if not moments:
        return
    first, last = min(moments)[0], max(moments)[0]
    existing = session.execute(
        select(Source.captured_at, SourceGroup.group_key)
        .join(Source, Source.source_id == SourceGroup.source_id)
        .where(
            SourceGroup.project_id == project_id,
            SourceGroup.rule == TIME,
            Source.captured_at.between(first - gap, last + gap),
        )
    )
    moments += [(time, -1, key) for time, key in existing if time is not None]
    moments.sort(key=lambda moment: moment[:2])
    for index in timed:
        ties.rules[index] = TIME
    for (before, earlier, earlier_key), (after, later, later_key) in pairwise(moments):
        if after - before > gap:
            continue
        if earlier_key is None and later_key is None:
            ties.tie(earlier, later, TIME)
        elif earlier_key is not None and later_key is None:
            ties.anchor(later, earlier_key, TIME)
        elif earlier_key is None and later_key is not None:
            ties.anchor(earlier, later_key, TIME)


def _tie_by_recording(
    session: Session, project_id: str, members: Sequence[_Member], among: Sequence[int], ties: _Ties
) -> list[tuple[_Placed, _Placed]]:
    """Tie files to their neighbours in a recording, new or existing; rather to the one before than to the one after.

    Returns:
        All neighbours, also those of which both exist.
    """
    near = _files_near(session, project_id, [members[index].path for index in among])
    files = [RecordedFile(one.path, one.captured_at, one.thumbnail) for one in (members[index] for index in among)]
    pairs = recording_pairs(files + [file for file, _ in near])
    placed = [*(_Placed(members[index].source_id, None) for index in among), *(place for _, place in near)]
    for earlier, later in pairs:
        if earlier < len(among) and later < len(among):
            ties.tie(among[earlier], among[later], RECORDING)
        elif later < len(among):
            ties.anchors[among[later]] = str(placed[earlier].key)
            ties.rules.setdefault(among[later], RECORDING)
        elif earlier < len(among):
            ties.anchor(among[earlier], str(placed[later].key), RECORDING)
    return [(placed[earlier], placed[later]) for earlier, later in pairs]


def _files_near(session: Session, project_id: str, paths: Sequence[str]) -> list[tuple[RecordedFile, _Placed]]:
    """Files of the project with their groups that stand, by the numbers in their names, within reach of the paths."""
    known: dict[str, str] = {}
    for folder in {path.rpartition("/")[0] for path in paths}:
        found = session.execute(
            select(BatchFile.file_path, BatchFile.source_id)
            .join(
                SourceGroup,
                (SourceGroup.source_id == BatchFile.source_id) & (SourceGroup.project_id == BatchFile.project_id),
            )
            .where(
                BatchFile.project_id == project_id,
                BatchFile.status != "quarantined",
                BatchFile.file_path.startswith(f"{folder}/", autoescape=True),
            )
        )
        known.update((path, source) for path, source in found if path.rpartition("/")[0] == folder)
    fresh = set(paths)
    candidates = [path for path in known if path not in fresh]
    everything = [*paths, *candidates]
    wanted: set[str] = set()
    for run in numbered_runs(everything):
        is_new = np.array(run) < len(paths)
        within = np.convolve(is_new, np.ones(2 * REACH + 1), mode="full")[REACH : REACH + len(run)] > 0
        wanted.update(everything[run[place]] for place in np.flatnonzero(within & ~is_new))
    of_source: dict[str, tuple[datetime | None, bytes | None, str]] = {}
    for chunk in chunked(sorted({known[path] for path in wanted})):
        rows = session.execute(
            select(Source.source_id, Source.captured_at, Source.thumbnail, SourceGroup.group_key)
            .join(SourceGroup, SourceGroup.source_id == Source.source_id)
            .where(SourceGroup.project_id == project_id, Source.source_id.in_(chunk))
        )
        of_source.update((row[0], row._t[1:]) for row in rows)
    near = []
    for path in sorted(wanted):
        captured_at, thumbnail, key = of_source[known[path]]
        near.append((RecordedFile(path, captured_at, thumbnail), _Placed(known[path], key)))
    return near


def _tie_by_content(session: Session, project_id: str, members: Sequence[_Member], ties: _Ties) -> None:
    """Tie near-duplicates to each other, and to the group of those that the project has already."""
    first: dict[str, int] = {}
    for index, member in enumerate(members):
        ties.pairs.append((first.setdefault(member.content_key, index), index))
    for chunk in chunked(list(first)):
        existing = session.execute(
            select(Source.group_key.label("content"), SourceGroup.group_key.label("key"))
            .join(SourceGroup, SourceGroup.source_id == Source.source_id)
            .where(SourceGroup.project_id == project_id, Source.group_key.in_(chunk))
            .order_by(Source.created_at.desc(), Source.source_id.desc())
        )
        oldest = {row.content: row.key for row in existing}
        for content, key in oldest.items():
            ties.anchors.setdefault(first[content], key)


def _keys(members: Sequence[_Member], ties: _Ties) -> list[str]:
    """The group of each member: an existing one that something of its component is tied to, else a new one."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    pairs = np.array(ties.pairs).reshape(-1, 2)
    graph = coo_array((np.ones(len(pairs), dtype=np.int8), pairs.T), shape=(len(members), len(members)))
    component = connected_components(graph, directed=False)[1].tolist()
    named: dict[int, str] = {}
    for index, key in sorted(ties.anchors.items(), key=lambda one: (one[0] not in ties.rules, one[0])):
        named.setdefault(component[index], key)
    for index, member in enumerate(members):
        rule = ties.rules.get(index)
        if rule is not None:
            named.setdefault(component[index], f"{rule}:{member.source_id}")
    return [named.setdefault(component[index], member.content_key) for index, member in enumerate(members)]

"""Whether a dataset would hold something else if it were built now."""

import re
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from al_dagster.core.errors import UserError
from al_dagster.datasets import leaks, selection
from al_dagster.datasets.unbuilt import Content, content_now, is_built
from al_dagster.registry.database import BESIDE_DATASETS, open_registry
from al_dagster.registry.objects import list_objects
from al_dagster.registry.review import delete_objects


def now(lab: Any, known: Content | None = None, **values: Any) -> Content:
    return content_now(lab.registry, lab.definition(**values), duplicate_distance=lab.distance, known=known)


def test_content_is_unbuilt_until_the_newest_version_holds_it(lab: Any):
    lab.fill(3)
    waiting = now(lab).content_hash
    assert waiting is not None
    assert not is_built(lab.registry, "parts", waiting)
    assert lab.build().dataset.content_hash == waiting
    assert is_built(lab.registry, "parts", waiting)

    delete_objects(lab.registry, [list_objects(lab.registry)[0]["object_id"]], "ann")
    assert now(lab).content_hash not in (None, waiting)


def test_a_definition_that_selects_nothing_is_a_problem_and_an_unknown_project_an_error(lab: Any):
    lab.fill(3)
    nothing = now(lab, filter={"is_validated": True})
    assert nothing.content_hash is None
    assert "selects no object" in str(nothing.problem)
    assert now(lab, nothing, filter={"is_validated": True}) is nothing
    assert "no class" in str(now(lab, filter={"categories": "sofa"}).problem)
    with pytest.raises(UserError, match="nowhere"):
        now(lab, project="nowhere")


def test_what_is_known_holds_until_something_changes_and_then_it_is_as_if_nothing_had_been_known(lab: Any):
    lab.fill(3)
    known = now(lab)
    lab.build()
    assert now(lab, known) is known  # a build changes no label

    delete_objects(lab.registry, [list_objects(lab.registry)[0]["object_id"]], "ann")
    changed = now(lab, known)
    assert changed == now(lab)
    assert changed.content_hash != known.content_hash
    assert now(lab, changed, include_empty=False) == now(lab, include_empty=False)


def test_a_change_that_is_rolled_back_changes_nothing(lab: Any):
    lab.fill(1)
    known = now(lab)
    with pytest.raises(OperationalError), lab.registry.session() as session:
        session.execute(text("DELETE FROM objects WHERE nothing"))
    assert now(lab, known) is known


def test_a_registry_that_was_made_anew_is_another_state(lab: Any, tmp_path):
    with open_registry(f"sqlite:///{tmp_path / 'other' / 'registry.db'}") as other:
        assert other.content_state() != lab.registry.content_state()
        assert other.content_state() == other.content_state() != ""


def test_all_that_a_dataset_is_made_of_tells_of_its_changes():
    parts = selection._PARTS | selection._POLYGONS | leaks._PARTS
    read = {table for _, query in parts.values() for table in re.findall(r"main\.(\w+)", query)}
    assert {"objects", "frame_labels", "source_groups", "source_ties", "sources", "batch_files"} <= read
    assert not read & BESIDE_DATASETS
    assert "projects" not in BESIDE_DATASETS  # the order of the classes

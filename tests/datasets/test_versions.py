import dataclasses
from typing import Any

import pytest

from al_dagster.core.errors import UserError
from al_dagster.datasets.report import BuildReport, report_of
from al_dagster.datasets.versions import load_version, read_version, store_version
from al_dagster.registry.datasets import list_datasets
from al_dagster.registry.objects import list_objects
from al_dagster.registry.review import delete_objects, edit_object


def rows_path(lab: Any, dataset_id: str) -> Any:
    return lab.root / "lake" / "dataset" / f"{dataset_id}.parquet"


def test_a_version_is_loaded_by_name_by_number_and_by_id(lab: Any):
    lab.fill(3)
    first = lab.build().dataset
    lab.fill(2, start=3)
    second = lab.build().dataset

    def loaded(reference: str) -> Any:
        return load_version(lab.registry, lab.lake, reference)

    assert (first.version, second.version) == ("1.0", "1.1")
    for reference, expected in {
        "parts": second,
        "parts@1.1": second,
        "parts@1.0": first,
        first.dataset_id: first,
    }.items():
        found = loaded(reference)
        assert (found.dataset_id, found.version) == (expected.dataset_id, expected.version)
        assert found.table.equals(expected.table)
        assert (found.classes, found.definition) == (expected.classes, expected.definition)


def test_an_old_version_is_as_it_was_whatever_people_did_to_its_objects_since(lab: Any):
    lab.fill(3)
    first = lab.build().dataset
    edited, deleted, *_ = (item["object_id"] for item in list_objects(lab.registry))
    edit_object(lab.registry, edited, "ann", category="washer", bbox=(2, 2, 30, 30))
    delete_objects(lab.registry, [deleted], "ann")
    second = lab.build().dataset

    assert second.version == "1.1"
    assert load_version(lab.registry, lab.lake, "parts@1.0").table.equals(first.table)
    assert not second.table.equals(first.table)


def test_the_rows_are_written_before_the_version_is_recorded(lab: Any):
    lab.fill(2)
    rows_path(lab, "").parent.parent.mkdir(parents=True)
    rows_path(lab, "").parent.write_text("in the way")

    with pytest.raises(OSError, match="dataset"):
        lab.build()

    assert list_datasets(lab.registry) == []


def test_rows_that_are_missing_are_written_again_by_a_build_and_until_then_said_to_be_missing(lab: Any):
    lab.fill(2)
    first = lab.build().dataset
    rows_path(lab, first.dataset_id).unlink()

    with pytest.raises(UserError, match=r"the rows of dataset parts@1\.0 are not in the lake.*al dataset build parts"):
        load_version(lab.registry, lab.lake, "parts")
    again = lab.build()

    assert not again.created
    assert load_version(lab.registry, lab.lake, "parts").table.equals(first.table)


def test_an_unknown_name_and_an_unknown_version_are_named_with_what_is_known(lab: Any):
    lab.fill(2)
    lab.build()

    for reference in ("other", "parts@2.0", "ds_nothing"):
        with pytest.raises(UserError, match=rf"dataset '{reference}' is not in the registry; known: parts@1\.0"):
            load_version(lab.registry, lab.lake, reference)


def test_the_rows_of_a_version_that_was_kept_under_its_name_are_found(lab: Any):
    lab.fill(2)
    old = lab.build().dataset
    rows_path(lab, old.dataset_id).rename(rows_path(lab, "parts"))

    assert load_version(lab.registry, lab.lake, "parts@1.0").table.equals(old.table)
    lab.fill(1, start=2)
    newer = lab.build().dataset
    rows_path(lab, newer.dataset_id).rename(rows_path(lab, "parts"))
    with pytest.raises(UserError, match=r"parts@1\.0 are not in the lake"):
        load_version(lab.registry, lab.lake, "parts@1.0")


def test_the_same_content_takes_over_how_it_is_exported_and_keeps_its_rows(lab: Any):
    sources = lab.fill(2)
    first = lab.build().dataset
    moved = {}
    for path in sources:
        moved[path] = path.rename(path.with_name(f"moved-{path.name}"))
    lab.label({key: [] for key in moved.values()}, register=False)
    again = lab.build(formats=["coco"])

    loaded = load_version(lab.registry, lab.lake, "parts@1.0")

    assert (again.created, loaded.definition.formats) == (False, ("coco",))
    assert loaded.table.equals(first.table)


def test_the_report_of_a_build_is_kept_with_the_version(lab: Any):
    lab.fill(6)
    lab.label({lab.draw("pending.png", 100): []}, register=False)
    built = lab.build(filter={"min_confidence": 0.7, "on_dropped": "ignore"})
    lab.label({lab.draw("pending.png", 100): [("nut", (1, 1, 20, 20), 0.9)]})
    lab.build(filter={"min_confidence": 0.7, "on_dropped": "ignore"})

    found = read_version(lab.registry, lab.lake, "parts@1.0")

    assert found.report == built.report
    assert found.record.version == found.dataset.version == "1.0"
    assert [item.sentence for item in found.report.left_out] == [
        "1 frame not labelled: waits to be labelled (1)",
        "6 objects below min_confidence",
    ]
    assert found.report.raw_confidence == {"model@1": 12}
    assert BuildReport.from_json(built.report.to_json()) == built.report


def test_a_version_that_was_stored_without_a_report_is_counted(lab: Any):
    lab.fill(3)
    built = lab.build()
    dataset = dataclasses.replace(built.dataset, version="")
    lab.lake.write("dataset", dataset.dataset_id, dataset.to_table())

    found = read_version(lab.registry, lab.lake, "parts")

    assert found.report == built.report == report_of(built.dataset.table, built.dataset.classes)
    store_version(lab.lake, built.dataset, built.report)
    assert read_version(lab.registry, lab.lake, "parts").report == built.report

import dataclasses
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow
from sqlalchemy import update

from al_dagster.datasets.frozen import FrozenDataset
from al_dagster.datasets.leaks import find_leaks, no_split_leakage
from al_dagster.registry.tables import Project, SourceGroup

NUT = [("nut", (1.0, 1.0, 20.0, 20.0), 0.9)]


def with_split(dataset: FrozenDataset, source: str, split: str) -> FrozenDataset:
    rows = dataset.table.to_pylist()
    for row in rows:
        row["split"] = split if row["source_id"] == source else "train"
    return dataclasses.replace(dataset, table=type(dataset.table).from_pylist(rows, schema=dataset.table.schema))


@pytest.fixture
def three(lab: Any) -> tuple[FrozenDataset, list[str]]:
    """A dataset of three images, of which the first two are nearly the same, and the ids of their sources."""
    paths = {lab.draw(f"{seed}.png", seed): bits for seed, bits in enumerate((0, 0b11, 2**200 - 1))}
    sources = [lab.label({path: NUT}, hashes={path: f"{bits:064x}"})[path] for path, bits in paths.items()]
    return lab.build().dataset, sources


def test_a_build_has_no_leaks(lab: Any, three: Any):
    verdict = no_split_leakage(lab.registry, three[0], lab.distance)

    assert (verdict.passed, verdict.figures) == (True, {"images": 3, "wrong": 0})


def test_nearly_the_same_picture_in_another_split_is_found_by_its_pixels_and_its_group(lab: Any, three: Any):
    dataset, sources = three
    leaky = with_split(dataset, sources[1], "val")

    problems = find_leaks(lab.registry, leaky, lab.distance)
    verdict = no_split_leakage(lab.registry, leaky, lab.distance)

    assert any("differs in 2 bits" in problem and "1.png" in problem for problem in problems)
    assert f"group {sources[0]}: is in train and val" in problems
    assert verdict.figures == {"images": 3, "wrong": 2, "first_wrong": problems[0]}
    assert not verdict.passed


def test_images_of_one_group_of_the_project_in_two_splits_are_found(lab: Any, three: Any):
    dataset, sources = three
    leaky = with_split(dataset, sources[2], "val")
    assert find_leaks(lab.registry, leaky, lab.distance) == []
    with lab.registry.session() as session:
        for source in sources[1:]:
            session.merge(SourceGroup(project_id="parts", source_id=source, group_key="tray", rule="folder"))
        session.add(SourceGroup(project_id="other", source_id=sources[0], group_key="tray", rule="folder"))

    assert find_leaks(lab.registry, leaky, lab.distance) == ["group tray: is in train and val"]


def test_a_source_whose_frames_are_in_two_splits_is_found(lab: Any, three: Any):
    dataset, _sources = three
    rows = dataset.table.to_pylist()
    page = {**rows[0], "frame_idx": 1, "split": "test", "object_id": "obj_page"}
    torn = dataclasses.replace(
        dataset, table=type(dataset.table).from_pylist([*rows, page], schema=dataset.table.schema)
    )

    problems = find_leaks(lab.registry, torn, lab.distance)

    assert problems[0] == f"{page['file_path']}: is in test and train"


@pytest.fixture
def film(lab: Any) -> tuple[FrozenDataset, list[str]]:
    """A dataset of twelve frames of a film, in which a part slides over a table, and the ids of their sources."""
    table = np.random.default_rng(1).integers(150, 200, (64, 96, 1), dtype=np.uint8)
    paths = []
    for number in range(12):
        noise = np.random.default_rng(number).integers(-2, 3, table.shape)
        frame = np.repeat((table + noise).astype(np.uint8), 3, axis=2)
        frame[20:44, 2 * number + 2 : 2 * number + 24] = (40, 60, 90)
        paths.append(lab.root / "inbox" / f"film_{number:03d}.png")
        paths[-1].parent.mkdir(parents=True, exist_ok=True)
        Pillow.fromarray(frame).save(paths[-1])
    # Hashes that are far apart: what is found is not that they are near-duplicates.
    hashes = {path: f"{(1 << 20 * number) - 1:064x}" for number, path in enumerate(paths)}
    sources = lab.label(dict.fromkeys(paths, NUT), hashes=hashes)
    return lab.build().dataset, [sources[path] for path in paths]


def test_the_frames_of_a_recording_are_in_one_split(lab: Any, film: Any):
    dataset, _ = film
    assert len(dataset.images) == 12
    assert len({image.split for image in dataset.images}) == 1
    assert find_leaks(lab.registry, dataset, 0) == []


def test_neighbours_in_a_recording_are_found_in_two_splits_though_their_groups_do_not_tell(lab: Any, film: Any):
    dataset, sources = film
    with lab.registry.session() as session:
        session.execute(update(SourceGroup).values(group_key=SourceGroup.source_id, rule="content"))
    problems = find_leaks(lab.registry, with_split(dataset, sources[5], "test"), 0)
    assert len(problems) == 2
    said = sorted(problem.split("/")[-1] for problem in problems)
    assert [text.partition(";")[0] for text in said] == ["film_004.png in train", "film_005.png in test"]
    assert all("looks like the next picture of one recording after" in problem for problem in problems)


@pytest.mark.parametrize("rule", ["folder", "switched off"])
def test_recordings_are_no_leak_where_the_project_says_what_belongs_together(lab: Any, film: Any, rule: str):
    dataset, sources = film
    with lab.registry.session() as session:
        values = {"group_key": SourceGroup.source_id, "rule": "folder" if rule == "folder" else "content"}
        session.execute(update(SourceGroup).values(values))
        if rule == "switched off":
            project = session.get_one(Project, "parts")
            project.config = {**(project.config or {}), "grouping": {"recordings": False}}
    assert find_leaks(lab.registry, with_split(dataset, sources[5], "test"), 0) == []

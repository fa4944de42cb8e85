"""The asset of a project's calibration."""

import io

import dagster as dg
import pytest
from PIL import Image

from al_dagster.assets.calibration import calibration
from al_dagster.assets.partitions import projects
from al_dagster.registry.calibrations import standing_calibrations
from al_dagster.registry.database import open_registry
from al_dagster.registry.projects import save_project
from al_dagster.resources import build_resources


@pytest.fixture
def registry(home):
    with open_registry(home.settings.database_url) as registry:
        save_project(registry, home.project())
        yield registry


@pytest.fixture
def materialize(home):
    """Materializes the asset for the project ``shapes`` on an instance of its own."""
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(str(projects.name), ["shapes", "nowhere"])

        def run(key: str = "shapes", **options):
            return dg.materialize(
                [calibration],
                instance=instance,
                resources=build_resources(home.settings),
                partition_key=key,
                run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
                **options,
            )

        yield run


def metadata_of(result):
    (materialization,) = result.asset_materializations_for_node("calibration")
    version = materialization.tags["dagster/data_version"]
    return {name: value.value for name, value in materialization.metadata.items()}, version


def rows(table):
    return [dict(record.data) for record in table.records]


def test_it_tells_reviews_errors_and_thresholds_and_shows_the_reliability_diagram(
    home, registry, materialize, add_reviewed, some_outcomes
):
    add_reviewed(registry, some_outcomes(200, 1))
    add_reviewed(registry, [(0.9, True)], model="m@2", first=100)
    metadata, version = metadata_of(materialize())
    assert (metadata["reviews"], metadata["calibrated_detectors"], metadata["recalibrated_objects"]) == (201, 1, 200)
    first, second = rows(metadata["detectors"])
    assert (first["detection_model"], first["method"], first["reviews"]) == ("m@1", "platt", 200)
    assert 0 <= first["ece_calibrated"] < first["ece_raw"] <= 1
    assert (second["method"], second["missing"]) == ("uncalibrated", "1 of 50 reviews")
    assert [row["precision"] for row in rows(metadata["thresholds"])] == [0.8, 0.9, 0.95, 0.99]
    name = metadata["reliability"].removeprefix("![](/pictures/").removesuffix(")")
    content = (home.settings.pictures_dir / name).read_bytes()
    assert Image.open(io.BytesIO(content)).format == "PNG"
    assert len(content) < 100_000
    assert first["calibration_id"] == standing_calibrations(registry, "shapes")["m@1"]["calibration_id"]
    again, same = metadata_of(materialize())
    assert (again["recalibrated_objects"], same) == (0, version)


def test_without_enough_reviews_it_says_so_and_has_no_picture(registry, materialize):
    metadata, _ = metadata_of(materialize())
    assert (metadata["reviews"], metadata["calibrated_detectors"]) == (0, 0)
    assert rows(metadata["detectors"]) == []
    assert "reliability" not in metadata


def test_a_project_that_is_not_there_is_a_clear_failure(registry, materialize):
    result = materialize("nowhere", raise_on_error=False)
    (failed,) = [event for event in result.all_events if event.is_step_failure]
    assert "there is no project 'nowhere'" in failed.step_failure_data.error.cause.message

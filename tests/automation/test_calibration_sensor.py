import dagster as dg
import pytest

from al_dagster.automation.sensors import calibration_sensor
from al_dagster.labelling.calibrate import due_calibrations
from al_dagster.registry.database import open_registry
from al_dagster.registry.projects import save_project
from al_dagster.registry.review import delete_objects


@pytest.fixture
def registry(home):
    with open_registry(home.settings.database_url) as registry:
        save_project(registry, home.project())
        yield registry


def request(daemon) -> dg.RunRequest:
    (asked,) = daemon.tick(calibration_sensor).run_requests
    return asked


def skipped(daemon) -> str:
    result = daemon.tick(calibration_sensor)
    assert isinstance(result, dg.SkipReason)
    return result.skip_message


def test_a_project_is_calibrated_once_it_has_enough_reviews_and_again_when_many_are_new(
    daemon, registry, add_reviewed, some_outcomes
):
    add_reviewed(registry, some_outcomes(49, 1))
    assert skipped(daemon) == "no project has enough new reviews"
    add_reviewed(registry, [(0.8, True)], first=50)
    first = request(daemon)
    assert first.partition_key == "shapes"
    assert daemon.instance.get_dynamic_partitions("project") == ["shapes"]
    assert request(daemon).run_key == first.run_key
    assert daemon.execute("calibrate", "shapes").success
    assert skipped(daemon) == "no project has enough new reviews"
    (new,) = add_reviewed(registry, [(0.8, None)], first=60)
    delete_objects(registry, [new], "ann")
    assert skipped(daemon) == "no project has enough new reviews"
    add_reviewed(registry, [(0.8, True)] * 5, first=70)
    assert request(daemon).run_key != first.run_key


def test_the_same_reviews_ask_under_another_key_after_another_calibration(
    daemon, registry, add_reviewed, some_outcomes
):
    add_reviewed(registry, some_outcomes(60, 1))
    first = request(daemon)
    assert daemon.execute("calibrate", "shapes").success
    with registry.session() as session:
        # As if its calibration had been of other reviews, which were then taken back.
        session.connection().exec_driver_sql("UPDATE calibrations SET content_hash = 'x', correct = 0")
    assert list(due_calibrations(registry)) == ["shapes"]
    assert request(daemon).run_key != first.run_key

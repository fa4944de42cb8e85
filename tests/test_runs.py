import os
import signal
import sys

import dagster as dg
import pytest

from al_dagster.assets.partitions import batches
from al_dagster.core.errors import UserError
from al_dagster.core.failpoints import clear_failpoints, set_failpoint
from al_dagster.labelling import ingest
from al_dagster.labelling.intake import take_folder
from al_dagster.registry.database import open_registry
from al_dagster.resources.instance import open_instance
from al_dagster.runs import RunFailedError, asset_metadata, execute, step_seconds


@pytest.fixture(autouse=True)
def _definitions_of_this_home(home, monkeypatch: pytest.MonkeyPatch) -> None:
    """The code location takes its settings when it is imported: once in a process, and here once in a test."""
    monkeypatch.delitem(sys.modules, "al_dagster.definitions", raising=False)


def claim(home, **project: object) -> str:
    with open_registry(home.settings.database_url) as registry:
        (key,) = take_folder(registry, home.pictures(1), home.project(**project), batch_size=256)
    return key


def test_a_batch_is_labelled_by_a_run_that_the_ui_shows(home):
    key = claim(home)
    result = execute("label_batch", partition=key, partitions=batches)
    assert asset_metadata(result, "objects")["objects"] == 2
    assert step_seconds(result)["detections"] > 0
    with open_instance(home.settings) as instance:
        (run,) = instance.get_runs()
        assert (run.job_name, run.is_success, run.run_id) == ("label_batch", True, result.run_id)
        assert instance.get_dynamic_partitions("batch") == [key]


def test_what_the_user_can_put_right_is_said_in_one_sentence(home):
    key = claim(home, classes=["disc", "bar", "unicorn"])
    with pytest.raises(UserError, match=r"^the embedded detector does not know 'unicorn'; it knows person") as raised:
        execute("label_batch", partition=key, partitions=batches)
    assert "\n" not in str(raised.value)


def test_an_error_of_the_user_is_recognised_by_its_type_and_kept_whole(home, monkeypatch):
    class OwnError(UserError):
        pass

    def fails(*_: object, **__: object) -> None:
        raise OwnError("a: b: c; do d: e")

    key = claim(home)
    monkeypatch.setattr(ingest, "register_sources", fails)
    with pytest.raises(OwnError) as raised:
        execute("label_batch", partition=key, partitions=batches)
    assert str(raised.value) == "a: b: c; do d: e"
    with open_instance(home.settings) as instance:
        (run,) = instance.get_runs()
        assert run.is_failure


def test_any_other_failure_names_the_asset_and_the_run(home):
    key = claim(home)
    home.settings.masks_dir.parent.mkdir(exist_ok=True)
    home.settings.masks_dir.write_text("a file where the masks are to be")
    with pytest.raises(RunFailedError, match=r"^masks failed: .*\(run [0-9a-f-]{36}; `al ui` shows its log\)$"):
        execute("label_batch", partition=key, partitions=batches)


def test_a_run_that_ctrl_c_ends_is_cancelled_and_can_be_made_again(home):
    key = claim(home)
    set_failpoint("detections written", lambda: os.kill(os.getpid(), signal.SIGINT))
    try:
        with pytest.raises(KeyboardInterrupt):
            execute("label_batch", partition=key, partitions=batches)
    finally:
        clear_failpoints()
    with open_instance(home.settings) as instance:
        assert [run.status for run in instance.get_runs()] == [dg.DagsterRunStatus.CANCELED]
    assert execute("label_batch", partition=key, partitions=batches).success

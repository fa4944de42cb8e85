import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from al_dagster.core.errors import UserError
from al_dagster.training.dataset import ExportedDataset
from al_dagster.training.models import trained_weights
from al_dagster.training.tracking import FINGERPRINT_TAG, Tracking


def test_the_newest_model_of_a_dataset_is_taken(
    make_export: Callable[..., ExportedDataset], tracking: Tracking, tmp_path: Path
) -> None:
    dataset = make_export(tmp_path / "export", {"train": 1}, name="parts")
    for content in (b"older", b"newer"):
        run_id = tracking.start_run(dataset, params={}, tags={FINGERPRINT_TAG: content.decode()}, run_name="run")
        (tmp_path / "best.pt").write_bytes(content)
        tracking.log_file(run_id, tmp_path / "best.pt", "weights")
        tracking.end_run(run_id)
        tracking.register(run_id, "parts")
    assert trained_weights(tracking, "parts").read_bytes() == b"newer"


def test_the_newest_model_of_one_version_of_a_dataset_is_taken(
    make_export: Callable[..., ExportedDataset], tracking: Tracking, tmp_path: Path
) -> None:
    dataset = make_export(tmp_path / "export", {"train": 1}, name="parts")
    for content, version in ((b"first", "1.0"), (b"second", "1.0"), (b"third", "1.1")):
        of_version = dataclasses.replace(dataset, version=version)
        run_id = tracking.start_run(of_version, params={}, tags={FINGERPRINT_TAG: content.decode()}, run_name="run")
        (tmp_path / "best.pt").write_bytes(content)
        tracking.log_file(run_id, tmp_path / "best.pt", "weights")
        tracking.end_run(run_id)
        tracking.register(run_id, "parts")
    found = {name: trained_weights(tracking, name).read_bytes() for name in ("parts", "parts@1.0", "parts@1.1")}
    assert found == {"parts": b"third", "parts@1.0": b"second", "parts@1.1": b"third"}
    with pytest.raises(UserError, match=r"no model was trained on a dataset parts@2\.0 yet: `al train parts@2\.0`"):
        trained_weights(tracking, "parts@2.0")


@pytest.mark.parametrize("name", ["unknown", "it's"])
def test_a_dataset_without_a_model_is_one_sentence(tracking: Tracking, name: str) -> None:
    with pytest.raises(UserError, match=f"no model was trained on a dataset {name} yet: `al train {name}` trains one"):
        trained_weights(tracking, name)


def test_to_look_for_a_model_makes_no_database(tmp_path: Path) -> None:
    tracking = Tracking(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "mlartifacts")
    with pytest.raises(UserError, match="`al train shapes`"):
        trained_weights(tracking, "shapes")
    assert list(tmp_path.iterdir()) == []

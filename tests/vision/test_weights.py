import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from al_dagster.core.errors import UserError
from al_dagster.core.progress import listening
from al_dagster.vision.fetch import fetch
from al_dagster.vision.weights import MANIFEST, Weights, find, installed, read_manifest, verify


def _checkpoint(folder: Path, value: float = 1.0) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "dinov2", "hidden_size": 2}))
    (folder / "preprocessor_config.json").write_text("{}")
    save_file({"a": torch.full((2, 2), value)}, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def weights(tmp_path: Path, models: Path) -> Weights:
    return fetch("dinov2-base", models_dir=models, source=_checkpoint(tmp_path / "source")).weights


def test_what_was_fetched_is_found_with_its_size_and_revision(weights: Weights, models: Path) -> None:
    assert find("dinov2-base", models) == weights
    assert weights.folder == models / "dinov2-base"
    assert weights.commit is None
    assert len(weights.revision) == 12
    assert weights.size_bytes == sum(path.stat().st_size for path in weights.folder.iterdir() if path.name != MANIFEST)
    assert installed(models) == ["dinov2-base"]


def test_a_missing_model_is_one_sentence_with_the_command_that_fetches_it(models: Path) -> None:
    with pytest.raises(UserError) as said:
        find("sam2.1-hiera-base-plus", models)
    assert str(said.value) == (
        f"model sam2.1-hiera-base-plus is not in {models}; `al models fetch sam2.1-hiera-base-plus` gets it "
        "(about 320 MB, Apache-2.0)"
    )
    with pytest.raises(UserError, match="is not in"):
        verify("sam2.1-hiera-base-plus", models)
    assert installed(models) == []


def test_the_folder_of_the_settings_is_looked_in_by_default(
    weights: Weights, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AL_MODELS", str(models))
    assert find("dinov2-base") == weights
    monkeypatch.delenv("AL_MODELS")
    monkeypatch.setenv("AL_HOME", str(models.parent))
    assert find("dinov2-base") == weights


def test_the_revision_follows_the_content_and_not_the_order_or_the_time(
    tmp_path: Path, weights: Weights, models: Path
) -> None:
    manifest = read_manifest(weights.folder)
    turned = manifest.model_copy(update={"files": dict(reversed(manifest.files.items()))})
    assert turned.revision == manifest.revision == weights.revision
    again = fetch("dinov2-base", models_dir=tmp_path / "again", source=tmp_path / "source").weights
    assert again.revision == weights.revision
    other = fetch("dinov2-base", models_dir=tmp_path / "other", source=_checkpoint(tmp_path / "changed", 2.0)).weights
    assert other.revision != weights.revision


def test_a_configuration_that_differs_is_another_revision(tmp_path: Path, weights: Weights) -> None:
    (tmp_path / "source" / "preprocessor_config.json").write_text('{"do_resize": false}')
    other = fetch("dinov2-base", models_dir=tmp_path / "other", source=tmp_path / "source").weights
    assert other.revision != weights.revision


def test_weights_that_were_replaced_since_they_were_found_are_told(
    tmp_path: Path, weights: Weights, models: Path
) -> None:
    weights.check()
    fetch("dinov2-base", models_dir=models, source=tmp_path / "source")
    weights.check()
    fetch("dinov2-base", models_dir=models, source=_checkpoint(tmp_path / "changed", 2.0))
    with pytest.raises(UserError, match=r"^model dinov2-base was replaced during this run; run it again$"):
        weights.check()
    find("dinov2-base", models).check()


def test_finding_reads_no_weights_and_verifying_reads_them_all(weights: Weights, models: Path) -> None:
    file = weights.folder / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert find("dinov2-base", models) == weights
    assert verify("dinov2-base", models) == ["model.safetensors has other content than recorded"]


def test_verifying_names_what_is_missing_cut_off_or_added(weights: Weights, models: Path) -> None:
    assert verify("dinov2-base", models) == []
    (weights.folder / "preprocessor_config.json").unlink()
    (weights.folder / "config.json").write_text("{")
    (weights.folder / "notes.txt").write_text("mine")
    assert verify("dinov2-base", models) == [
        "config.json has 1 bytes instead of 42",
        "preprocessor_config.json is missing",
        "notes.txt was added",
    ]


@pytest.mark.parametrize("harm", ["missing", "short"])
def test_a_file_that_is_missing_or_cut_off_is_said_when_the_model_is_asked_for(
    weights: Weights, models: Path, harm: str
) -> None:
    file = weights.folder / "model.safetensors"
    if harm == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"damaged: model.safetensors .*`al models fetch dinov2-base --from FOLDER`"):
        find("dinov2-base", models)


def test_a_folder_that_was_put_there_by_hand_is_not_taken_for_a_model(tmp_path: Path, models: Path) -> None:
    models.mkdir()
    _checkpoint(models / "dinov2-base")
    with pytest.raises(UserError, match="move it elsewhere"):
        find("dinov2-base", models)
    with pytest.raises(UserError, match="move it elsewhere"):
        fetch("dinov2-base", models_dir=models, source=_checkpoint(tmp_path / "source"))
    assert (models / "dinov2-base" / "model.safetensors").exists()


def test_a_manifest_that_cannot_be_read_is_said(weights: Weights, models: Path) -> None:
    (weights.folder / MANIFEST).write_text("{}")
    with pytest.raises(UserError, match=f"{MANIFEST} cannot be read"):
        find("dinov2-base", models)


def test_a_manifest_that_the_system_does_not_let_read_is_one_sentence(weights: Weights, models: Path) -> None:
    (weights.folder / MANIFEST).unlink()
    (weights.folder / MANIFEST).mkdir()
    with pytest.raises(UserError, match=rf"{MANIFEST} cannot be read: Is a directory"):
        find("dinov2-base", models)


@pytest.mark.parametrize("name", [MANIFEST, "config.json"])
def test_a_file_without_leave_to_read_is_one_sentence(weights: Weights, models: Path, name: str) -> None:
    file = weights.folder / name
    file.chmod(0)
    if os.access(file, os.R_OK):
        pytest.skip("this user may read every file")
    try:
        found = " ".join(verify("dinov2-base", models))
    except UserError as error:
        found = str(error)
    assert f"{name} cannot be read: Permission denied" in found


def test_verifying_says_how_far_it_has_come(weights: Weights, models: Path) -> None:
    reports = []
    with listening(lambda step, done, total: reports.append((step, done, total))):
        verify("dinov2-base", models)
    assert len(reports) == 3
    assert {step for step, _, _ in reports} == {"dinov2-base, MB verified"}

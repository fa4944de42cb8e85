import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from al_dagster.vision.catalog import CATALOG

CONFIG = {"model_type": "dinov2", "hidden_size": 2}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A folder with the files of a model."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    save_file({"a": torch.ones(2, 2)}, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_the_list_names_every_model_with_what_it_costs(here: Callable) -> None:
    rows = here("models", "list", "--json").json
    assert {row["name"]: (row["licence"], row["size_mb"], row["gpu_mb"]) for row in rows} == {
        card.name: (card.licence, card.download_mb, card.gpu_mb) for card in CATALOG.values()
    }
    assert not any(row["installed"] or row["revision"] or row["problem"] for row in rows)
    said = here("models", "list").out
    assert all(name in said for name in (*CATALOG, "Detectors", "Segmenters", "Embedders"))
    assert max(map(len, said.splitlines())) <= 80


def test_a_model_from_a_folder_is_listed_verified_and_not_taken_twice(here: Callable, checkpoint: Path) -> None:
    said = here("models", "fetch", "dinov2-base", "--from", checkpoint)
    assert said.status == 0
    assert said.out.startswith("dinov2-base: fetched, from a folder, revision ")
    row = next(row for row in here("models", "list", "--json").json if row["name"] == "dinov2-base")
    assert row["installed"]
    assert row["revision"] in said.out
    assert row["folder"].endswith("home/models/dinov2-base")
    assert "was here already" in here("models", "fetch", "dinov2-base", "--from", checkpoint).out
    verified = here("models", "verify")
    assert (verified.status, verified.out) == (0, "ok    dinov2-base: every file is as recorded\n")


def test_a_changed_file_is_named_with_exit_status_1(here: Callable, checkpoint: Path, tmp_path: Path) -> None:
    here("models", "fetch", "dinov2-base", "--from", checkpoint)
    (tmp_path / "home" / "models" / "dinov2-base" / "config.json").write_text(json.dumps({**CONFIG, "hidden_size": 3}))
    said = here("models", "verify", "dinov2-base")
    assert (said.status, said.out) == (1, "wrong dinov2-base: config.json has other content than recorded\n")
    (tmp_path / "home" / "models" / "dinov2-base" / "model.safetensors").unlink()
    said = here("models", "verify", "--json")
    assert said.status == 1
    assert said.json[0]["differences"][1] == "model.safetensors is missing"
    assert "damaged" in here("models", "list").out


def test_verifying_what_is_not_there_says_so(here: Callable) -> None:
    said = here("models", "verify")
    assert said.status == 0
    assert "no models; `al models fetch NAME` fetches one" in said.out
    said = here("models", "verify", "edgetam")
    assert said.status == 1
    assert "`al models fetch edgetam` gets it" in said.out


def test_a_folder_of_models_of_one_s_own_is_used(
    here: Callable, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AL_MODELS", str(tmp_path / "shared"))
    fetched = here("models", "fetch", "dinov2-base", "--from", checkpoint, "--json").json
    assert fetched[0]["folder"] == str(tmp_path / "shared" / "dinov2-base")
    shutil.rmtree(checkpoint)
    assert here("models", "verify").status == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "name the models to fetch, or give --profile foundation"),
        (["dinov3"], "there is no model 'dinov3'"),
        (["--profile", "best"], "there is no profile 'best'"),
        (["--profile", "embedded"], "needs no weights"),
        (["edgetam", "dinov2-base", "--revision", "main"], "take one model"),
        (["--profile", "foundation", "--from", "."], "take one model"),
        (["edgetam", "--from", "nowhere"], "there is no such folder"),
    ],
)
def test_what_cannot_be_fetched_is_one_sentence(here: Callable, arguments: list[str], words: str) -> None:
    said = here("models", "fetch", *arguments)
    assert said.status == 2
    assert words in said.err
    assert said.err.count("\n") == 1


def test_fetching_without_a_network_is_one_sentence(here: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    said = here("models", "fetch", "--profile", "foundation")
    assert said.status == 2
    assert "http://127.0.0.1:9 cannot be reached for florence-community/Florence-2-large" in said.err
    assert said.err.count("\n") == 1

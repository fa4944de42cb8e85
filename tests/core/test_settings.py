from pathlib import Path

import pytest

from al_dagster.core.errors import UserError
from al_dagster.core.settings import Settings, load_settings


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.startswith("AL_"):
            monkeypatch.delenv(name)


def test_everything_lies_in_home_by_default(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    settings = load_settings()
    home = tmp_path / "data"
    assert settings.inbox == home / "inbox"
    assert settings.lake == str(home / "lake")
    assert settings.masks_dir == home / "registry" / "masks"
    assert settings.chroma_dir == home / "registry" / "chroma"
    assert settings.database_url == f"sqlite:///{home}/registry/registry.db"
    assert settings.tracking_uri == f"sqlite:///{home}/mlflow.db"
    folders = (settings.exports_dir, settings.artifacts_dir, settings.dagster_home, settings.registry_dir)
    assert all(folder.is_absolute() and folder.parent == home for folder in folders)
    assert not home.exists()


@pytest.mark.parametrize(
    ("variable", "value", "attribute", "expected"),
    [
        ("AL_HOME", "/srv/al", "exports_dir", Path("/srv/al/exports")),
        ("AL_INBOX", "/srv/in", "inbox", Path("/srv/in")),
        ("AL_LAKE", "s3://bucket/lake", "lake", "s3://bucket/lake"),
        ("AL_REGISTRY_URL", "sqlite:////tmp/r.db", "database_url", "sqlite:////tmp/r.db"),
        ("AL_MLFLOW_URI", "http://127.0.0.1:5000", "tracking_uri", "http://127.0.0.1:5000"),
        ("AL_BATCH_SIZE", "32", "batch_size", 32),
        ("AL_SETTLE_SECONDS", "0", "settle_seconds", 0.0),
        ("AL_MAX_IMAGE_PIXELS", "1000", "max_image_pixels", 1000),
        ("AL_BATCH_SIZE", "", "batch_size", 256),
    ],
)
def test_each_setting_is_an_environment_variable(monkeypatch, variable, value, attribute, expected):
    monkeypatch.setenv(variable, value)
    assert getattr(load_settings(), attribute) == expected


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("AL_BATCH_SIZE", "0"),
        ("AL_BATCH_SIZE", "many"),
        ("AL_SETTLE_SECONDS", "-1"),
        ("AL_PORT", "70000"),
        ("AL_LOG_FORMAT", "xml"),
        ("AL_DUPLICATE_DISTANCE", "256"),
    ],
)
def test_a_value_that_does_not_fit_is_answered_with_the_variable_and_the_value(monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    with pytest.raises(UserError, match=rf"^{variable}: .*, but it is '{value}'$"):
        load_settings()


def test_every_setting_is_described():
    assert all(field.description for field in Settings.model_fields.values())

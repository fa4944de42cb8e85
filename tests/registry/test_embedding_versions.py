import numpy as np
import pytest

from al_dagster.core.errors import UserError
from al_dagster.registry.embedding_versions import (
    VersionRecord,
    ensure_version,
    get_version,
    list_versions,
    versions_in_use,
)
from al_dagster.registry.review import delete_objects, edit_object
from al_dagster.registry.tables import EmbeddingVersion


def test_a_version_is_known_once_ensured_and_ensuring_again_changes_nothing(registry):
    for _ in range(2):
        ensure_version(registry, "dinov2_base_v1", "facebook/dinov2-base", "dinov2", 768)
    assert list_versions(registry) == [VersionRecord("dinov2_base_v1", "facebook/dinov2-base", "dinov2", 768)]
    assert get_version(registry, "dinov2_base_v1").dimension == 768


@pytest.mark.parametrize(("model", "dimension"), [("facebook/dinov2-base", 384), ("facebook/dinov2-large", 768)])
def test_a_version_cannot_become_another_model_or_dimension(registry, model, dimension):
    ensure_version(registry, "dinov2_base_v1", "facebook/dinov2-base", "dinov2", 768)
    with pytest.raises(ValueError, match="name a new one"):
        ensure_version(registry, "dinov2_base_v1", model, "dinov2", dimension)
    assert get_version(registry, "dinov2_base_v1").dimension == 768


def test_a_version_may_be_ensured_with_another_kind_of_model(registry):
    ensure_version(registry, "hog_color_v1", "hog-color", "embedded", 996)
    ensure_version(registry, "hog_color_v1", "hog-color", "hog", 996)
    assert get_version(registry, "hog_color_v1").model_type == "embedded"


def test_a_version_has_a_dimension(registry):
    with pytest.raises(ValueError, match="at least 1, got 0"):
        ensure_version(registry, "v1", "model", "hog", 0)


def test_an_unknown_version_is_an_error_that_lists_the_known_ones(registry):
    with pytest.raises(UserError, match="known: none"):
        get_version(registry, "v1")
    ensure_version(registry, "hog_v1", "opencv-hog", "hog", 8)
    with pytest.raises(UserError, match="'v1' is not in the registry; known: hog_v1"):
        get_version(registry, "v1")


def test_the_versions_in_use_are_those_of_active_objects_that_are_not_stale_most_frequent_first(
    registry, register, label, frame
):
    assert versions_in_use(registry) == []
    with registry.session() as session:
        for version in ("tiny_v0", "tiny_v2"):
            session.add(EmbeddingVersion(version_id=version, model_name="tiny", model_type="test", dimension=4))
    vector = np.eye(4, dtype=np.float32)[0]
    versions = ("tiny_v0", "tiny_v2", "tiny_v2", "tiny_v1", "tiny_v1", "tiny_v1")
    labels = [
        label(frame, (60.0 * place, 0, 50, 50), embedding=vector, embedding_version=version)
        for place, version in enumerate(versions)
    ]
    register(*labels)
    assert versions_in_use(registry) == ["tiny_v1", "tiny_v2", "tiny_v0"]
    assert [version.version_id for version in list_versions(registry, "parts--1")] == sorted(set(versions))
    assert list_versions(registry, "parts--2") == versions_in_use(registry, "people") == []
    edit_object(registry, labels[0].object_id, "Ada", bbox=(0, 0, 40, 40))
    for one in labels[3:5]:
        delete_objects(registry, [one.object_id], "Ada")
    assert versions_in_use(registry, "parts") == ["tiny_v2", "tiny_v1"]

import re

import pytest

from al_dagster.core.errors import UserError
from al_dagster.vision.catalog import CATALOG, get_card
from al_dagster.vision.profiles import PROFILES


@pytest.mark.parametrize("card", CATALOG.values(), ids=CATALOG)
def test_every_model_is_pinned_to_a_commit_and_says_what_it_costs(card):
    assert re.fullmatch(r"[0-9a-f]{40}", card.commit)
    assert re.fullmatch(r"[\w.-]+/[\w.-]+", card.repository)
    assert card.licence in {"MIT", "Apache-2.0"}
    assert card.download_mb > 0
    assert card.gpu_mb > 0
    assert card.model_types
    assert card.use


def test_commits_and_repositories_are_not_shared():
    assert len({card.commit for card in CATALOG.values()}) == len(CATALOG)
    assert len({card.repository for card in CATALOG.values()}) == len(CATALOG)


def test_embedders_and_only_they_name_a_version_and_its_dimension():
    versions = {
        name: (card.version_id, card.dimension) for name, card in CATALOG.items() if card.version_id or card.dimension
    }
    assert versions == {
        "dinov2-small": ("dinov2_small_v1", 384),
        "dinov2-base": ("dinov2_base_v1", 768),
        "dinov2-large": ("dinov2_large_v1", 1024),
    }
    assert all(CATALOG[name].role == "embedder" for name in versions)


def test_the_models_of_the_foundation_profile_are_known_with_their_roles():
    models = PROFILES["foundation"]
    assert CATALOG[models.detector].role == "detector"
    assert CATALOG[models.segmenter].role == "segmenter"
    assert CATALOG[models.embedder].role == "embedder"


def test_a_name_that_is_not_known_lists_those_that_are():
    with pytest.raises(UserError, match=r"no model 'dinov3'.*florence-2-large.*dinov2-large"):
        get_card("dinov3")

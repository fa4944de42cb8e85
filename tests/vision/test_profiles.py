import subprocess
import sys

import pytest

from al_dagster.core.errors import UserError
from al_dagster.vision.crops import crop_object
from al_dagster.vision.profiles import PROFILES, build_models
from al_dagster.vision.protocols import PROPOSAL


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_every_model_of_a_profile_says_what_it_is(profile):
    with build_models(profile) as models:
        for model in (models.detector, models.segmenter, models.embedder):
            assert model.model_id
            assert len(model.revision) >= 8


def test_an_unknown_profile_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match=r"no profile 'gigantic'.*embedded"):
        build_models("gigantic")


def test_the_embedded_profile_goes_from_an_image_to_vectors(tabletop):
    with build_models("embedded") as models:
        found = models.detector.detect([tabletop], [PROPOSAL])[0]
        masks = models.segmenter.segment([tabletop], [found.xyxy])[0]
        crops = [crop_object(tabletop, box, mask) for box, mask in zip(found.xyxy, masks, strict=True)]
        assert models.embedder.embed(crops).shape == (len(found), models.embedder.dimension)


def test_the_embedded_profile_does_not_import_torch():
    code = (
        "import sys; from al_dagster.vision.profiles import build_models; build_models('embedded'); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'ultralytics')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

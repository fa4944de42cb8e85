"""The reliability diagram."""

import io

import numpy as np
import pytest
from PIL import Image

from al_dagster.vision.reliability import Panel, reliability_diagram


@pytest.mark.parametrize("panels", [1, 3])
def test_the_diagram_is_a_small_png_with_a_panel_for_each_detector(panels):
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0, 1, 60)
    panel = Panel("florence-2@1", confidence, confidence**2, rng.random(60) < confidence**2)
    content = reliability_diagram([panel] * panels)
    picture = Image.open(io.BytesIO(content))
    assert picture.format == "PNG"
    assert picture.width / picture.height == pytest.approx(3.8 * panels / 4.1, abs=0.02)
    assert len(content) < 120_000

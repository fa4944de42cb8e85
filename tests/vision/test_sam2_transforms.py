import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from al_dagster.vision import sam2_transforms
from al_dagster.vision.sam2_transforms import crop_masks, mask_windows


@pytest.mark.parametrize("size", [(90, 120), (300, 17), (20, 9), (32, 32)])
def test_cropped_masks_are_scaled_masks_cut_out(size):
    logits = torch.randn((3, 32, 32), generator=torch.Generator().manual_seed(2))
    height, width = size
    windows = np.array([[0, 0, width, height], [2, 3, 9, 17], [width - 1, height - 1, width, height]])
    scaled = torch.nn.functional.interpolate(logits[None], size, mode="bilinear", align_corners=False)[0]
    found = crop_masks(logits, windows, np.array([size] * 3))
    for pixels, (x1, y1, x2, y2), whole in zip(found, windows, scaled, strict=True):
        expected = whole[y1:y2, x1:x2]
        assert pixels.shape == tuple(expected.shape)
        assert not ((expected > 0).numpy() != pixels)[expected.abs().numpy() > 1e-5].any()


@pytest.mark.parametrize("size", [(90, 120), (300, 17), (20, 9)])
def test_windows_hold_all_that_scaled_masks_show(size):
    logits = torch.full((4, 32, 32), -1.0)
    logits[0, 10:13, 20] = 1
    logits[1, 0, 0] = logits[1, 31, 31] = 5
    logits[2, 31, 0] = 90
    windows = mask_windows(logits, np.array([size] * 4))
    scaled = torch.nn.functional.interpolate(logits[None], size, mode="bilinear", align_corners=False)[0] > 0
    for shown, (x1, y1, x2, y2) in zip(scaled[:3].numpy(), windows[:3], strict=True):
        inside = shown[y1:y2, x1:x2].sum()
        assert inside == shown.sum()
        assert 0 <= x1 < x2 <= size[1]
        assert 0 <= y1 < y2 <= size[0]
    assert windows[3].tolist() == [0, 0, 0, 0]


@settings(max_examples=60)
@given(
    st.lists(st.tuples(*[st.integers(0, 300), st.integers(1, 300)] * 2), min_size=1, max_size=12), st.integers(1, 5000)
)
def test_steps_hold_every_pixel_once_and_are_bounded(sides, most):
    windows = np.array([(x, y, x + width, y + height) for x, width, y, height in sides])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sam2_transforms, "PIXELS_AT_ONCE", most)
        steps = list(sam2_transforms._steps(windows))
    for step in steps:
        wide, high = (step[:, 3] - step[:, 1]).max(), (step[:, 4] - step[:, 2]).max()
        assert len(step) * wide * high <= most or len(step) == high == 1
    for index, (x1, y1, x2, y2) in enumerate(windows.tolist()):
        own = [band for step in steps for band in step.tolist() if band[0] == index]
        assert [band[2] for band in own] == [y1, *(band[4] for band in own[:-1])]
        assert {(band[1], band[3]) for band in own} == {(x1, x2)}
        assert own[-1][4] == y2

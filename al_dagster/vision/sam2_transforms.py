"""From the low-resolution masks of a network back to pixels of the images."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

PIXELS_AT_ONCE = 1 << 22
"""Pixels of masks computed at once; each takes about 10 bytes meanwhile."""


def crop_masks(logits: torch.Tensor, windows: NDArray[np.int64], sizes: NDArray[np.int64]) -> list[NDArray[np.bool_]]:
    """The parts of masks that windows of their images show, at the images' resolution.

    Equal to scaling each mask to its whole image (bilinear, ``align_corners=False``), cutting the window out and
    comparing with 0; but only the windows' pixels are computed, by two products of small matrices for many windows
    together, in bounded memory.

    Args:
        logits: (k, h, w), above 0 on the object.
        windows: (k, 4), x1, y1, x2, y2 in whole pixels of the images, inside them, none empty.
        sizes: (k, 2), height and width of each mask's image.

    Returns:
        For each mask, (y2 - y1, x2 - x1), bool.
    """
    height, width = logits.shape[-2:]
    scales = (np.array([height, width]) / sizes).astype(np.float32)
    pieces: list[list[NDArray[np.bool_]]] = [[] for _ in windows]
    for bands in _steps(windows):
        owners = bands[:, 0]
        rows, columns = (int(extent.max()) for extent in (bands[:, 4] - bands[:, 2], bands[:, 3] - bands[:, 1]))
        down = _weights(bands[:, 2], rows, scales[owners, 0], height, logits.device)
        across = _weights(bands[:, 1], columns, scales[owners, 1], width, logits.device)
        own = logits[torch.from_numpy(owners).to(logits.device)].float()
        shown = (down @ own @ across.mT > 0).cpu().numpy()
        for pixels, (owner, x1, y1, x2, y2) in zip(shown, bands.tolist(), strict=True):
            pieces[owner].append(pixels[: y2 - y1, : x2 - x1])
    return [parts[0] if len(parts) == 1 else np.concatenate(parts) for parts in pieces]


def mask_windows(logits: torch.Tensor, sizes: NDArray[np.int64], *, reach: float = 1.0) -> NDArray[np.int64]:
    """Windows of images that hold all that masks show: (k, 4) x1, y1, x2, y2 in whole pixels; zeros for an empty mask.

    Args:
        logits: (k, h, w), above 0 on the object.
        sizes: (k, 2), height and width of each mask's image.
        reach: low-resolution pixels that a window has around the outermost positive ones; with 1 nothing that scaling
            the mask shows is outside, with 0.5 the window is about the box of the object.
    """
    height, width = logits.shape[-2:]
    positive = logits > 0
    ends = []
    for side, length in ((positive.any(dim=-2), width), (positive.any(dim=-1), height)):
        first = side.float().argmax(dim=-1)
        last = length - 1 - side.flip(-1).float().argmax(dim=-1)
        ends += [first, last]
    found = torch.stack([*ends, positive.flatten(1).any(dim=-1).long()], dim=-1).cpu().numpy()
    steps = sizes[:, ::-1] / np.array([width, height])
    low = np.floor((found[:, [0, 2]] + 0.5 - reach) * steps)
    high = np.ceil((found[:, [1, 3]] + 0.5 + reach) * steps)
    limits = sizes[:, ::-1]
    windows = np.concatenate([np.clip(low, 0, limits - 1), np.clip(high, 1, limits)], axis=1).astype(np.int64)
    windows[found[:, 4] == 0] = 0
    return windows


def _steps(windows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """The windows by size, large ones in bands of rows, in groups that are computed together.

    Padded to the largest of its group, a group has at most ``PIXELS_AT_ONCE`` pixels (a row that is longer goes alone),
    and less than half of them are padding.

    Yields:
        (n, 5): index of the window, x1, y1, x2, y2; of one window, upper bands first.
    """
    bands = [
        (index, x1, top, x2, min(y2, top + max(1, PIXELS_AT_ONCE // (x2 - x1))))
        for index, (x1, y1, x2, y2) in enumerate(windows.tolist())
        for top in range(y1, y2, max(1, PIXELS_AT_ONCE // (x2 - x1)))
    ]
    group: list[tuple[int, ...]] = []
    wide = high = shown = 0
    for band in sorted(bands, key=lambda band: (band[2] - band[4]) * (band[3] - band[1])):
        width, height = band[3] - band[1], band[4] - band[2]
        padded = (len(group) + 1) * max(wide, width) * max(high, height)
        if group and (padded > PIXELS_AT_ONCE or padded > 2 * (shown + width * height)):
            yield np.array(group)
            group, wide, high, shown = [], 0, 0, 0
        group.append(band)
        wide, high, shown = max(wide, width), max(high, height), shown + width * height
    if group:
        yield np.array(group)


def _weights(
    starts: NDArray[np.int64], count: int, scales: NDArray[np.float32], length: int, device: torch.device
) -> torch.Tensor:
    """How much of each low-resolution pixel is in each pixel of an image, along one side: (n, count, length), float32.

    Args:
        starts: (n,), first pixel of the image.
        count: pixels of the image from there.
        scales: (n,), low-resolution pixels a pixel of the image.
        length: low-resolution pixels.
        device: where the result is.
    """
    places = torch.arange(count, device=device) + torch.from_numpy(starts).to(device)[:, None] + 0.5
    source = (places * torch.from_numpy(scales).to(device)[:, None] - 0.5).clamp(0, length - 1)
    return (1 - (source[..., None] - torch.arange(length, device=device)).abs()).clamp(min=0)

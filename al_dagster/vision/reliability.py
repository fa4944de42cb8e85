"""The reliability diagram: what share of the objects was right, over how sure the detector was."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from al_dagster.vision.calibration import BINS, Bin, reliability_bins

DPI = 90
PANEL_INCHES = 3.8
CURVES = (("raw", "#c0504d", "o"), ("calibrated", "#1f77b4", "s"))


@dataclass(frozen=True)
class Panel:
    """The reviews of one detector.

    Attributes:
        title: the detector.
        confidence: (n,) raw, 0–1.
        calibrated: (n,) probabilities out of fold.
        correct: (n,).
    """

    title: str
    confidence: NDArray[np.float64]
    calibrated: NDArray[np.float64]
    correct: NDArray[np.bool_]


def reliability_diagram(panels: Sequence[Panel]) -> bytes:
    """A panel for each detector: the share that was right in each part of the range, raw and calibrated; PNG.

    The nearer a line is to the diagonal, the more the figure means what it says; below the diagonal the detector is too
    sure of itself. The bars tell how the raw confidence of the reviews is spread.

    Args:
        panels: one or more.
    """
    # Outside pyplot, whose global state is not safe in threads; the figure's own canvas draws without a display.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(PANEL_INCHES * len(panels), PANEL_INCHES + 0.3), layout="constrained")
    grid = figure.subplots(1, len(panels), squeeze=False)
    for axes, panel in zip(grid[0], panels, strict=True):
        axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="confidence", ylabel="share right")
        axes.set_title(panel.title, fontsize=9)
        axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle="--")
        counts, edges = np.histogram(panel.confidence, bins=BINS, range=(0, 1))
        axes.bar(edges[:-1], counts / counts.sum(), 1 / BINS, align="edge", color="grey", alpha=0.25)
        for (name, colour, marker), figures in zip(CURVES, (panel.confidence, panel.calibrated), strict=True):
            bins: list[Bin] = reliability_bins(figures, panel.correct)
            x, y = [part.mean_confidence for part in bins], [part.share_right for part in bins]
            axes.plot(x, y, color=colour, marker=marker, markersize=4, label=name)
        axes.legend(loc="upper left", fontsize=8, title=f"{len(panel.correct)} reviews", title_fontsize=8)
        axes.grid(alpha=0.3)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()

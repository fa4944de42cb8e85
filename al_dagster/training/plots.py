"""Pictures of an evaluation, as small PNG files."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from al_dagster.core.fonts import covering_font
from al_dagster.training.metrics import ClassFigures, Curve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 90
MOST_NUMBERED_CLASSES = 25
MOST_NAMED_CURVES = 20
BACKGROUND = "background"


def precision_recall_plot(curves: Sequence[Curve], rows: Sequence[ClassFigures]) -> bytes:
    """Precision over recall at IoU 0.5, a line for each class that has objects; PNG."""
    figure = _figure(5.6, 4.4)
    axes = figure.add_subplot(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02), title="IoU 0.5")
    shown = [(curve, row) for curve, row in zip(curves, rows, strict=True) if row.objects]
    for curve, row in shown:
        axes.plot(
            [0.0, *curve.recall],
            [*(curve.precision[:1] if curve.precision.size else [0.0]), *curve.precision],
            label=f"{row.name} (AP {row.ap50:.2f})",
        )
    if 0 < len(shown) <= MOST_NAMED_CURVES:
        axes.legend(loc="lower left", fontsize=8)
    axes.grid(alpha=0.3)
    return _png(figure)


def average_precision_plot(rows: Sequence[ClassFigures]) -> bytes:
    """Two bars for each class that has objects: AP at IoU 0.5, and over IoU 0.5 to 0.95; PNG."""
    shown = [row for row in rows if row.objects]
    figure = _figure(5.6, 1.4 + 0.4 * len(shown))
    axes = figure.add_subplot(xlabel="average precision", xlim=(0, 1))
    places = np.arange(len(shown))
    axes.barh(places - 0.2, [row.ap50 or 0.0 for row in shown], 0.38, label="IoU 0.5")
    axes.barh(places + 0.2, [row.ap50_95 or 0.0 for row in shown], 0.38, label="IoU 0.5–0.95")
    axes.set_yticks(places, [f"{row.name} ({row.objects})" for row in shown])
    axes.invert_yaxis()
    figure.legend(loc="outside upper center", ncols=2, fontsize=8)
    return _png(figure)


def confusion_plot(confusion: NDArray[np.int64], classes: Sequence[str], confidence: float) -> bytes:
    """The confusion matrix, each row coloured by its own shares; PNG.

    Args:
        confusion: (classes + 1, classes + 1), rows what an object is, columns what it is taken for, background last.
        classes: class names.
        confidence: the confidence at which it was counted, for the title.
    """
    names = [*classes, BACKGROUND]
    side = min(3.2 + 0.45 * len(names), 14)
    figure = _figure(side + 0.6, side)
    axes = figure.add_subplot(xlabel="detected as", ylabel="is", title=f"confidence {confidence:.2f}, IoU 0.5")
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    if len(names) <= MOST_NUMBERED_CLASSES:
        for (row, column), count in np.ndenumerate(confusion):
            color = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(count), ha="center", va="center", fontsize=8, color=color)
    return _png(figure)


def _figure(width: float, height: float) -> "Figure":
    """A figure outside pyplot, whose global state is not safe in threads; its own canvas draws without a display."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _png(figure: "Figure") -> bytes:
    from matplotlib.font_manager import FontProperties
    from matplotlib.text import Text

    written = figure.findobj(Text)
    path = covering_font(text.get_text() for text in written)
    for text in written:
        text.set_fontproperties(FontProperties(fname=str(path), size=text.get_fontsize()))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from structlog.testing import capture_logs

from al_dagster.core.fonts import covering_font

DRAW = """
import sys
from pathlib import Path
import numpy as np
from al_dagster.core.fonts import covering_font
from al_dagster.training.plots import confusion_plot
for name, classes in (("a", ["\ud55c", "\uae00"]), ("b", ["\uae00", "\ud55c"])):
    Path(sys.argv[1], name + ".png").write_bytes(confusion_plot(np.zeros((3, 3), int), classes, 0.5))
print(covering_font(["\ud55c\uae00 bolt"]))
"""


def test_what_the_standard_font_has_is_written_with_it():
    for texts in (["bolt", "M8 nut"], ["écrou", "Größe"], ["болт"], []):
        assert covering_font(texts).name == "DejaVuSans.ttf"


def make_font(path: Path, shapes: dict[str, int]) -> None:
    """A font with Latin letters and some others, each a bar of a height of its own."""
    characters = [chr(code) for code in range(32, 127)] + list(shapes)
    names = [".notdef", *(f"u{ord(character):04x}" for character in characters)]
    glyphs = {}
    for name, height in zip(names, [700, *(shapes.get(character, 300) for character in characters)], strict=True):
        pen = TTGlyphPen(None)
        pen.moveTo((50, 0))
        for point in ((50, height), (450, height), (450, 0)):
            pen.lineTo(point)
        pen.closePath()
        glyphs[name] = pen.glyph()
    font = FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder(names)
    font.setupCharacterMap(dict(zip(map(ord, characters), names[1:], strict=True)))
    font.setupGlyf(glyphs)
    font.setupHorizontalMetrics(dict.fromkeys(names, (500, 50)))
    font.setupHorizontalHeader(ascent=800, descent=-200)
    font.setupNameTable({"familyName": "Test Hangul", "styleName": "Regular"})
    font.setupOS2()
    font.setupPost()
    path.parent.mkdir(parents=True)
    font.save(path)


@pytest.fixture
def drawn(tmp_path):
    """The font that a machine with one for Korean chooses, and two confusion matrices whose classes are swapped."""
    make_font(tmp_path / "data" / "fonts" / "hangul.ttf", {"\ud55c": 800, "\uae00": 100})
    environment = {**os.environ, "XDG_DATA_HOME": str(tmp_path / "data"), "MPLCONFIGDIR": str(tmp_path / "mpl")}
    command = [sys.executable, "-c", DRAW, str(tmp_path)]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120)
    return said.stdout.strip(), (tmp_path / "a.png").read_bytes(), (tmp_path / "b.png").read_bytes()


def test_korean_is_written_with_a_font_that_has_it_and_differs_from_other_korean(drawn):
    chosen, first, second = drawn
    assert chosen.endswith("hangul.ttf")
    assert first != second


def test_what_no_font_has_is_said_once():
    with capture_logs() as logged:
        for _ in range(2):
            covering_font(["\U000f0001"])
    (warning,) = logged
    assert warning["event"].startswith("no font of this machine has these characters")
    assert warning["characters"] == "\U000f0001"

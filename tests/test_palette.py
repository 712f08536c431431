"""The colours of the figures, as the colour-blind see them, and in grey.

Distances are Euclidean in CAM02-UCS, where 1 is about a just noticeable difference; the
simulation of a missing cone is that of Machado, Oliveira and Fernandes (2009), at full severity.
"""

import itertools

import matplotlib
import numpy as np
import pytest
from colorspacious import cspace_convert

from gfnlite import plots

APART = 10  # of any two colours of the palette: large areas and lines stay told apart
CLEARLY = 45  # of blue and orange, which stand for opposites throughout the book
SEEN = ["normal", "protanomaly", "deuteranomaly", "tritanomaly"]


def as_seen(colour, sight):
    """A colour in CAM02-UCS, as somebody with that sight sees it."""
    rgb = np.array(matplotlib.colors.to_rgb(colour))
    if sight != "normal":
        space = {"name": "sRGB1+CVD", "cvd_type": sight, "severity": 100}
        rgb = cspace_convert(rgb, space, "sRGB1").clip(0, 1)
    return cspace_convert(rgb, "sRGB1", "CAM02-UCS")


def closest(colours, sight):
    """The least distance of two of the colours, and which they are."""
    pairs = itertools.combinations(colours, 2)
    return min(
        (float(np.linalg.norm(as_seen(a, sight) - as_seen(b, sight))), a, b) for a, b in pairs
    )


def lightness(colour):
    """L* of a colour, from 0 (black) to 100: all that is left of it on a grey printer."""
    return float(cspace_convert(matplotlib.colors.to_rgb(colour), "sRGB1", "CIELab")[0])


@pytest.fixture
def palette():
    with matplotlib.rc_context():
        plots.style()
        return matplotlib.rcParams["axes.prop_cycle"].by_key()["color"]


@pytest.mark.parametrize("sight", SEEN)
def test_every_eye_tells_the_colours_apart(palette, sight):
    named = [plots.BLUE, plots.ORANGE, plots.GREEN]
    assert [matplotlib.colors.to_hex(c) for c in palette[:3]] == [c.lower() for c in named]
    assert closest(palette, sight)[0] > APART
    assert closest([*named, plots.GREY, "black", "white"], sight)[0] > APART
    assert closest([plots.BLUE, plots.ORANGE], sight)[0] > CLEARLY


def test_red_and_green_would_be_found():
    red, green = "#d62728", "#2ca02c"  # of matplotlib's own palette
    assert closest([red, green], "normal")[0] > CLEARLY
    assert closest([red, green], "deuteranomaly")[0] < APART


def test_what_grey_leaves_of_the_colours():
    """On a grey printer blue and orange differ by a little; the rest by marker and line alone."""
    shade = {name: lightness(getattr(plots, name)) for name in ("BLUE", "ORANGE", "GREEN", "GREY")}
    assert shade["ORANGE"] - shade["BLUE"] > 8
    assert all(value < 62 for value in shade.values())  # dark enough to be seen on white
    too_near = {
        frozenset(pair)
        for pair in itertools.combinations(shade, 2)
        if abs(shade[pair[0]] - shade[pair[1]]) < 8
    }
    assert too_near == {frozenset({"ORANGE", "GREEN"}), frozenset({"BLUE", "GREY"})}
    assert "In grey" in plots.__doc__  # and says so

"""The moving picture: where each point is at which time, and what moves for nobody."""

import xml.etree.ElementTree as ElementTree

import pytest
import torch

import gfnlite as gl
from gfnlite.film import FRAMES, SIZE, film

SVG = "{http://www.w3.org/2000/svg}"


def test_points_go_where_the_trajectories_go(tmp_path):
    x = torch.zeros(FRAMES, 2, 2)
    x[:, 0, 0] = torch.linspace(0, 10, FRAMES)  # to the right
    x[:, 1, 1] = torch.linspace(0, 5, FRAMES)  # up, to the middle level
    film(tmp_path, gl.gmm25, x, 12.5, "emblem")
    root = ElementTree.parse(tmp_path / "emblem.svg").getroot()
    rings, dots = root.findall(f"{SVG}g")
    assert len(rings) == 25
    right, up = dots
    scale = SIZE / 25
    (across, down) = right.findall(f"{SVG}animate")
    assert across.get("values").split(";")[0] == down.get("values").split(";")[-1] == str(SIZE // 2)
    assert int(across.get("values").split(";")[-1]) == round(SIZE / 2 + 10 * scale)
    assert int(up.get("cy")) == round(SIZE / 2 - 5 * scale)  # a picture's y points down
    assert right.get("fill") != up.get("fill")
    still = (tmp_path / "emblem-still.svg").read_text()
    assert "animate" not in still and still.count("<circle") == 27


def test_only_the_plane_has_a_film(tmp_path):
    with pytest.raises(ValueError, match=r"x has the shape \(3, 2, 1\)"):
        film(tmp_path, gl.gmm25, torch.zeros(3, 2, 1), 1.0)
    assert not list(tmp_path.iterdir())

"""explore: a figure with sliders, live and with no kernel."""

import json
import re

import matplotlib.pyplot as plt
import pytest

from gfnlite.interactive import explore


def line(slope=1, colour="blue"):
    figure, ax = plt.subplots(figsize=(2, 1))
    ax.plot([0, 1], [0, slope], color=colour)
    return figure


AXES = {"slope": [1, 2, 3], "colour": ["blue", "</script>"]}


def test_all_figures_are_in_the_page_and_nothing_in_it_is_code(monkeypatch):
    monkeypatch.setenv("GFNLITE_STATIC", "1")
    drawn = []

    def figure(slope, colour):
        drawn.append((slope, colour))
        return line(slope)

    page = explore(figure, lambda slope, colour: f"slope {slope}, {colour}", **AXES).data
    assert drawn == [(s, c) for s in (1, 2, 3) for c in ("blue", "</script>")]
    held = re.search(r"<script type=\"application/json\">(.*?)</script>", page, re.S)[1]
    data = json.loads(held)
    assert data["values"] == [["1", "2", "3"], ["blue", "</script>"]]
    assert data["alts"][3] == "slope 2, </script>" and len(data["frames"]) == 6
    assert data["frames"][0] == data["frames"][1] != data["frames"][2]
    assert page.count('type="range"') == 2 and page.count("</script>") == 2
    assert not plt.get_fignums()


def test_in_jupyter_one_figure_is_drawn_at_a_time(monkeypatch):
    monkeypatch.delenv("GFNLITE_STATIC", raising=False)
    drawn = []

    def figure(slope):
        drawn.append(slope)
        return line(slope)

    box = explore(figure, "a line", slope=[1, 2, 3])
    assert drawn == [1]
    box.children[0].value = 3
    assert drawn == [1, 3] and not plt.get_fignums()


@pytest.mark.parametrize("axes, message", [
    ({}, "axes must be one or more"), ({"slope": []}, "each with values"),
    ({"slope": range(21)}, "21 figures are more than the 20"),
])  # fmt: skip
def test_bad_axes_are_one_clear_error(axes, message, monkeypatch):
    monkeypatch.setenv("GFNLITE_STATIC", "1")
    with pytest.raises(ValueError, match=message):
        explore(line, "a line", **axes)


def test_a_page_stays_small(monkeypatch):
    monkeypatch.setenv("GFNLITE_STATIC", "1")
    monkeypatch.setattr("gfnlite.interactive.BYTES", 1000)
    with pytest.raises(ValueError, match="are more than the 1,000 of a page"):
        explore(line, "a line", slope=[1])

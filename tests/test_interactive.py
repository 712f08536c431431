"""Figures with sliders and processes with a button, live and with no kernel."""

import json
import re
import threading

import matplotlib.pyplot as plt
import pytest
from matplotlib.figure import Figure

from gfnlite.interactive import explore, watch


def line(slope=1, colour="blue"):
    figure, ax = plt.subplots(figsize=(2, 1))
    ax.plot([0, 1], [0, slope], color=colour)
    return figure


@pytest.fixture(autouse=True)
def no_figure_of_another_test():
    plt.close("all")


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
    assert 'alt="a line"' in box.children[1].value


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


@pytest.fixture
def counted(monkeypatch):
    """A process of four figures, whose steps can be held up, and what it has drawn."""
    monkeypatch.delenv("GFNLITE_STATIC", raising=False)
    drawn, gate = [], threading.Event()
    gate.set()

    def process(speed):
        for step in range(4):
            if step:
                assert gate.wait(10)
            drawn.append((speed, step))
            figure = Figure((1, 1))
            figure.subplots().set_title(f"step {step} of\n<{speed}>")
            yield figure

    process.drawn, process.gate = drawn, gate
    return process


def test_a_process_is_started_watched_and_begun_again(counted):
    box = watch(counted, speed=["slow", "fast"])
    slider, button, picture = box.children
    assert counted.drawn == [("slow", 0)]
    assert 'alt="step 0 of &lt;slow&gt;"' in picture.value
    slider.value = "fast"
    assert counted.drawn[1:] == [("fast", 0)]
    button.click()
    thread(box).join(10)
    assert counted.drawn[1:] == [("fast", step) for step in range(4)]
    assert "step 3" in picture.value and button.description == "Start"
    button.click()  # all over again
    thread(box).join(10)
    assert counted.drawn[5:] == [("fast", step) for step in range(4)]


def thread(box):
    return box.children[1]._click_handlers.callbacks[0].__self__.thread


def test_a_process_can_be_stopped_and_gone_on_with(counted):
    box = watch(counted, speed=["slow"])
    _, button, picture = box.children
    counted.gate.clear()
    button.click()
    assert button.description == "Stop"
    threading.Timer(0.2, counted.gate.set).start()
    button.click()  # waits for the figure that is being made
    assert counted.drawn == [("slow", 0), ("slow", 1)]
    assert button.description == "Start" and "step 1" in picture.value
    button.click()
    thread(box).join(10)
    assert counted.drawn == [("slow", step) for step in range(4)]


def test_an_error_in_a_process_is_shown(counted):
    def fails(speed):
        yield Figure((1, 1))
        raise ValueError("<no more>")

    box = watch(fails, speed=[1])
    box.children[1].click()
    thread(box).join(10)
    assert "ValueError: &lt;no more&gt;" in box.children[2].value


def test_in_a_page_the_end_of_a_process_stands_for_it(counted, monkeypatch):
    monkeypatch.setenv("GFNLITE_STATIC", "1")
    page = watch(counted, speed=["slow", "<fast>"]).data
    assert counted.drawn == [("slow", step) for step in range(4)]
    assert "step 3" in page and "step 2" not in page and "speed: slow, &lt;fast&gt;" in page
    with pytest.raises(ValueError, match="axes must be one or more"):
        watch(counted)


@pytest.mark.parametrize("size, kind", [((9.5, 4.0), "wide"), ((5.0, 2.0), ""), ((8.0, 7.5), "")])
def test_only_a_figure_of_several_panels_is_wide(size, kind, monkeypatch):
    monkeypatch.setenv("GFNLITE_STATIC", "1")
    page = explore(lambda step: plt.figure(figsize=size), "a figure", step=[1, 2]).data
    assert f'<img class="{kind}" ' in page

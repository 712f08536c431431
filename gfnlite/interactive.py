"""Figures with sliders, live in Jupyter and of use in a page with no kernel.

`explore` has a figure for each value: in a page it still moves. `watch` has a process, such as a
training, that is started and seen at work: in a page its end stands for it.
"""

import base64
import html
import inspect
import io
import itertools
import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence

from .extras import need

__all__ = ["explore", "watch"]

FRAMES, BYTES = 20, 1_500_000  # of one figure in a page
SCRIPT = """
(function () {
  const box = document.currentScript.parentNode, image = box.querySelector("img");
  const sliders = [...box.querySelectorAll("input")];
  const data = JSON.parse(box.querySelector("script[type='application/json']").textContent);
  function show() {
    let frame = 0;
    sliders.forEach((slider, k) => {
      const text = data.values[k][slider.value];
      frame = frame * data.values[k].length + Number(slider.value);
      slider.nextElementSibling.textContent = text;
      slider.setAttribute("aria-valuetext", text);
    });
    image.src = data.frames[frame];
    image.alt = data.alts[frame];
  }
  sliders.forEach((slider) => slider.addEventListener("input", show));
  show();
})();
"""


def explore(
    figure: Callable, alt: str | Callable[..., str], dpi: int = 110, **axes: Sequence
) -> object:
    """A figure for each value of one slider or several: the last line of a cell shows it.

    In Jupyter the figure is drawn as a slider moves. Where the environment variable GFNLITE_STATIC
    is 1, as in the book's build and in batch runs, all figures are drawn at once and the slider
    needs no kernel.

    Args:
        figure: takes one value of each axis by name, and returns a matplotlib figure.
        alt: what the figure shows, for who cannot see it; a text, or a function like `figure`.
        dpi: resolution of the figures drawn ahead.
        **axes: the values of each slider, by name; words or numbers.

    Raises:
        ValueError: if there is no axis, one is empty, or there are more figures than a page holds.
    """
    axes = _checked(axes)
    if os.environ.get("GFNLITE_STATIC") == "1":
        return need("IPython.display", "widgets").HTML(_static(figure, alt, dpi, axes))
    return _live(figure, alt, axes)


def _checked(axes) -> dict[str, list]:
    axes = {name: list(values) for name, values in axes.items()}
    if not axes or not all(axes.values()):
        raise ValueError(f"axes must be one or more, each with values, got {axes}")
    return axes


def _static(figure, alt, dpi, axes) -> str:
    points = [dict(zip(axes, point, strict=True)) for point in itertools.product(*axes.values())]
    if len(points) > FRAMES:
        raise ValueError(f"{len(points)} figures are more than the {FRAMES} that a page holds")
    figures = [figure(**point) for point in points]
    frames = [_picture(drawn, dpi) for drawn in figures]
    if (size := sum(map(len, frames))) > BYTES:
        raise ValueError(f"figures of {size:,} bytes are more than the {BYTES:,} of a page")
    alts = [alt(**point) if callable(alt) else alt for point in points]
    data = {"values": [list(map(str, values)) for values in axes.values()]}
    data |= {"frames": frames, "alts": alts}
    rows = "".join(
        f'<label>{html.escape(name.replace("_", " "))} <input type="range" min="0" '
        f'max="{len(values) - 1}" value="0"><output>{html.escape(str(values[0]))}</output></label>'
        for name, values in axes.items()
    )
    held = json.dumps(data).replace("<", "\\u003c")  # no value ends the script
    kind = wide(*figures[0].get_size_inches())
    return (
        f'<div class="explore">{rows}<div><img class="{kind}" src="{frames[0]}" '
        f'alt="{html.escape(alts[0])}"></div>'
        f'<script type="application/json">{held}</script><script>{SCRIPT}</script></div>'
    )


def _picture(figure, dpi) -> str:
    plt = need("matplotlib.pyplot", "plots")

    buffer = io.BytesIO()
    # A third of what it is as PNG, to the pixel the same.
    figure.savefig(buffer, format="webp", dpi=dpi, pil_kwargs={"lossless": True})
    plt.close(figure)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def _live(figure, alt, axes):
    ipywidgets = need("ipywidgets", "widgets")

    picture, sliders = ipywidgets.HTML(), _sliders(axes)

    def draw(_change=None):
        point = {name: slider.value for name, slider in sliders.items()}
        picture.value = _image(figure(**point), alt(**point) if callable(alt) else alt)

    for slider in sliders.values():
        slider.observe(draw, "value")
    draw()
    return ipywidgets.VBox([*sliders.values(), picture])


def watch(process: Callable[..., Iterator], **axes: Sequence) -> object:
    """A process that can be set, started, watched and stopped: the last line of a cell shows it.

    In Jupyter it has a slider for each axis and a button. A slider that moves shows the first
    figure of the process with the new values; the button goes on with the others, or stops them.
    Where GFNLITE_STATIC is 1 its last figure stands there, for the first value of each axis.

    Args:
        process: takes one value of each axis by name, and is a generator of matplotlib figures.
            All but the first are drawn in a thread: make them with `matplotlib.figure.Figure`.
        **axes: the values of each slider, by name; words or numbers.

    Raises:
        ValueError: if there is no axis, or one is empty.
    """
    axes = _checked(axes)
    if os.environ.get("GFNLITE_STATIC") == "1":
        plt = need("matplotlib.pyplot", "plots")
        page = need("IPython.display", "widgets").HTML
        for figure in process(**{name: values[0] for name, values in axes.items()}):
            plt.close(figure)
        named = (f"{name.replace('_', ' ')}: {', '.join(map(str, v))}" for name, v in axes.items())
        said = html.escape("In Jupyter this can be set and started. " + "; ".join(named) + ".")
        image = _image(figure, _titles(figure))
        return page(f'<div class="explore"><div>{image}</div><p>{said}</p></div>')
    return _Watch(process, axes).box


class _Watch:
    """The live face of `watch`."""

    def __init__(self, process, axes):
        ipywidgets = need("ipywidgets", "widgets")

        self.process, self.sliders = process, _sliders(axes)
        self.picture = ipywidgets.HTML()
        self.button = ipywidgets.Button(description="Start", icon="play")
        self.box = ipywidgets.VBox([*self.sliders.values(), self.button, self.picture])
        self.thread, self.wanted = None, False
        for slider in self.sliders.values():
            slider.observe(self.begin, "value")
        self.button.on_click(self.press)
        self.begin()

    def begin(self, _change=None):
        """A new process, and its first figure; one that runs is stopped."""
        self.stop()
        self.figures = self.process(**{name: s.value for name, s in self.sliders.items()})
        self.show(next(self.figures))

    def press(self, _button=None):
        if self.thread is not None and self.thread.is_alive():
            self.stop()
            return
        if inspect.getgeneratorstate(self.figures) == inspect.GEN_CLOSED:
            self.begin()
        self.wanted = True
        self.button.description, self.button.icon = "Stop", "stop"
        self.thread = threading.Thread(target=self.go_on, daemon=True)
        self.thread.start()

    def stop(self):
        self.wanted = False
        if self.thread is not None:
            self.thread.join()

    def go_on(self):
        try:
            while self.wanted:
                self.show(next(self.figures))
        except StopIteration:
            pass
        except Exception as error:  # in a thread nobody would see it
            said = html.escape(f"{type(error).__name__}: {error}")
            self.picture.value += f'<p role="alert">{said}</p>'
        finally:
            self.button.description, self.button.icon = "Start", "play"

    def show(self, figure):
        self.picture.value = _image(figure, _titles(figure))


def _sliders(axes):
    ipywidgets = need("ipywidgets", "widgets")

    return {
        name: ipywidgets.SelectionSlider(
            options=values, description=name.replace("_", " "), continuous_update=False,
            style={"description_width": "initial"},
        )
        for name, values in axes.items()
    }  # fmt: skip


def _titles(figure) -> str:
    """The words above the panels of a figure: its message, for who cannot see it."""
    titles = [figure.get_suptitle(), *(ax.get_title() for ax in figure.axes)]
    return "; ".join(" ".join(title.split()) for title in titles if title)


def _image(figure, alt, dpi=110) -> str:
    fits = "max-width: 100%; height: auto"  # where no style sheet of the book's does it
    kind, alt = wide(*figure.get_size_inches()), html.escape(alt)
    return f'<img class="{kind}" src="{_picture(figure, dpi)}" alt="{alt}" style="{fits}">'


def wide(width: float, height: float) -> str:
    """The class of a figure of so many inches: "wide", of several panels, or none.

    A wide one is too small on a phone: there the book lets it scroll (see book.css).
    """
    return "wide" if width > max(7.0, 1.6 * height) else ""

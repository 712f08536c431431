"""explore: one figure with sliders, live in Jupyter and still moving in a page with no kernel."""

import base64
import html
import io
import itertools
import json
import os
from collections.abc import Callable, Sequence

__all__ = ["explore"]

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
    figure: Callable, alt: str | Callable[..., str], dpi: int = 80, **axes: Sequence
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
    axes = {name: list(values) for name, values in axes.items()}
    if not axes or not all(axes.values()):
        raise ValueError(f"axes must be one or more, each with values, got {axes}")
    if os.environ.get("GFNLITE_STATIC") == "1":
        from IPython.display import HTML

        return HTML(_static(figure, alt, dpi, axes))
    return _live(figure, axes)


def _static(figure, alt, dpi, axes) -> str:
    points = [dict(zip(axes, point, strict=True)) for point in itertools.product(*axes.values())]
    if len(points) > FRAMES:
        raise ValueError(f"{len(points)} figures are more than the {FRAMES} that a page holds")
    frames = [_png(figure(**point), dpi) for point in points]
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
    return (
        f'<div class="explore">{rows}<img src="{frames[0]}" alt="{html.escape(alts[0])}">'
        f'<script type="application/json">{held}</script><script>{SCRIPT}</script></div>'
    )


def _png(figure, dpi) -> str:
    import matplotlib.pyplot as plt

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    plt.close(figure)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _live(figure, axes):
    import ipywidgets
    import matplotlib.pyplot as plt
    from IPython.display import display

    out = ipywidgets.Output()
    sliders = {
        name: ipywidgets.SelectionSlider(
            options=values, description=name.replace("_", " "), continuous_update=False
        )
        for name, values in axes.items()
    }

    def draw(_change=None):
        with out:
            out.clear_output(wait=True)
            drawn = figure(**{name: slider.value for name, slider in sliders.items()})
            plt.close(drawn)
            display(drawn)

    for slider in sliders.values():
        slider.observe(draw, "value")
    draw()
    return ipywidgets.VBox([*sliders.values(), out])

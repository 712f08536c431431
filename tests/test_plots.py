"""Pictures of any target: what is drawn is where it should be."""

import matplotlib
import matplotlib.pyplot as plt
import torch

import gfnlite as gl
from gfnlite.targets import LogGaussianCox

matplotlib.use("agg")


def test_the_intensity_of_a_cox_process_is_drawn_where_its_data_are():
    target = LogGaussianCox(torch.tensor([[0.9, 0.1]]), grid=5)  # in cell (4, 0) of 5 x 5
    x = torch.zeros(3, 25)
    x[:, 4 * 5] = 2.0
    axes = gl.plots.overview(target, x)
    picture = axes.images[0].get_array()
    assert picture.shape == (5, 5) and picture.argmax() == 0 * 5 + 4  # [y, x], and y goes up
    dot = axes.lines[0].get_xydata()[0]
    assert dot.tolist() == torch.tensor([0.9, 0.1]).tolist()


def test_the_funnel_is_drawn_over_exact_samples_and_a_mixture_on_its_contours():
    x = gl.named_target("funnel").sample(100)
    axes = gl.plots.overview(gl.named_target("funnel"), x)
    exact, own = (part.get_offsets() for part in axes.collections)
    assert len(exact) == 2000 and torch.equal(torch.tensor(own.data), x[:, :2].double())
    flat = gl.plots.overview(gl.gmm25, torch.zeros(10, 2))
    assert flat.get_xlim()[1] > 11 and flat.get_aspect() == 1


def test_a_marginal_shows_one_coordinate_beside_exact_samples():
    x = torch.stack([torch.zeros(50), torch.linspace(-1, 1, 50)], 1)
    axes = gl.plots.marginal(gl.gmm9, x, coordinate=1)
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert sorted(labels) == ["exact", "samples"] and axes.get_xlabel() == "$x_{2}$"
    unknown = gl.plots.marginal(gl.named_target("lgcp"), torch.randn(20, 1600))
    assert [text.get_text() for text in unknown.get_legend().get_texts()] == ["samples"]


def test_a_light_figure_is_shown_as_lines_and_a_heavy_one_as_pixels(generator):
    gl.plots.style()
    heights = torch.randn(20_000, generator=generator)

    def shown(points):
        figure, ax = plt.subplots()
        ax.plot(range(points), heights[:points], ".")
        plt.close(figure)
        return figure._repr_svg_()

    assert shown(10).startswith("<?xml") and shown(10) == shown(10)
    assert shown(20_000) is None

"""Figures in one style: white faces in light and dark pages, colours safe for the colour-blind.

Each function draws into the axes it is given, or makes a figure, and returns the axes. The message
goes into the title, so the caller writes it. Needs the extra `plots` (matplotlib, seaborn).

In grey, orange is as light as green and blue as grey: where they meet, let markers or lines differ.
"""

import io
from collections.abc import Sequence

import torch
from torch import Tensor

from .bayes import LogGaussianCox
from .extras import need
from .targets import Target

__all__ = [
    "density", "history", "images", "log_weights", "marginal", "mode_weights", "overview",
    "rank_histogram", "samples", "style", "trajectories",
]  # fmt: skip

LIGHT = 120_000  # bytes of an SVG
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"


def style() -> None:
    """Set the book's figure style for every figure made from now on."""
    sns = need("seaborn", "plots")

    sns.set_theme(
        context="notebook",
        style="ticks",
        palette=[BLUE, ORANGE, GREEN, "#CC79A7", "#E69F00", "#56B4E9"],
        rc={
            "figure.facecolor": "white",
            "savefig.facecolor": "white",
            "figure.constrained_layout.use": True,
            "figure.dpi": 150,  # twice what a page shows: sharp on every screen
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": 11,
            "axes.titleweight": "bold",
            "axes.labelsize": 10,
            "legend.fontsize": 9,
            "legend.frameon": False,
            "image.cmap": "cividis",
            "svg.hashsalt": "gfnlite",  # the same figure is the same file
        },
    )
    _show_light_figures_as_svg()


def _show_light_figures_as_svg() -> None:
    """In a notebook: lines and letters sharp at every size, where that is no larger than pixels."""
    from matplotlib.figure import Figure

    def svg(figure: Figure) -> str | None:
        made = io.StringIO()
        figure.savefig(made, format="svg", bbox_inches="tight", metadata={"Date": None})
        return made.getvalue() if made.tell() < LIGHT else None

    # The name that IPython looks for; a formatter of its own for figures would be reset by the
    # backend that draws them in the page.
    Figure._repr_svg_ = svg


def _axes(ax, size=(6.2, 3.6)):
    plt = need("matplotlib.pyplot", "plots")

    return plt.subplots(figsize=size)[1] if ax is None else ax


@torch.no_grad()
def density(target: Target, limit: float, ax=None, points: int = 400):
    """Contours of R(x) for d = 2, on the square [-limit, limit]^2.

    Raises:
        TypeError: if the target is not a `Target`.
        ValueError: if it is not two-dimensional.
    """
    if not isinstance(target, Target):
        raise TypeError(
            f"contours need a Target, got {type(target).__name__}: "
            "pass sampler.target, or gl.targets.as_target(energy, dim=2)"
        )
    if target.dim != 2:
        raise ValueError(f"target '{target.name}' has dim={target.dim}; contours need dim=2")
    ax = _axes(ax, (4.2, 4.2))
    target = target.to("cpu")
    axis = torch.linspace(-limit, limit, points)
    log_r = target.log_reward(torch.cartesian_prod(axis, axis)).view(points, points).T
    # 1, 2 and 3 standard deviations of a Gaussian mode: its width, not its tails.
    levels = log_r.max() - torch.tensor([4.5, 2.0, 0.5])
    # Solid: where log R is negative, matplotlib would dash the lines.
    style = {"colors": GREY, "linewidths": 0.5, "linestyles": "solid"}
    ax.contour(axis, axis, log_r, levels=levels.tolist(), **style)
    ax.set(xlabel="$x_1$", ylabel="$x_2$", aspect="equal")
    return ax


def samples(target: Target, x: Tensor, limit: float, ax=None, label: str | None = None):
    """Points x (B, 2) on the target's contours; raises as `density`."""
    ax = density(target, limit, ax)
    ax.scatter(*x.cpu().T, s=3, color=BLUE, alpha=0.5, linewidths=0, label=label)
    ax.set(xlim=(-limit, limit), ylim=(-limit, limit))
    return ax


def overview(target: Target, x: Tensor, ax=None):
    """Samples x (B, d) of any target, in the way that shows most of it.

    On its contours for d = 2; as the mean intensity, with the data, for a Cox process; or else in
    the first two coordinates, over exact samples where there are some.
    """
    ax, x = _axes(ax, (4.2, 4.2)), x.cpu()
    if isinstance(target, LogGaussianCox):
        return _intensity(target.to("cpu"), x, ax)
    exact = _exact(target)
    reach = 1.2 * (x if exact is None else exact)[:, 0].abs().quantile(0.999).item()
    if target.dim == 2:
        return samples(target, x, reach, ax)
    if exact is not None:
        ax.scatter(*exact[:, :2].T, s=3, color=GREY, alpha=0.3, linewidths=0, label="exact")
    ax.scatter(*x[:, :2].T, s=3, color=BLUE, alpha=0.5, linewidths=0, label="samples")
    ax.set(xlabel="$x_1$", ylabel="$x_2$", xlim=(-reach, reach), ylim=(-reach, reach))
    ax.legend(markerscale=4)
    return ax


def _exact(target: Target, n: int = 2000) -> Tensor | None:
    """The same exact samples (n, d) every time, on the CPU; None where they cannot be had."""
    target = target.to("cpu")
    return target.sample and target.sample(n, torch.Generator().manual_seed(0))


def _intensity(target: LogGaussianCox, x: Tensor, ax):
    plt = need("matplotlib.pyplot", "plots")

    side = round(target.dim**0.5)
    mean = target.field(x).exp().mean(0).view(side, side).T  # imshow has (y, x)
    options = {"origin": "lower", "extent": (0, 1, 0, 1)}
    picture = ax.imshow(mean, **options, vmax=mean.quantile(0.995).item())
    row, column = target.counts.view(side, side).nonzero().T
    place = ((row + 0.5) / side, (column + 0.5) / side)
    ax.plot(*place, ".", markersize=4, color="white", label="data")
    plt.colorbar(picture, ax=ax, label="mean intensity, points per unit area")
    ax.set(xlabel="$s_1$", ylabel="$s_2$")
    return ax


def marginal(target: Target, x: Tensor, ax=None, coordinate: int = 0):
    """Histogram of one coordinate of samples x (B, d), and of exact samples if there are some."""
    ax, exact = _axes(ax), _exact(target)
    values = x[:, coordinate].cpu()
    both = values if exact is None else torch.cat([values, exact[:, coordinate]])
    low, high = both.quantile(0.001).item(), both.quantile(0.999).item()
    options = {"range": (low, high), "bins": 50, "density": True}
    ax.hist(values, **options, color=BLUE, alpha=0.5, label="samples")
    if exact is not None:
        ax.hist(exact[:, coordinate], **options, color="black", histtype="step", label="exact")
    ax.set(xlabel=f"$x_{{{coordinate + 1}}}$", ylabel="density")
    ax.legend()
    return ax


def trajectories(t: Tensor, x: Tensor, ax=None, coordinate: int = 0, count: int = 60):
    """One coordinate of the first `count` trajectories x (T + 1, B, d) over time t (T + 1,)."""
    ax = _axes(ax)
    ax.plot(t.cpu(), x[:, :count, coordinate].cpu(), color=BLUE, alpha=0.35, linewidth=0.6)
    ax.set(xlabel="time $t$", ylabel=f"$x_{coordinate + 1}$", xlim=(0, 1))
    return ax


def history(entries: Sequence[dict], log_z: float | None = None, ax=None):
    """ELBO and EUBO over training; where log Z is known, how far they are from it."""
    import numpy as np

    ax = _axes(ax)
    iteration, zero = [entry["iteration"] for entry in entries], log_z or 0.0
    for name, colour in (("elbo", BLUE), ("eubo", ORANGE)):
        values = [entry[name] for entry in entries]
        if None not in values:
            away = [value - zero for value in values]
            ax.plot(iteration, away, color=colour, label=name.upper())
    if log_z is not None:
        ax.axhline(0, color="black", linewidth=0.8, linestyle="--", label=r"true $\log Z$")
        # Linear within a tenth of a nat, logarithmic beyond: last tenths and first hundreds show.
        shrink = (lambda y: np.arcsinh(y / 0.1), lambda y: np.sinh(y) * 0.1)
        ax.set_yscale("function", functions=shrink)
        low, high = ax.get_ylim()
        powers = [10.0**k for k in range(-1, 7)]
        ticks = [-tick for tick in reversed(powers)] + [0] + powers
        ax.set_yticks([tick for tick in ticks if low <= tick <= high])
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    ax.set(xlabel="iteration", ylabel="nats" if log_z is None else r"nats from $\log Z$")
    ax.legend(frameon=True, framealpha=1, edgecolor="none")  # may lie on a curve
    return ax


def log_weights(generated: Tensor, destroyed: Tensor | None = None, log_z=None, ax=None):
    """Histograms of log w of trajectories from P_F and, if given, from P_B (each (B,))."""
    sns = need("seaborn", "plots")

    ax = _axes(ax)
    groups = [(generated, BLUE, "generated (mean: ELBO)")]
    if destroyed is not None:
        groups.append((destroyed, ORANGE, "destroyed (mean: EUBO)"))
    both = torch.cat([values.cpu() for values, *_ in groups])
    low, high = both.quantile(0.0005).item(), both.quantile(0.9995).item()
    for values, colour, label in groups:
        # What lies outside the range is counted in the end bins, not dropped.
        sns.histplot(
            values.cpu().clamp(low, high).numpy(), binrange=(low, high), bins=60, stat="density",
            element="step", color=colour, alpha=0.25, label=label, ax=ax,
        )  # fmt: skip
    if log_z is not None:
        ax.axvline(log_z, color="black", linewidth=0.8, linestyle="--", label=r"true $\log Z$")
    ax.set(xlabel=r"log-weight $\log w$ (nats)", ylabel="density")
    ax.legend()
    return ax


def mode_weights(weights: Sequence[float], mass: Tensor, ax=None):
    """Share of the samples in each mode, as a fraction of the mode's exact mass."""
    ax = _axes(ax)
    relative = torch.as_tensor(weights) / mass.cpu()
    order = relative.argsort(descending=True)
    found = relative[order] >= 0.2
    colours = [BLUE if mode else ORANGE for mode in found]
    ax.bar(range(len(order)), relative[order], color=colours, width=0.8)
    ax.axhline(1, color="black", linewidth=0.8, linestyle="--", label="exact mass")
    ax.axhline(0.2, color=GREY, linewidth=0.8, linestyle=":", label="counted as found")
    ax.set(xlabel="modes, most sampled first", ylabel="weight / exact mass", xticks=[])
    ax.legend()
    return ax


def images(x: Tensor, ax=None, columns: int = 10):
    """Square pictures x (N, pixels) with values in [0, 1], row by row, dark on white."""
    side = round(x.shape[1] ** 0.5)
    rows = -(-len(x) // columns)
    sheet = x.new_zeros(rows * columns, side, side)
    sheet[: len(x)] = x.view(-1, side, side)
    sheet = sheet.view(rows, columns, side, side).transpose(1, 2).reshape(rows * side, -1)
    ax = _axes(ax, (0.55 * columns, 0.55 * rows))
    ax.imshow(sheet.cpu(), cmap="gray_r", vmin=0, vmax=1)
    ax.axis("off")
    return ax


def rank_histogram(ranks: Tensor, draws: int, ax=None, bins: int = 16):
    """How often each rank (n,) in 0..draws comes, with the band that 95% of right bars are in."""
    binom = need("scipy.stats", "plots").binom
    ax = _axes(ax)
    n, width = len(ranks), (draws + 1) / bins
    low, high = binom.interval(0.95, n, 1 / bins)
    ax.axhspan(low, high, color=GREY, alpha=0.25, linewidth=0, label="95% of right samplers")
    counts = torch.histc(ranks.float().cpu(), bins, -0.5, draws + 0.5)
    ax.bar((torch.arange(bins) + 0.5) * width - 0.5, counts, 0.9 * width, color=BLUE)
    ax.set(xlabel="rank of an exact draw among the sampler's", ylabel="draws")
    ax.set_ylim(top=1.25 * max(high, counts.max().item()))  # room for the legend
    ax.legend()
    return ax

"""Trajectories in the plane as a moving picture: one SVG that plays once, and one that is still."""

from pathlib import Path

import torch
from torch import Tensor

from .files import write_bytes
from .plots import BLUE, GREEN, GREY, ORANGE
from .targets import GMM

__all__ = ["film"]

SIZE, RADIUS, FRAMES, COLOURS = 720, 3, 26, (BLUE, GREEN, ORANGE)
SECONDS = 4  # below five; what moves for longer must have a button that stops it


def film(folder: str | Path, target: GMM, x: Tensor, limit: float, name: str = "film") -> None:
    """Write trajectories as folder/name.svg, which plays once, and folder/name-still.svg, the end.

    A point has the colour of how far out its mode is; a mode is a ring of two standard deviations.
    The ground is transparent.

    Args:
        folder: where to write.
        target: a mixture in the plane, whose modes are drawn.
        x: states (T + 1, B, 2) at equal steps of time.
        limit: shown is the square [-limit, limit]^2.
        name: of both files.

    Raises:
        ValueError: if the states are not in the plane.
    """
    if x.dim() != 3 or x.shape[2] != 2:
        raise ValueError(f"x has the shape {tuple(x.shape)}; a film needs (T + 1, B, 2)")
    scale = SIZE / 2 / limit
    frames = torch.linspace(0, len(x) - 1, FRAMES).round().long()
    flipped = torch.tensor([1.0, -1.0])  # a picture's second coordinate points down
    places = (SIZE / 2 + scale * x.cpu()[frames] * flipped).round().int()  # (FRAMES, B, 2)
    means = target.means.cpu()
    levels = means.abs().amax(1).unique(return_inverse=True)[1]  # squares, from inside out
    nearest = torch.cdist(x[-1].cpu(), means).argmin(1)
    colours = [COLOURS[level % len(COLOURS)] for level in levels[nearest].tolist()]
    ring = 2 * scale * target.variance.cpu().sqrt().flatten()[0].item()
    centres = (SIZE / 2 + scale * means * flipped).tolist()
    rings = "".join(f'<circle cx="{a:.0f}" cy="{b:.0f}" r="{ring:.0f}"/>' for a, b in centres)
    rings = f'<g fill="none" stroke="{GREY}">{rings}</g>'
    for moves, suffix in ((True, ""), (False, "-still")):
        dots = "".join(
            _dot(way, colour, moves)
            for way, colour in zip(places.transpose(0, 1).tolist(), colours, strict=True)
        )
        made = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SIZE} {SIZE}">{rings}'
            f'<g fill-opacity="0.7">{dots}</g></svg>\n'
        )
        write_bytes(Path(folder) / f"{name}{suffix}.svg", made.encode())


def _dot(way: list, colour: str, moves: bool) -> str:
    """A point where it ends, which is where it stays in a program that shows no motion."""
    dot = f'<circle cx="{way[-1][0]}" cy="{way[-1][1]}" r="{RADIUS}" fill="{colour}"'
    if not moves:
        return dot + "/>"
    axes = zip(("cx", "cy"), zip(*way, strict=True), strict=True)
    animated = "".join(
        f'<animate attributeName="{name}" dur="{SECONDS}s" fill="freeze" '
        f'values="{";".join(map(str, values))}"/>'
        for name, values in axes
    )
    return f"{dot}>{animated}</circle>"

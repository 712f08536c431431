"""Pictures of samples, small enough to be committed: one for each row of the full profile."""

import io
import re
from pathlib import Path
from xml.etree import ElementTree

from PIL import Image

__all__ = ["TooLarge", "check_film", "small"]

TooLarge = Image.DecompressionBombError
WIDTH = 720  # pixels
QUALITY = 60  # of WebP: text stays readable
FILM = {"svg", "g", "circle", "animate"}  # what a film is drawn with


def small(path: Path) -> bytes:
    """A picture as WebP, as wide as a column of text; the same bytes for the same picture."""
    # Of other kinds, some are programs in PostScript.
    with Image.open(path, formats=["PNG"]) as picture:
        picture = picture.convert("RGB")
        height = round(picture.height * WIDTH / picture.width)
        file = io.BytesIO()
        picture.resize((WIDTH, height), Image.Resampling.LANCZOS).save(
            file, "WEBP", quality=QUALITY, method=6
        )
    return file.getvalue()


def check_film(data: bytes) -> None:
    """Refuse an SVG that is more than moving dots: a browser runs the scripts of one.

    Raises:
        ValueError: naming what it has no use for.
    """
    text = data.decode(errors="replace").removeprefix('<?xml version="1.0" encoding="utf-8"?>')
    if found := re.search(r"<[?!]|url\(", text):
        raise ValueError(f"a film has no {found[0]}")
    try:
        parts = list(ElementTree.fromstring(data).iter())
    except ElementTree.ParseError as error:
        raise ValueError(f"not XML: {error}") from error
    names = {re.sub(r"^\{http://www\.w3\.org/2000/svg\}", "", part.tag) for part in parts}
    attributes = {name for part in parts for name in part.attrib}
    moved = {part.get("attributeName") for part in parts if part.tag.endswith("animate")}
    more = sorted(names - FILM | {n for n in attributes if re.match("on|.*href|style", n)})
    if more := [*more, *sorted(map(str, moved - {"cx", "cy"}))]:
        raise ValueError(f"a film has no {', '.join(more)}")

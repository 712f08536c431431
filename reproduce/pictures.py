"""Pictures of samples, small enough to be committed: one for each row of the full profile."""

import io
from pathlib import Path

from PIL import Image

__all__ = ["small"]

WIDTH = 720  # pixels
QUALITY = 60  # of WebP: text stays readable


def small(path: Path) -> bytes:
    """A picture as WebP, as wide as a column of text; the same bytes for the same picture."""
    with Image.open(path) as picture:
        picture = picture.convert("RGB")
        height = round(picture.height * WIDTH / picture.width)
        file = io.BytesIO()
        picture.resize((WIDTH, height), Image.Resampling.LANCZOS).save(
            file, "WEBP", quality=QUALITY, method=6
        )
    return file.getvalue()

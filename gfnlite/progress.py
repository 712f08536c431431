"""Progress bars, where tqdm is there: it is an extra, and all training works without it."""

from collections.abc import Iterator

__all__ = ["counted", "progress_bar"]


def progress_bar(wanted: bool, start: int, end: int, what: str, unit: str = "it"):
    """A bar on stderr that goes on from `start`; None if it is not wanted or tqdm is missing."""
    if not wanted:
        return None
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    return tqdm(total=end, initial=start, desc=what, unit=unit, mininterval=0.5)


def counted(values: range, wanted: bool, what: str, unit: str = "it") -> Iterator[int]:
    """The values one by one, counted by a `progress_bar`."""
    bar = progress_bar(wanted, values.start, values.stop, what, unit)
    try:
        for value in values:
            yield value
            if bar:
                bar.update(1)
    finally:
        if bar:
            bar.close()

"""Colours, signs and saving, for all pictures."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from subspan.runs import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe-Ito palette: distinguishable with the common kinds of colour blindness; its yellow is too pale for dots on white
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
MARKERS = ("o", "^", "s", "D", "v", "P", "X")


def sign(number: int) -> tuple[str, str]:
    """Colour and marker of a cluster; 49 differ, and they come round again after that."""
    return COLOURS[number % len(COLOURS)], MARKERS[number // len(COLOURS) % len(MARKERS)]


def save(figure: Figure, path: str | Path | None) -> Figure:
    """Write the figure if there is a path; its ending says in which format."""
    if path is not None:
        with atomic_path(Path(path)) as fresh, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            figure.savefig(fresh, format=Path(path).suffix.removeprefix(".") or "png")  # else it would add an ending
        missing = [one for one in caught if "missing from font" in str(one.message)]
        for one in caught:
            if one not in missing:
                warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
        if missing:
            warnings.warn(f"{path} has names with signs that its font cannot draw: they are boxes", stacklevel=3)
    return figure

"""Checks of estimator parameters, each with a message that says what to give (layer 0)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from subspan.errors import InvalidInputError


def check_pair(value, name: str = "value") -> tuple[float, float]:
    """A pair (begin, end); a single number stands for both."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value), float(value)
    if isinstance(value, tuple | list) and len(value) == 2 and all(isinstance(v, int | float) for v in value):
        return float(value[0]), float(value[1])
    raise InvalidInputError(f"{name} must be a number or a pair (begin, end), not {value!r}.")


def check_choice(name: str, value, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InvalidInputError(f"{name} is {value!r}; choose one of {', '.join(map(repr, allowed))}.")


def check_number(name: str, value, low: float, high: float = math.inf) -> None:
    good = isinstance(value, int | float) and not isinstance(value, bool)
    if not (good and math.isfinite(value) and low <= value <= high):
        bound = f"between {low:g} and {high:g}" if high < math.inf else f"of at least {low:g}"
        raise InvalidInputError(f"{name} is {value!r}; give a number {bound}.")


def check_integer(name: str, value, low: int) -> None:
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < low:
        raise InvalidInputError(f"{name} is {value!r}; give an integer of at least {low}.")


def check_overrides(name: str, value, known: dict[str, Any], *, whole: bool = False) -> None:
    """A dict of numbers (integers if ``whole``) of at least 0 for some of the known keys, or None."""
    if value is None:
        return
    if not isinstance(value, dict) or set(value) - set(known):
        raise InvalidInputError(f"{name} is {value!r}; give a dict with keys among {', '.join(known)}.")
    for key, number in value.items():
        if whole:
            check_integer(f"epochs[{key!r}]", number, 0)
        else:
            check_number(f"{name}[{key!r}]", number, 0.0)

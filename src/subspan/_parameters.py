"""Checks of estimator parameters, each with a message that says what to give (layer 0)."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

import numpy as np

from subspan.errors import InvalidInputError


def is_number(value: Any, kind: type = Real) -> bool:
    """Whether a value is one real number (or integer), of Python or of NumPy; True and False are none."""
    return isinstance(value, kind) and not isinstance(value, bool)


def check_pair(value: Any, name: str = "value") -> tuple[float, float]:
    """A pair (begin, end); a single number stands for both."""
    if is_number(value):
        return float(value), float(value)
    ends = value.tolist() if isinstance(value, np.ndarray) else value
    if isinstance(ends, tuple | list) and len(ends) == 2 and all(map(is_number, ends)):
        return float(ends[0]), float(ends[1])
    raise InvalidInputError(f"{name} must be a number or a pair (begin, end), not {value!r}.")


def check_single(name: str, value: Any) -> None:
    """Refuse what is neither a number nor a word: an array would be compared entry by entry."""
    if not is_number(value) and not isinstance(value, str):
        raise InvalidInputError(f"{name} is {value!r}; give one number, or 'auto'.")


def check_choice(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in allowed:
        raise InvalidInputError(f"{name} is {value!r}; choose one of {', '.join(map(repr, allowed))}.")


def check_number(name: str, value: Any, low: float, high: float = math.inf) -> None:
    if not (is_number(value) and math.isfinite(value) and low <= value <= high):
        bound = f"between {low:g} and {high:g}" if high < math.inf else f"of at least {low:g}"
        raise InvalidInputError(f"{name} is {value!r}; give a number {bound}.")


def check_above(low: float, **values: Any) -> None:
    """Raise InvalidInputError unless every value is a finite number above ``low``."""
    for name, value in values.items():
        if not (is_number(value) and math.isfinite(value) and value > low):
            raise InvalidInputError(f"{name}={value!r} must be a finite number above {low:g}.")


def check_integer(name: str, value: Any, low: int) -> None:
    if not is_number(value, Integral) or value < low:
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

"""The terms of a training history in groups, as the curves of a report need them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from subspan.plots import history_terms

_GROUPS = {
    "Loss terms and objective": r"",
    "Live clusters and selected pairs": r"^live_|positive|negative",
    "Progress": r"^(changed|information|lr)$|rank|^n_iter",
}


def make_curves(history: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Curves of every numeric term.

    Returns
    -------
    dict with
        ``phases``: names; ``phase``: index of the phase of every record; ``groups``: list of ``title`` and ``terms``,
        each with a ``name`` and ``y``, one number or None per record.
    """
    names = [str(record.get("phase", "training")) for record in history]
    phases = list(dict.fromkeys(names))
    groups: dict[str, list[dict[str, Any]]] = {title: [] for title in _GROUPS}
    for name, values in history_terms(history).items():
        y = [float(f"{v:.6g}") if math.isfinite(v) else None for v in values.tolist()]
        groups[_group(name)].append({"name": name, "y": y})
    return {
        "phases": phases,
        "phase": [phases.index(name) for name in names],
        "groups": [{"title": title, "terms": terms} for title, terms in groups.items() if terms],
    }


def _group(name: str) -> str:
    """The last group whose pattern fits."""
    return [title for title, pattern in _GROUPS.items() if re.search(pattern, name)][-1]

"""What a reader of a report should know before trusting it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from subspan.datasets import Skipped

_TINY = 0.1  # of the average size
_DOMINANT = 0.6  # of all samples
_NAMED = 5


def find_notices(sizes: np.ndarray, config: Mapping[str, Any], skipped: Sequence[Skipped] = ()) -> list[str]:
    """Empty, tiny and dominant clusters, skipped files, and warnings of the training, one sentence each.

    Parameters
    ----------
    sizes : int array of shape (k,)
    config : mapping
        ``config.json`` of the run.
    skipped : sequence of Skipped
        Files left out when the data were read again.
    """
    k, n = len(sizes), int(sizes.sum())
    notices = [_about_empty(np.flatnonzero(sizes == 0), k)]
    tiny = np.flatnonzero((sizes > 0) & (sizes < _TINY * n / k))
    notices.append(_about_tiny(tiny, sizes, n / k))
    top = int(sizes.argmax())
    if k > 2 and sizes[top] > _DOMINANT * n:
        notices.append(f"Cluster {top} holds {sizes[top] / n:.0%} of all samples.")
    count = max(int(config.get("data", {}).get("skipped") or 0), len(skipped))
    notices.append(_about_skipped(count, skipped))
    notices += [f"During training: {warning}" for warning in config.get("result", {}).get("warnings", [])]
    return [notice for notice in notices if notice]


def _about_empty(empty: np.ndarray, k: int) -> str:
    if not len(empty):
        return ""
    return f"{len(empty)} of {k} clusters {_is(empty)} empty ({_list(empty)}): fewer clusters may be enough."


def _about_tiny(tiny: np.ndarray, sizes: np.ndarray, average: float) -> str:
    if not len(tiny):
        return ""
    named = ", ".join([f"{c} with {sizes[c]}" for c in tiny[:_NAMED]] + (["..."] if len(tiny) > _NAMED else []))
    return f"{len(tiny)} {_clusters(tiny)} {_is(tiny)} tiny beside an average of {average:,.0f} samples: {named}."


def _about_skipped(count: int, skipped: Sequence[Skipped]) -> str:
    if not count:
        return ""
    named = "; ".join(f"{item.path} ({item.reason})" for item in skipped[:_NAMED])
    more = "; ..." if len(skipped) > _NAMED else ""
    said = "1 file was left out because it" if count == 1 else f"{count:,} files were left out because they"
    head = f"{said} could not be read as images"
    return f"{head}: {named}{more}." if named else f"{head}."


def _is(clusters: np.ndarray) -> str:
    return "is" if len(clusters) == 1 else "are"


def _clusters(clusters: np.ndarray) -> str:
    return "cluster" if len(clusters) == 1 else "clusters"


def _list(clusters: np.ndarray) -> str:
    named = [str(c) for c in clusters[:_NAMED]]
    return ", ".join(named + (["..."] if len(clusters) > _NAMED else []))

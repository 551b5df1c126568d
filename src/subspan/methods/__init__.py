"""The clustering methods, one paper per file (layer 4), and the registry that finds them by name."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from importlib import import_module

from subspan.errors import InvalidInputError


class Registry(Mapping[str, type]):
    """Method name -> estimator class; a class given as ``"module:Class"`` is imported when it is first looked up.

    Examples
    --------
    >>> "ncsc" in METHODS
    True
    """

    def __init__(self, entries: Mapping[str, str | type]) -> None:
        self._entries: dict[str, str | type] = dict(entries)

    def __getitem__(self, name: str) -> type:
        entry = self._entries[name]
        if isinstance(entry, str):
            module, _, attribute = entry.partition(":")
            entry = self._entries[name] = getattr(import_module(module), attribute)
        return entry

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def register(self, name: str, entry: str | type) -> None:
        """Add or replace a method: an estimator class, or ``"module:Class"``."""
        self._entries[name] = entry

    def unregister(self, name: str) -> None:
        """Remove a method."""
        del self._entries[name]


METHODS = Registry(
    {
        "ncsc": "subspan.methods.ncsc:NCSC",
        "lsr": "subspan.methods.lsr:LSR",
        "ssc": "subspan.methods.ssc:SSC",
        "ssc-omp": "subspan.methods.ssc_omp:SSCOMP",
        "lrr": "subspan.methods.lrr:LRR",
        "kssc": "subspan.methods.kssc:KSSC",
        "dac": "subspan.methods.dac:DAC",
        "infogan": "subspan.methods.infogan:InfoGAN",
        "clustergan": "subspan.methods.clustergan:ClusterGAN",
        "dsc-net": "subspan.methods.dsc_net:DSCNet",
        "k-scn": "subspan.methods.k_scn:KSCN",
        "kmeans": "subspan.methods.kmeans:KMeans",
        "sae-km": "subspan.methods.sae_kmeans:SAEKMeans",
        "cae-km": "subspan.methods.cae_kmeans:CAEKMeans",
        "dec": "subspan.methods.dec:DEC",
        "idec": "subspan.methods.idec:IDEC",
        "dcn": "subspan.methods.dcn:DCN",
    }
)


def get_method(name: str) -> type:
    """Estimator class of that name.

    Raises
    ------
    InvalidInputError
        If there is no such method; the message names the nearest.
    """
    if name not in METHODS:
        near = difflib.get_close_matches(name, METHODS, n=3, cutoff=0.5)
        advice = f"did you mean {' or '.join(near)}?" if near else f"choose one of {', '.join(METHODS)}."
        raise InvalidInputError(f"There is no method '{name}': {advice}")
    return METHODS[name]


__all__ = ["METHODS", "Registry", "get_method"]

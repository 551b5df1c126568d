"""Neural Collaborative Subspace Clustering and the methods it is compared with, behind one scikit-learn interface.

Public names are imported on first use, so that ``import subspan`` stays fast.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_WHERE = {
    "NCSC": "subspan.methods.ncsc",
    "load": "subspan.base",
    "load_dataset": "subspan.datasets",
    "accuracy": "subspan.metrics",
    "nmi": "subspan.metrics",
    "ari": "subspan.metrics",
    "evaluate": "subspan.metrics",
}

__all__ = ["NCSC", "__version__", "accuracy", "ari", "evaluate", "load", "load_dataset", "nmi"]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'subspan' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__

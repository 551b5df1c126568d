"""Neural Collaborative Subspace Clustering and the methods it is compared with, behind one scikit-learn interface.

Public names are imported on first use, so that ``import subspan`` stays fast.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_WHERE = {
    "NCSC": "subspan.methods.ncsc",
    "CAEKMeans": "subspan.methods.cae_kmeans",
    "ClusterGAN": "subspan.methods.clustergan",
    "DAC": "subspan.methods.dac",
    "DCN": "subspan.methods.dcn",
    "DEC": "subspan.methods.dec",
    "DSCNet": "subspan.methods.dsc_net",
    "IDEC": "subspan.methods.idec",
    "InfoGAN": "subspan.methods.infogan",
    "KMeans": "subspan.methods.kmeans",
    "KSCN": "subspan.methods.k_scn",
    "KSSC": "subspan.methods.kssc",
    "LRR": "subspan.methods.lrr",
    "LSR": "subspan.methods.lsr",
    "SAEKMeans": "subspan.methods.sae_kmeans",
    "SSC": "subspan.methods.ssc",
    "SSCOMP": "subspan.methods.ssc_omp",
    "GlobalSelfExpression": "subspan.neighbours",
    "load": "subspan.base",
    "load_dataset": "subspan.datasets",
    "accuracy": "subspan.metrics",
    "nmi": "subspan.metrics",
    "ari": "subspan.metrics",
    "evaluate": "subspan.metrics",
}

__all__ = [  # noqa: RUF022 (sorted by code points, as the test reads it)
    "CAEKMeans",
    "ClusterGAN",
    "DAC",
    "DCN",
    "DEC",
    "DSCNet",
    "GlobalSelfExpression",
    "IDEC",
    "InfoGAN",
    "KMeans",
    "KSCN",
    "KSSC",
    "LRR",
    "LSR",
    "NCSC",
    "SAEKMeans",
    "SSC",
    "SSCOMP",
    "__version__",
    "accuracy",
    "ari",
    "evaluate",
    "load",
    "load_dataset",
    "nmi",
]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'subspan' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__

"""Pictures (layer 8): samples by cluster, affinity matrices, codes, training curves. No pyplot, so no global state."""

from subspan.plots.affinities import affinity_figure, select_pairs
from subspan.plots.curves import history_terms, training_curves
from subspan.plots.latent import MAX_POINTS, latent_figure
from subspan.plots.sheets import contact_sheet

__all__ = [
    "MAX_POINTS",
    "affinity_figure",
    "contact_sheet",
    "history_terms",
    "latent_figure",
    "select_pairs",
    "training_curves",
]

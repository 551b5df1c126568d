"""Neural Collaborative Subspace Clustering and the methods it is compared with."""

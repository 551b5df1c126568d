"""Short texts: NCSC beside k-means and LSR on tf-idf vectors.

    python benchmarks/texts.py TEXTS LABELS --samples 20000

TEXTS has a text in every line, LABELS the class of each, such as dataset/StackOverflow.txt and
dataset/StackOverflow_gnd.txt of github.com/jacoxu/STC2. Logarithmic counts, English stop words left out, words of at
least three texts, 100 dimensions of TruncatedSVD, samples in random order. Prints a JSON line per method; labels are
used for the printed figures only.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from _fits import fitted
from sklearn.cluster import KMeans
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import normalize

from subspan import NCSC
from subspan.methods.lsr import LSR


def vectors(path: Path) -> np.ndarray:
    """tf-idf of the lines of a file, reduced to (n, 100)."""
    texts = path.read_text(encoding="utf-8", errors="ignore").splitlines()
    words = TfidfVectorizer(sublinear_tf=True, stop_words="english", min_df=3).fit_transform(texts)
    return TruncatedSVD(100, random_state=0).fit_transform(words).astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=Path)
    parser.add_argument("labels", type=Path)
    parser.add_argument("--samples", type=int, default=20_000, help="of LSR 8,000 at most")
    parser.add_argument("--methods", default="ncsc,near,kmeans,lsr", help="near: NCSC with ten neighbours")
    options = parser.parse_args()
    X, y = vectors(options.texts), np.unique(options.labels.read_text().split(), return_inverse=True)[1]
    some = np.random.default_rng(0).permutation(len(y))[: options.samples]
    X, y, k = X[some], y[some], len(np.unique(y))
    methods = {
        "ncsc": (NCSC(k, random_state=0), X),
        "near": (NCSC(k, n_neighbors=10, random_state=0), X),
        "kmeans": (KMeans(k, n_init=5, random_state=0), normalize(X)),
        "lsr": (LSR(k, random_state=0), X[:8000]),
    }
    for name in options.methods.split(","):
        model, data = methods[name]
        line = {"method": name, "n": len(data)}
        print(json.dumps(line | fitted(model, data, y[: len(data)])), flush=True)


if __name__ == "__main__":
    main()

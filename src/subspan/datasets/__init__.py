"""Loaders (layer 5): known sets, folders of images, array and table files. Labels come beside the data, never in it."""

from __future__ import annotations

from subspan.datasets._types import Dataset, DatasetInfo, Skipped
from subspan.datasets.known import list_datasets
from subspan.datasets.label_files import labels_from_names, read_label_file
from subspan.datasets.loading import load_dataset
from subspan.datasets.stanford import load_stanford_online_products

__all__ = [
    "Dataset",
    "DatasetInfo",
    "Skipped",
    "labels_from_names",
    "list_datasets",
    "load_dataset",
    "load_stanford_online_products",
    "read_label_file",
]

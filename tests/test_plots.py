"""Pictures: the right samples in the right rows, matrices in the right order, every term in its curve."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from subspan.errors import InvalidInputError
from subspan.plots import affinity_figure, contact_sheet, training_curves


def levels(n: int, shape: tuple[int, ...] = (10, 10)) -> np.ndarray:
    """Flat images, each of its own brightness from 0 to 1."""
    return np.broadcast_to(np.linspace(0, 1, n).reshape(-1, *(1 for _ in shape)), (n, *shape)).copy()


def cells(figure, rows: int, columns: int) -> np.ndarray:
    """Red level in the middle of every cell of a sheet of 10 x 10 pixel images (1 pixel apart)."""
    canvas = figure.axes[0].images[0].get_array()
    assert canvas.shape[:2] == (rows * 11 - 1, columns * 11 - 1)
    return np.asarray(canvas)[5::11, 5::11, 0]


def test_rows_hold_the_samples_of_their_cluster() -> None:
    labels = np.array([0, 2, 0, 2, 2])
    figure = contact_sheet(levels(5), labels, per_cluster=3)
    np.testing.assert_allclose(cells(figure, 3, 3), [[0, 0.5, 1], [1, 1, 1], [0.25, 0.75, 1]])  # white where nothing is
    texts = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert texts == ["cluster 0\n2 images", "cluster 1\nempty", "cluster 2\n3 images"]


@pytest.mark.parametrize("scores", [np.array([0.1, 0.9, 0.5, 0.7]), np.array([0.1, 0.9, 0.5, 0.7])[:, None] * [1, 0.2]])
def test_scores_sort_a_row_from_sure_to_unsure(scores: np.ndarray) -> None:
    figure = contact_sheet(levels(4), np.zeros(4, int), scores=scores, per_cluster=4)
    np.testing.assert_allclose(cells(figure, 1, 4), [[1 / 3, 1, 2 / 3, 0]])


def test_long_rows_are_thinned_evenly() -> None:
    figure = contact_sheet(levels(101), np.zeros(101, int), per_cluster=3)
    np.testing.assert_allclose(cells(figure, 1, 3), [[0, 0.5, 1]])


@pytest.mark.parametrize("shape", [(10, 10), (10, 10, 1), (1, 10, 10), (10, 10, 3), (3, 10, 10), (5, 10, 10)])
def test_every_layout_of_images(shape: tuple[int, ...]) -> None:
    if shape == (5, 10, 10):
        shape = (10, 10, 5)
    figure = contact_sheet(levels(3, shape), np.arange(3), per_cluster=1)
    np.testing.assert_allclose(cells(figure, 3, 1).ravel(), [0, 0.5, 1])


def test_colours_are_kept() -> None:
    X = np.zeros((2, 10, 10, 3), np.uint8)
    X[0, ..., 0] = 255
    X[1, ..., 2] = 51
    canvas = contact_sheet(X, np.array([0, 0]), per_cluster=2).axes[0].images[0].get_array()
    np.testing.assert_allclose(canvas[5, [5, 16]], [[1, 0, 0], [0, 0, 0.2]])


def test_many_clusters_are_split_into_columns() -> None:
    figure = contact_sheet(levels(45), np.arange(45), per_cluster=1)
    assert [len(ax.get_yticks()) for ax in figure.axes] == [15, 15, 15]
    assert figure.axes[2].get_yticklabels()[-1].get_text() == "cluster 44\n1 image"


def test_sheet_is_saved_with_its_folder_and_without_pyplot(tmp_path: Path) -> None:
    before = "matplotlib.pyplot" in sys.modules
    contact_sheet(levels(2), np.array([0, 1]), tmp_path / "figures" / "a.png")
    assert Image.open(tmp_path / "figures" / "a.png").size[0] > 300
    assert ("matplotlib.pyplot" in sys.modules) == before


def test_sheet_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="needs images"):
        contact_sheet(np.ones((3, 4)), np.zeros(3, int))
    with pytest.raises(InvalidInputError, match="one label for each of the 3"):
        contact_sheet(levels(3), np.zeros(2, int))
    with pytest.raises(InvalidInputError, match=r"scores has shape \(2,\)"):
        contact_sheet(levels(3), np.zeros(3, int), scores=np.ones(2))
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInputError, match="cannot be written"):
        contact_sheet(levels(3), np.zeros(3, int), tmp_path / "file" / "a.png")


def test_affinities_are_sorted_by_cluster(tmp_path: Path) -> None:
    labels = np.array([1, 0, 1, 0, 4])
    same = (labels[:, None] == labels).astype(float)
    figure = affinity_figure(same * 0.8, same, labels, tmp_path / "a.png")
    shown = [np.asarray(ax.images[0].get_array()) for ax in figure.axes[:2]]
    blocks = np.zeros((5, 5))
    blocks[:2, :2] = blocks[2:4, 2:4] = blocks[4, 4] = 1
    np.testing.assert_allclose(shown[0], 0.8 * blocks)
    np.testing.assert_allclose(shown[1], blocks)
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["0", "1", "4"]
    edges = sorted(line.get_ydata()[0] for line in figure.axes[0].lines if line.get_ydata()[0] == line.get_ydata()[1])
    assert [edge for edge in edges if edge > 1] == [1.5, 3.5]
    assert Image.open(tmp_path / "a.png").size[0] > 1000


def test_affinities_of_another_size_are_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"A_c has shape \(2, 2\)"):
        affinity_figure(np.eye(3), np.eye(2), np.arange(3))


def test_curves_show_every_term_in_its_epochs() -> None:
    history = [
        {"phase": "pretrain", "epoch": 0, "reconstruction": 2.0, "note": "text", "live": True},
        {"phase": "pretrain", "epoch": 1, "reconstruction": 1.0},
        {"phase": "joint", "epoch": 0, "terms": {"L_pos": 5.0}, "reconstruction": float("nan")},
        {"phase": "joint", "epoch": 1, "terms": {"L_pos": 4.0}, "reconstruction": 0.5},
    ]
    figure = training_curves(history)
    axes = {ax.get_title(loc="left"): ax for ax in figure.axes if ax.get_visible()}
    assert list(axes) == ["reconstruction", "L_pos"]
    curves = [line.get_xydata().tolist() for line in axes["reconstruction"].lines]
    assert curves == [[[1, 2], [2, 1]], [[4, 0.5]]]
    assert axes["L_pos"].lines[1].get_xydata().tolist() == [[3, 5], [4, 4]]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["pretrain", "joint"]


def test_wide_ranges_get_a_logarithmic_axis() -> None:
    figure = training_curves([{"phase": "a", "wide": 10.0**-i, "narrow": 1.0 + i} for i in range(4)])
    assert [ax.get_yscale() for ax in figure.axes[:2]] == ["log", "linear"]


def test_empty_history_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="no numbers to plot"):
        training_curves([{"phase": "a", "epoch": 1}])

"""Pictures: the right samples in the right rows, matrices in the right order, every term in its curve."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.text import Text
from PIL import Image

from subspan.errors import InvalidInputError
from subspan.plots import affinity_figure, contact_sheet, latent_figure, select_pairs, training_curves
from subspan.plots.latent import match_signs


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


def test_samples_without_a_score_are_not_shown_but_counted() -> None:
    figure = contact_sheet(levels(4), np.zeros(4, int), scores=np.array([0.9, np.nan, 0.8, 0.7]), per_cluster=3)
    np.testing.assert_allclose(cells(figure, 1, 3), [[0, 2 / 3, 1]])
    assert any("4" in text.get_text() for text in figure.findobj(Text))


def test_long_rows_are_thinned_evenly() -> None:
    figure = contact_sheet(levels(101), np.zeros(101, int), per_cluster=3)
    np.testing.assert_allclose(cells(figure, 1, 3), [[0, 0.5, 1]])


@pytest.mark.parametrize("shape", [(10, 10), (10, 10, 1), (1, 10, 10), (10, 10, 3), (3, 10, 10), (4, 10, 10)])
def test_every_layout_of_images(shape: tuple[int, ...]) -> None:
    figure = contact_sheet(levels(3, shape), np.arange(3), per_cluster=1)
    np.testing.assert_allclose(cells(figure, 3, 1).ravel(), [0, 0.5, 1])


def test_large_images_become_as_small_as_they_are_shown() -> None:
    X = np.zeros((2, 250, 500, 3), np.uint8)
    X[1] = 255
    canvas = contact_sheet(X, np.array([0, 1]), per_cluster=1).axes[0].images[0].get_array()
    assert canvas.shape[1] == 250
    np.testing.assert_allclose(canvas[[60, 200], 100, 0], [0, 1])


def test_pictures_have_the_name_they_were_given(tmp_path: Path) -> None:
    for name in ("plain", "a.png", "b.svg"):
        contact_sheet(levels(2), np.array([0, 1]), tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.svg", "plain"]
    assert (tmp_path / "plain").read_bytes().startswith(b"\x89PNG")


def test_names_of_classes_may_hold_dollars(tmp_path: Path) -> None:
    Z, labels = np.random.default_rng(0).normal(size=(20, 3)), np.arange(20) % 2
    latent_figure(Z, labels, tmp_path / "a.png", truth=np.array(["a$b^$c", "cost$^"])[labels])
    assert (tmp_path / "a.png").is_file()


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


def test_selected_pairs_are_those_of_a_double_loop() -> None:
    rng = np.random.default_rng(0)
    A_s, A_c = rng.random((9, 9)), rng.random((9, 9))
    positive, negative = select_pairs(A_s, A_c, u=0.3, l=0.4, limit=3)
    for i in range(9):
        others = sorted((j for j in range(9) if j != i), key=lambda j: -A_s[i, j])
        assert set(np.flatnonzero(positive[i])) == {j for j in others[:3] if A_s[i, j] > 0.3}
        assert set(np.flatnonzero(negative[i])) == {j for j in others if A_c[i, j] < 0.4}
    assert select_pairs(A_s, A_c, u=0.3, l=0.4)[0].sum() == (A_s > 0.3).sum() - (A_s.diagonal() > 0.3).sum()


def test_selected_pairs_are_drawn_under_their_affinities() -> None:
    labels = np.array([1, 0, 1, 0])
    same = labels[:, None] == labels
    A_s = np.where(same, 0.95, 0.1)
    A_s[0, 1] = 0.99  # a wrong pair: samples of clusters 1 and 0
    figure = affinity_figure(A_s, np.where(same, 1.0, 0.0), labels, u=0.9, l=0.1)
    shown = [np.asarray(ax.images[0].get_array()) for ax in figure.axes[2:4]]
    blocks = np.kron(np.eye(2), np.ones((2, 2)))
    expected = blocks - np.eye(4)
    expected[2, 0] = 1  # in the order of the clusters: 1, 3, 0, 2
    np.testing.assert_array_equal(shown[0], expected)
    np.testing.assert_array_equal(shown[1], 1 - blocks)
    titles = [ax.get_title() for ax in figure.axes[2:4]]
    assert titles[0] == "Positive pairs: $A_s > 0.9$\n5 pairs, 80.0 % within a cluster"
    assert titles[1] == "Negative pairs: $A_c < 0.1$\n8 pairs, 100.0 % between clusters"
    figure = affinity_figure(A_s, A_s, labels, u=0, l=0.1, limit=2)
    assert figure.axes[2].get_title().startswith("Positive pairs: the 2 largest $A_s$ of a row\n8 pairs")
    with pytest.raises(InvalidInputError, match="thresholds u and l"):
        affinity_figure(A_s, A_s, labels, u=0.9)


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


def test_counts_come_last_and_start_from_zero() -> None:
    history = [
        {"phase": "a", "live_clusters": 7, "seconds": 1.5, "start": 3, "positives_per_sample": 10.0, "L_pos": 3.0 - i}
        for i in range(2)
    ]
    figure = training_curves(history)
    titles = [ax.get_title(loc="left") for ax in figure.axes if ax.get_visible()]
    assert titles == ["L_pos", "positive pairs per sample", "live clusters"]
    assert figure.axes[2].get_ylim() == pytest.approx((0, 7.7))
    assert figure.axes[2].lines[0].get_xydata().tolist() == [[1, 7], [2, 7]]


def test_small_changes_are_not_magnified() -> None:
    figure = training_curves([{"phase": "a", "still": 5.0 + 1e-4 * i, "moving": 5.0 + i} for i in range(2)])
    assert figure.axes[0].get_ylim() == pytest.approx((4.9, 5.1), abs=1e-3)
    assert figure.axes[1].get_ylim()[0] > 4.5
    assert figure.axes[0].yaxis.get_major_formatter()(4.95316e-4, 0) == "0.0004953"


def dots(ax) -> dict[tuple[float, float], tuple[str, int]]:
    """Place of every dot, rounded: its colour and the number of its scatter (its marker)."""
    return {
        tuple(place): (to_hex(colour).upper(), number)
        for number, dots in enumerate(ax.collections)
        for place, colour in zip(np.round(dots.get_offsets().data, 6).tolist(), dots.get_facecolors(), strict=True)
    }


def test_codes_are_drawn_in_their_principal_plane() -> None:
    rng = np.random.default_rng(0)
    plane = rng.normal(size=(60, 2)) * [5.0, 2.0]
    plane -= plane.mean(axis=0)
    basis = np.linalg.qr(rng.normal(size=(6, 2)))[0]
    figure = latent_figure(plane @ basis.T + 3.0, np.arange(60) % 3)
    (ax,) = figure.axes
    found = np.array(list(dots(ax)))
    distances = [np.sort(np.linalg.norm(x[:, None] - x, axis=2).ravel()) for x in (found, plane)]
    np.testing.assert_allclose(*distances, atol=1e-4)  # the plane, up to rotation
    assert np.ptp(found[:, 0]) > np.ptp(found[:, 1])
    numbers = [float(label.split("(")[1].split(" %")[0]) for label in (ax.get_xlabel(), ax.get_ylabel())]
    assert sum(numbers) == pytest.approx(100, abs=1)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["0", "1", "2"]


def test_dots_have_the_colour_of_their_cluster_and_labels_that_of_theirs() -> None:
    Z = np.array([[0.0], [0.1], [5.0], [5.1], [9.0], [9.1]])
    figure = latent_figure(Z, np.array([1, 1, 0, 0, 2, 2]), truth=np.array(["cat", "cat", "dog", "dog", "dog", "fox"]))
    by_cluster, by_label = (dict(sorted(dots(ax).items())) for ax in figure.axes)
    blue, orange, green, vermillion = "#0072B2", "#E69F00", "#009E73", "#D55E00"
    assert vermillion not in (colour for colour, _ in by_cluster.values())
    order = 1 if next(iter(by_cluster.values()))[0] == orange else -1  # the sign of a component is free
    assert [c for c, _ in by_cluster.values()][::order] == [orange, orange, blue, blue, green, green]
    assert [c for c, _ in by_label.values()][::order] == [orange, orange, blue, blue, blue, green]
    assert [text.get_text() for text in figure.axes[1].get_legend().get_texts()] == ["cat", "dog", "fox"]


def test_forty_clusters_look_different() -> None:
    rng = np.random.default_rng(0)
    ax = latent_figure(rng.normal(size=(400, 3)), np.arange(400) % 40).axes[0]
    looks = {(line.get_color(), line.get_marker()) for line in ax.get_legend().get_lines()}
    assert len(looks) == 40
    places = np.array([text.get_position() for text in ax.texts])
    apart = np.abs(places[:, None] - places).max(axis=2) + 9 * np.eye(len(places))
    assert apart.min() > 0.1


def test_labels_without_a_cluster_get_signs_of_their_own() -> None:
    signs = match_signs(np.array([4, 4, 4, 2, 2]), np.array([7, 7, 8, 9, 9]))
    assert signs == {7: 4, 9: 2, 8: 5}


def test_at_most_so_many_dots_are_drawn() -> None:
    Z = np.random.default_rng(0).normal(size=(300, 2))
    first, second = (dots(latent_figure(Z, np.zeros(300, int), max_points=50).axes[0]) for _ in range(2))
    assert len(first) == 50
    assert first == second


def test_codes_that_cannot_be_drawn_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="give finite codes"):
        latent_figure(np.array([[1.0], [np.nan]]), np.zeros(2, int))
    for Z, labels, truth in ((np.ones(3), np.zeros(3), None), (np.eye(2), np.zeros(3), None), (np.eye(2), [0, 1], [0])):
        with pytest.raises(InvalidInputError, match="Z has shape"):
            latent_figure(Z, np.asarray(labels, int), truth=truth)
    latent_figure(np.ones((4, 3)), np.zeros(4, int), tmp_path / "equal.png")  # codes without any variance are drawn
    assert [path.name for path in tmp_path.iterdir()] == ["equal.png"]


def test_wide_ranges_get_a_logarithmic_axis() -> None:
    figure = training_curves([{"phase": "a", "wide": 10.0**-i, "narrow": 1.0 + i} for i in range(4)])
    assert [ax.get_yscale() for ax in figure.axes[:2]] == ["log", "linear"]


def test_empty_history_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="no numbers to plot"):
        training_curves([{"phase": "a", "epoch": 1}])

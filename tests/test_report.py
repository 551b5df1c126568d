"""The report: what it chooses and says, and that it is one harmless file."""

from __future__ import annotations

import base64
import io
import json
import re
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from report_runs import EVIL, Fake, make_run, planted, softmax_of
from subspan.cli import app
from subspan.datasets import Dataset, Skipped
from subspan.errors import CheckpointError, DataNotFoundError, InvalidInputError
from subspan.methods import METHODS
from subspan.report import build_report
from subspan.report._curves import make_curves
from subspan.report._features import read_features
from subspan.report._notices import find_notices
from subspan.report._palette import cluster_colours
from subspan.report._scores import from_codes, from_probabilities, read_scores
from subspan.report._select import choose_map_rows, choose_members, choose_pairs, project
from subspan.report._sprites import make_sprites


def script_values(html: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="values">(.*?)</script>', html, re.S)[1])


def text_of(html: str) -> str:
    body = html.split("</style>")[1].split('<script type="app')[0]
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", body))


def unpacked(text: str, kind: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), kind)


def test_typical_samples_are_the_surest_and_doubtful_ones_the_least_sure() -> None:
    labels = np.array([0] * 20 + [1] * 3 + [3])
    P = softmax_of(labels, 4)
    members = choose_members(from_probabilities(P, labels), 4)
    own = P[np.arange(24), labels]
    by_confidence = sorted(range(20), key=lambda i: own[i])
    assert members[0].typical.tolist() == by_confidence[::-1][:8]
    assert members[0].doubtful.tolist() == by_confidence[:8]
    assert sorted(members[1].typical) == [20, 21, 22]  # too few for both: nobody is typical and doubtful at once
    assert len(members[1].doubtful) == len(members[2].typical) == len(members[3].doubtful) == 0
    assert members[3].typical.tolist() == [23]


def test_confusion_is_the_mean_probability_of_the_other_cluster_both_ways() -> None:
    labels = np.array([0, 0, 1, 2])
    P = np.array([[0.6, 0.3, 0.1], [0.8, 0.0, 0.2], [0.4, 0.6, 0.0], [0.0, 0.1, 0.9]])
    scores = from_probabilities(P, labels)
    expected = {(0, 1): 0.15 + 0.4, (0, 2): 0.15 + 0.0, (1, 2): 0.0 + 0.1}
    pairs = choose_pairs(scores)
    assert [(pair.first, pair.second) for pair in pairs] == [(0, 1), (0, 2), (1, 2)]
    for pair in pairs:
        assert pair.closeness == pytest.approx(expected[pair.first, pair.second])
    assert pairs[0].of_first.tolist() == [0, 1]  # .6 - .3 comes before .8 - .0
    assert scores.runner_up.tolist() == [1, 2, 0, 1]


def test_pairs_of_no_account_are_left_out() -> None:
    labels = np.repeat(np.arange(5), 4)
    P = np.full((20, 5), 1e-5)
    P[np.arange(20), labels] = 1 - 4e-5
    P[0, 3] = 0.3
    pairs = choose_pairs(from_probabilities(P, labels))
    assert len(pairs) == 3
    assert (pairs[0].first, pairs[0].second) == (0, 3)


def test_margins_are_simplified_silhouettes_and_nearness_that_of_davies_and_bouldin() -> None:
    codes = np.array([[0.0], [2.0], [10.0], [14.0]])
    labels = np.array([0, 0, 1, 1])
    scores = from_codes(codes, labels, 3)  # means 1 and 12; cluster 2 is empty
    np.testing.assert_allclose(scores.confidence, [11 / 12, 9 / 10, 7 / 9, 11 / 13])
    assert scores.runner_up.tolist() == [1, 1, 0, 0]
    assert scores.closeness[0, 1] == pytest.approx((1 + 2) / 11)
    assert not scores.closeness[2].any()
    pair = choose_pairs(scores)[0]
    assert (pair.of_first.tolist(), pair.of_second.tolist()) == ([1, 0], [2, 3])


def test_one_cluster_and_equal_samples_are_no_error() -> None:
    scores = from_codes(np.ones((5, 2)), np.zeros(5, int), 1)
    assert scores.confidence.tolist() == [1.0] * 5
    assert choose_pairs(scores) == []
    assert np.isfinite(from_codes(np.ones((4, 2)), np.array([0, 0, 1, 1]), 2).closeness).all()
    assert project(np.ones((5, 3)))[0].shape == (5, 2)
    assert project(np.arange(5.0)[:, None])[1].tolist() == [1.0, 0.0]


@pytest.mark.parametrize(("P", "codes"), [(True, True), (True, False), (False, True), (False, False)])
def test_every_combination_of_abilities(tmp_path: Path, P: bool, codes: bool) -> None:
    X, labels = planted()
    data = Dataset("x.npy", X)
    run = make_run(tmp_path, data, labels, 3)
    estimator = Fake(softmax_of(labels, 3) if P else None, X[:, :2] if codes else None)
    assert read_scores(estimator, X, labels, 3).measure == ("probability" if P else "margin")
    html = build_report(run, data, estimator)
    assert ("gives no probabilities" in html) is not P
    assert ("has no codes" in html) is not codes
    assert 'id="training"' not in html  # no history
    values = script_values(html)
    np.testing.assert_array_equal(unpacked(values["labels"], "<u2"), labels)
    assert len(unpacked(values["map"]["xy"], "<u2")) == 2 * len(X)


def test_the_methods_have_no_other_abilities() -> None:
    for name in METHODS:
        assert hasattr(METHODS[name], "transform")  # and predict_proba or not: both are tested above


def test_the_page_holds_what_the_run_says(tmp_path: Path) -> None:
    X, labels = planted(n=40, k=2)
    labels[labels == 1] = 2  # of 4 clusters, 1 and 3 are empty
    data = Dataset("x.csv", X, names=[f"item {i}" for i in range(40)], columns=["width", "height", "age", "price"])
    history = [{"phase": "one", "L_pos": 2.0, "live_clusters": 4}, {"phase": "two", "L_pos": float("nan")}]
    run = make_run(tmp_path, data, labels, 4, history)
    run.figures.mkdir()
    for name in ("affinities", "clusters"):
        Image.new("L", (4, 4)).save(run.figures / f"{name}.png")
    P = softmax_of(labels, 4)
    html = build_report(run, data, Fake(P, X))
    text = text_of(html)
    for words in (
        "40 vectors in 2 of 4 clusters, found by fake without any label",
        "2 of 4 clusters are empty (1, 3)",
        "1.5 s",
        "tolerance 0.125",
        "No sample is in this cluster",
    ):
        assert words in text
    own = P[np.arange(40), labels]
    first = re.search(r"Most typical (item \d+) [0-9.>]+ .*?Most doubtful (item \d+)", text)
    mine = np.flatnonzero(labels == 0)
    assert first.groups() == (f"item {mine[own[mine].argmax()]}", f"item {mine[own[mine].argmin()]}")
    assert "width" in re.search(r"Sample Probability (\w+)", text)[1]  # cluster 0 lies at 20 on the first axis
    assert html.count("data:image/png") == 1  # affinities.png; the page draws the clusters itself
    values = script_values(html)
    assert values["curves"]["groups"][0]["terms"] == [{"name": "L_pos", "y": [2.0, None]}]
    assert json.loads(zlib.decompress(base64.b64decode(values["names"]))) == data.names
    np.testing.assert_allclose(unpacked(values["confidence"], "<u2") / 65535, own, atol=1e-5)


def test_one_file_that_loads_nothing_and_runs_nothing_from_the_data(tmp_path: Path) -> None:
    X, labels = planted(n=12)
    names = [f"{i} {EVIL}" for i in range(12)]
    data = Dataset("x.csv", X, names=names, columns=[EVIL, "b", "c", "d"], skipped=[Skipped(EVIL, EVIL)])
    run = make_run(tmp_path, data, labels, 3, [{"phase": EVIL, EVIL: 1.0}])
    run.config["result"]["warnings"] = [EVIL]
    html = build_report(run, data, Fake(None, X))
    assert "document.title='owned'</script>" not in html
    assert "<img src=x" not in html
    without_names = html.replace("http://www.w3.org/2000/svg", "")
    assert not re.search(
        r"https?:|//[a-z]+\.|@import|\bfetch\(|XMLHttpRequest|WebSocket|src=\"(?!data:)", without_names
    )
    assert len(re.findall("<script", html)) == 2
    assert "default-src 'none'" in html
    assert len(re.findall(r"<link|<base|<iframe", html)) == 1  # the empty icon


def test_no_true_label_reaches_the_page(tmp_path: Path) -> None:
    X, labels = planted()
    run = make_run(tmp_path, Dataset("x", X), labels, 3)
    pages = []
    for y in (None, np.arange(60) % 7):
        data = Dataset("x", X, y=y, classes=None if y is None else [f"secret{i}" for i in range(7)])
        pages.append(re.sub(r"Made by.*", "", build_report(run, data, Fake(None, X))))
    assert pages[0] == pages[1]
    assert "secret" not in pages[1]


@pytest.mark.parametrize(
    ("X", "names", "words"),
    [
        (np.ones((59, 4)), None, "59 samples and the run 60"),
        (np.ones((60, 5)), None, r"shape \(5,\) and the run \(4,\)"),
        (np.ones((60, 4)), [str(i) for i in range(59)] + ["new"], "'new' in the place of '59'"),
    ],
)
def test_other_data_are_refused(tmp_path: Path, X: np.ndarray, names: list[str] | None, words: str) -> None:
    original, labels = planted()
    run = make_run(tmp_path, Dataset("x", original), labels, 3)
    with pytest.raises(InvalidInputError, match=words):
        build_report(run, Dataset("x", X, names=names), Fake(None, original))


def test_unfinished_and_damaged_runs(tmp_path: Path) -> None:
    X, labels = planted()
    data = Dataset("x", X)
    run = make_run(tmp_path, data, labels, 3)
    run.history.write_text("{not json\n")
    with pytest.raises(CheckpointError, match=r"history\.jsonl is damaged"):
        build_report(run, data, Fake(None, X))
    run.labels.unlink()
    with pytest.raises(DataNotFoundError, match="--resume"):
        build_report(run, data, Fake(None, X))


def test_thumbnails_show_their_samples_in_every_layout() -> None:
    X = np.zeros((300, 6, 4), np.uint8)
    X[:, 0, 0], X[:, 1, 1] = np.arange(300) % 256, 255
    rows = np.arange(0, 300, 3)
    colour = np.stack([X, X, X], axis=-1)
    for images in (X, X[..., None], np.moveaxis(colour, -1, 1), X / 255.0):
        sprites = make_sprites(images, rows)
        assert (sprites.height, sprites.width) == (6, 4)
        sheet, column, line = sprites.place(150)
        picture = Image.open(_file(sprites.sheets[sheet])).convert("L")
        top, left = line * 8 + 1, column * 6 + 1  # a border of one pixel
        found = np.asarray(picture)[top : top + 6, left : left + 4]
        np.testing.assert_allclose(found, X[150], atol=12 if images.shape[1] == 3 else 1)


def _file(address: str) -> io.BytesIO:
    return io.BytesIO(base64.b64decode(address.partition(",")[2]))


@pytest.mark.parametrize("count", [1, 5, 2000])
def test_every_sheet_is_as_wide_as_its_columns(count: int) -> None:
    """The page scales a sheet by the number of its columns."""
    sprites = make_sprites(np.zeros((count, 70, 70), np.uint8), np.arange(count))
    sizes = [Image.open(_file(sheet)).size for sheet in sprites.sheets]
    assert {width for width, _ in sizes} == {sprites.columns * 72}
    assert sum(height // 72 for _, height in sizes) * sprites.columns >= count
    assert len(sizes) == (2 if count == 2000 else 1)
    assert sprites.place(count - 1)[1] < sprites.columns


def test_thumbnails_get_smaller_until_they_fit() -> None:
    noise = np.random.default_rng(0).integers(0, 256, size=(50, 64, 64, 3)).astype(np.uint8)
    rows = np.arange(50)
    whole = make_sprites(noise, rows)
    assert whole.width == 64
    small = make_sprites(noise, rows, limit=40_000)
    assert small.width < 64
    assert sum(len(sheet) for sheet in small.sheets) < 40_000 * 4 / 3 + 100


def test_a_hundred_thousand_samples_stay_far_below_30_megabytes(tmp_path: Path) -> None:
    n, k = 100_000, 100
    rng = np.random.default_rng(0)
    labels = rng.integers(0, k, n)
    X = rng.integers(0, 256, size=(n, 12, 12)).astype(np.uint8)
    data = Dataset("x", X, names=[f"{i:08x}-{v:016x}.jpg" for i, v in enumerate(rng.integers(0, 2**62, n).tolist())])
    codes = rng.normal(size=(n, 3)).astype(np.float32)
    html = build_report(make_run(tmp_path, data, labels, k), data, Fake(None, codes))
    assert len(html) < 30e6
    values = script_values(html)
    assert len(unpacked(values["map"]["rows"], "<u4")) == 4000
    assert values["names"] is not None


def test_the_map_has_samples_of_every_cluster() -> None:
    labels = np.r_[np.zeros(50_000, int), np.ones(3, int), np.full(40, 2)]
    rows = choose_map_rows(labels, 4)
    assert len(rows) == len(set(rows.tolist())) == 4000
    counts = np.bincount(labels[rows], minlength=4)
    assert counts[1] == 3
    assert counts[2] >= 10
    np.testing.assert_array_equal(rows, choose_map_rows(labels, 4))


def test_features_that_set_a_cluster_apart() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 6)) * [1, 100, 1, 1, 1, 0] + [0, 1e6, 0, 0, 0, 7]
    labels = np.arange(200) % 2
    X[labels == 1, 3] += 5
    features = read_features(X.astype(np.float64), labels, 3, None)
    assert features.of_cluster(1)[0] == 3
    assert 5 not in features.of_cluster(0)  # constant
    np.testing.assert_allclose(features.cluster_means[1], X[labels == 1].mean(axis=0))
    np.testing.assert_allclose(features.deviation[1:5], X.std(axis=0)[1:5])
    odd = X[0].copy()
    odd[2] = 9
    assert features.of_sample(odd)[0] == 2


def test_notices() -> None:
    config = {"data": {"skipped": 2}, "result": {"warnings": ["most clusters became empty"]}}
    notices = find_notices(np.array([900, 0, 3, 97]), config, [Skipped("a.txt", "not an image")])
    assert [notice.partition(":")[0] for notice in notices] == [
        "1 of 4 clusters is empty (1)",
        "1 cluster is tiny beside an average of 250 samples",
        "Cluster 0 holds 90% of all samples.",
        "2 files were left out because they could not be read as images",
        "During training",
    ]
    assert "a.txt (not an image)" in notices[3]
    assert find_notices(np.array([10, 11, 9]), {}) == []


def test_curves_are_grouped_and_every_term_is_there() -> None:
    history = [{"phase": "a", "L_pos": 1.0, "terms": {"L_neg": 2}, "positives_per_sample": 3, "changed": 0.1}]
    curves = make_curves([*history, {"phase": "b", "live_clusters": 4}])
    groups = {group["title"]: [term["name"] for term in group["terms"]] for group in curves["groups"]}
    assert groups == {
        "Loss terms and objective": ["L_pos", "L_neg"],
        "Live clusters and selected pairs": ["positives_per_sample", "live_clusters"],
        "Progress": ["changed"],
    }
    assert curves["phase"] == [0, 1]


@pytest.mark.parametrize("k", [1, 8, 20, 100, 300])
def test_colours_differ_from_each_other_and_from_both_pages(k: int) -> None:
    colours = cluster_colours(k)
    assert len(colours) == k
    assert len(set(colours)) == min(k, 256)
    assert all(re.fullmatch("#[0-9A-F]{6}", colour) for colour in colours)
    rgb = np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in colours], float)
    assert np.linalg.norm(rgb - 255, axis=1).min() > 60
    assert np.linalg.norm(rgb - 20, axis=1).min() > 60


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Thirty dark and thirty bright images; one has a name that is no good as HTML."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(60):
        name = "<img src=x onerror=alert(1)>" if i == 0 else f"photo {i:02d}"
        pixels = rng.integers(0, 90, (8, 12, 3)) + (150 if i % 2 else 0)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{name}.png")
    (folder / "notes.txt").write_text("no image")
    return folder


def call(*words: object, code: int = 0):
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == code, result.output + repr(result.exception)
    return result


def test_the_command(photos: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    fitted = call("fit", photos, "-k", 2, "--method", "kmeans", "--image-size", 8, "-o", run)
    assert f"subspan report {run}" in fitted.stderr
    result = call("report", run)
    written = json.loads(result.stdout)
    html = (run / "report.html").read_text()
    assert written == {"n": 60, "out": str(run / "report.html"), "bytes": len(html.encode())}
    assert "60 images in 2 clusters" in text_of(html)
    assert "notes.txt (not an image)" in html
    assert "<img src=x" not in html

    moved = photos.rename(tmp_path / "elsewhere")
    assert "say where they are with --source PATH" in call("report", run, code=2).stderr
    call("report", run, "--source", moved, "-o", tmp_path / "pages" / "a.html")
    assert (tmp_path / "pages" / "a.html").is_file()
    assert "no data set, folder or file" in call("report", run, "--source", "nowhere", code=2).stderr
    next(moved.glob("photo 1*")).unlink()
    changed = call("report", run, "--source", moved, code=2)
    assert "has 59 samples and the run 60" in changed.stderr

    (run / "model").rename(run / "lost")
    assert "has no model" in call("report", run, "--source", moved, code=2).stderr
    (run / "labels.csv").unlink()
    assert "--resume" in call("report", run, code=2).stderr
    assert "is not a run folder" in call("report", tmp_path, code=2).stderr


def test_warnings_of_the_training_are_kept_for_the_report(tmp_path: Path, monkeypatch) -> None:
    import warnings

    from subspan.methods.kmeans import KMeans

    fit = KMeans.fit
    monkeypatch.setattr(KMeans, "fit", lambda self, X: (warnings.warn("odd data", stacklevel=1), fit(self, X))[1])
    np.save(tmp_path / "x.npy", planted()[0])
    call("fit", tmp_path / "x.npy", "-k", 3, "--method", "kmeans", "-o", tmp_path / "run")
    call("report", tmp_path / "run")
    assert "During training: odd data" in (tmp_path / "run" / "report.html").read_text()

"""The command line, with a small estimator of known behaviour in the place of the real ones."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import ClassVar
from unittest.mock import patch

import numpy as np
import pytest
from PIL import Image
from sklearn.base import BaseEstimator
from typer.testing import CliRunner

from subspan import _cli_figures, _cli_runs, plots
from subspan._cli_common import parse_settings
from subspan.cli import app
from subspan.datasets import Dataset
from subspan.errors import InvalidInputError
from subspan.methods import METHODS


class Halves(BaseEstimator):
    """Clusters 0 and 1: samples below and above the mean level of all.

    A stand-in with the interface of the real estimators.
    """

    fits: ClassVar[list[dict]] = []
    interrupt = False

    def __init__(
        self,
        n_clusters=10,
        *,
        recipe="paper",
        encoder="auto",
        learning_rate=1e-3,
        epochs=(60, 30),
        random_state=None,
        verbose=0,
        checkpoint_dir=None,
        resume=False,
    ):
        self.n_clusters = n_clusters
        self.recipe = recipe
        self.encoder = encoder
        self.learning_rate = learning_rate
        self.epochs = epochs
        self.random_state = random_state
        self.verbose = verbose
        self.checkpoint_dir = checkpoint_dir
        self.resume = resume

    def estimate_resources(self, X):
        if self.n_clusters < 1:
            raise InvalidInputError(f"n_clusters is {self.n_clusters}: give a positive number.")
        if self.learning_rate < 0:
            raise ValueError("learning_rate must\n   be positive")
        return {"memory_bytes": 3 * 2**20}

    def resolved_parameters(self, X):
        return {"epochs": {"joint": 3}}

    def fit(self, X, y=None):
        assert y is None
        Halves.fits.append({**self.get_params(), "shape": X.shape})
        folder = Path(self.checkpoint_dir)
        folder.mkdir(exist_ok=True)
        (folder / "state").write_text("epoch 3")
        if Halves.interrupt:
            raise KeyboardInterrupt
        level = X.reshape(len(X), -1).mean(axis=1)
        self.threshold_ = float(level.mean())
        self.labels_ = (level > self.threshold_).astype(int)
        self.history_ = [{"phase": "joint", "epoch": i, "L_pos": 1.0 / (i + 1)} for i in range(3)]
        self.stop_reason_ = "finished"
        return self

    def predict(self, X):
        return (X.reshape(len(X), -1).mean(axis=1) > self.threshold_).astype(int)

    def predict_proba(self, X):
        p = 0.5 + abs(X.reshape(len(X), -1).mean(axis=1) - self.threshold_) / 1000
        return np.where(self.predict(X)[:, None] == [0, 1], p[:, None], 1 - p[:, None])

    def transform(self, X):
        return X.reshape(len(X), -1)[:, :2].astype(np.float32)

    def affinities(self, X, index):
        same = self.labels_[index][:, None] == self.labels_[index]
        return 0.5 * same, 1.0 * same

    def save(self, folder):
        (Path(folder) / "model.json").write_text(json.dumps([self.threshold_, self.labels_.tolist()]))


def load_halves(run):
    estimator = Halves()
    estimator.threshold_, labels = json.loads((run.model / "model.json").read_text())
    estimator.labels_, estimator.history_ = np.array(labels), [{"phase": "joint", "epoch": 0, "L_pos": 1.0}]
    return estimator


@pytest.fixture(autouse=True)
def _stub(monkeypatch) -> None:
    monkeypatch.setitem(METHODS._entries, "ncsc", Halves)
    monkeypatch.setattr(_cli_runs, "load_model", load_halves)
    monkeypatch.setattr(Halves, "fits", [])
    monkeypatch.setattr(Halves, "interrupt", False)
    monkeypatch.delenv("SUBSPAN_DATA", raising=False)


def call(*words: object, code: int = 0):
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == code, result.output + repr(result.exception)
    return result


def fails(*words: object, message: str) -> None:
    """The command ends with exit code 2, one line on stderr that contains the message, and nothing on stdout."""
    result = call(*words, code=2)
    assert result.stdout == ""
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.output


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Four dark images in one folder, three bright ones in another."""
    for i, name in enumerate(["dark/a", "dark/b", "dark/c", "dark/d", "light/e", "light/f", "light/g"]):
        path = tmp_path / "photos" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), 10 * i + (100 if i > 3 else 0), np.uint8)).save(path)
    return tmp_path / "photos"


def test_fit_writes_a_complete_run(photos: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (photos / "broken.png").write_text("no image")
    result = call("fit", photos, "-k", 2, "--seed", 5, "--set", "epochs=[2, 1]", "--encoder", "conv", "--out", run)
    summary = json.loads(result.stdout)
    assert summary["n"] == 7
    assert summary["sizes"] == [4, 3]
    assert summary["stop_reason"] == "finished"
    assert "Skipped broken.png: not an image" in result.stderr
    assert "epochs=[2, 1]" in result.stderr
    config = json.loads((run / "config.json").read_text())
    assert config["source"] == str(photos)
    assert config["data"] == {"kind": "folder", "n": 7, "shape": [8, 8], "dtype": "uint8", "skipped": 1}
    assert config["parameters"] == {
        "n_clusters": 2,
        "recipe": "paper",
        "encoder": "conv",
        "learning_rate": 1e-3,
        "epochs": [2, 1],
        "random_state": 5,
        "verbose": 1,
        "checkpoint_dir": str(run / "checkpoint"),
        "resume": False,
    }
    assert {"python", "torch", "numpy", "subspan"} <= set(config["versions"])
    assert (run / "labels.csv").read_text().splitlines()[1:] == [
        *(f"dark/{c}.png,0" for c in "abcd"),
        *(f"light/{c}.png,1" for c in "efg"),
    ]
    assert len((run / "history.jsonl").read_text().splitlines()) == 3
    assert sorted(path.name for path in run.iterdir()) == [
        "config.json",
        "figures",
        "history.jsonl",
        "labels.csv",
        "model",
    ]
    assert sorted(path.name for path in (run / "figures").iterdir()) == [
        "affinities.png",
        "clusters.png",
        "latent.png",
        "training.png",
    ]


def test_the_source_is_kept_as_a_place_that_any_folder_can_find(photos: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    photos.rename("digits")
    for source, kind, kept in (("./digits", "folder", str(tmp_path / "digits")), ("digits", "images", "digits")):
        call("fit", source, "-k", 2, "-o", "run", "--overwrite", "-q")
        config = json.loads(Path("run/config.json").read_text())
        assert (config["data"]["kind"], config["source"]) == (kind, kept)


def test_quiet_fit_prints_the_result_only(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(12.0).reshape(6, 2))
    result = call("fit", tmp_path / "x.npy", "-k", 2, "-q", "-o", tmp_path / "run")
    assert result.stderr == ""
    assert result.stdout.count("\n") == 1
    assert Halves.fits[0]["verbose"] == 0


def test_pictures_show_each_cluster_from_sure_to_unsure(photos: Path, tmp_path: Path, monkeypatch) -> None:
    seen = {}
    monkeypatch.setattr(
        plots, "contact_sheet", lambda X, labels, path, scores: seen.update(scores=scores, labels=labels)
    )
    call("fit", photos, "-k", 2, "-o", tmp_path / "run")
    assert seen["scores"].shape == seen["labels"].shape == (7,)
    assert (seen["scores"] > 0.5).all()  # of two clusters: each sample's own is the more probable
    assert seen["scores"].argmax() == 6  # the brightest image


def test_labels_of_a_table_do_not_reach_the_fit(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,label\n1,9\n2,9\n8,4\n9,4\n")
    call("fit", tmp_path / "t.csv", "-k", 2, "-o", tmp_path / "run")
    assert Halves.fits[0]["shape"] == (4, 1)
    assert json.loads(call("evaluate", tmp_path / "run").stdout)["acc"] == 1.0


def test_dry_run_prints_configuration_and_memory_and_stops(photos: Path, tmp_path: Path) -> None:
    result = call("fit", photos, "-k", 2, "--dry-run", "--out", tmp_path / "run", "--set", "learning_rate=1e-4")
    assert "learning_rate=0.0001" in result.stdout
    assert "about 3 MiB expected" in result.stdout
    assert re.search(r'^resolved: +epochs=\{"joint": 3\}$', result.stdout, re.MULTILINE)
    assert Halves.fits == []
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"ncsc"}))
def test_every_method_tells_what_it_needs(method: str) -> None:
    result = call("fit", "digits", "-k", 10, "--method", method, "--dry-run")
    assert re.search(r"^memory: +about [0-9.]+ [MG]iB expected", result.stdout, re.MULTILINE)


def test_predict_brings_new_images_to_the_size_of_the_training(photos: Path, tmp_path: Path) -> None:
    call("fit", photos, "-k", 2, "--out", tmp_path / "run", "--image-size", 4)
    new = tmp_path / "new"
    new.mkdir()
    Image.fromarray(np.full((20, 30, 3), [200, 190, 210], np.uint8)).save(new / "x.png")
    Image.fromarray(np.full((9, 9), 3, np.uint8)).save(new / "y.png")
    result = call("predict", tmp_path / "run", new, "--out", tmp_path / "out" / "labels.csv")
    assert json.loads(result.stdout)["n"] == 2
    assert (tmp_path / "out" / "labels.csv").read_text() == "name,label\nx.png,1\ny.png,0\n"


def test_predict_does_not_write_a_table_under_a_foreign_name(photos: Path, tmp_path: Path) -> None:
    call("fit", photos, "-k", 2, "--out", tmp_path / "run")
    fails("predict", tmp_path / "run", photos, "--out", tmp_path / "labels.parquet", message="give a name in .csv")
    assert not (tmp_path / "labels.parquet").exists()


def test_no_output_replaces_data_or_a_part_of_the_run(tmp_path: Path) -> None:
    run, table, new = tmp_path / "run", tmp_path / "t.csv", tmp_path / "new.csv"
    table.write_text("0,5\n1,5\n90,5\n91,5\n")
    new.write_text("2,5\n92,5\n")
    (tmp_path / "link.csv").symlink_to(new)
    call("fit", table, "-k", 2, "-o", run)
    kept = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for out in (new, table, tmp_path / "link.csv"):
        fails("predict", run, new, "-o", out, message="holds the data that are read")
    for out in (run / "labels.csv", run / "model" / "x.csv"):
        fails("predict", run, new, "-o", out, message="belongs to the run")
    fails("report", run, "-o", table, message="give a name in .html")
    fails("report", run, "-o", run / "figures" / "x.html", message="belongs to the run")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == kept
    call("predict", run, new, "-o", run / "new.csv")
    assert len((run / "new.csv").read_text().splitlines()) == 3


def test_predict_refuses_another_shape(photos: Path, tmp_path: Path) -> None:
    call("fit", photos, "-k", 2, "--out", tmp_path / "run")
    np.save(tmp_path / "x.npy", np.ones((3, 5)))
    fails("predict", tmp_path / "run", tmp_path / "x.npy", "-o", tmp_path / "l.csv", message="was trained on (8, 8)")
    assert not (tmp_path / "l.csv").exists()


def test_columns_of_a_table_are_those_of_the_training_whatever_their_order(tmp_path: Path) -> None:
    run, table = tmp_path / "run", tmp_path / "t.csv"
    rows = ["a,0,5", "b,1,5", "c,90,5", "d,91,5"]
    table.write_text("\n".join(["name,low,flat", *rows]))
    call("fit", table, "-k", 2, "-o", run)
    table.write_text("\n".join(["name,flat,low", *(",".join(row.split(",")[i] for i in (0, 2, 1)) for row in rows)]))
    seen = []
    with patch.object(Halves, "predict", lambda self, X: seen.append(X) or np.zeros(len(X), int)):
        call("predict", run, table, "-o", tmp_path / "new.csv")
    np.testing.assert_array_equal(seen[0], [[0, 5], [1, 5], [90, 5], [91, 5]])
    table.write_text("\n".join(["name,low,other", *rows]))
    fails("predict", run, table, "-o", tmp_path / "l.csv", message="column 'flat' is missing")
    table.write_text("\n".join(["name,low,flat,more", *(f"{row},1" for row in rows)]))
    fails("predict", run, table, "-o", tmp_path / "l.csv", message="there are 3 of them")
    table.write_text("\n".join(row[2:] for row in rows))  # without a header it is the place that counts
    call("predict", run, table, "-o", tmp_path / "l.csv")


def test_evaluate_matches_labels_of_a_table_by_name(tmp_path: Path) -> None:
    table, rows = tmp_path / "t.csv", ["a,0,u", "b,1,u", "c,90,v", "d,91,v"]
    table.write_text("\n".join(["name,x,label", *rows]))
    call("fit", table, "-k", 2, "-o", tmp_path / "run")
    table.write_text("\n".join(["name,x,label", rows[2], rows[0], rows[3], rows[1]]))
    assert json.loads(call("evaluate", tmp_path / "run").stdout)["acc"] == 1.0


def test_a_picture_that_cannot_be_drawn_does_not_cost_the_run(photos: Path, tmp_path: Path, monkeypatch) -> None:
    def fails_to_draw(*_):
        raise MemoryError

    monkeypatch.setattr(_cli_runs, "draw", fails_to_draw)
    result = CliRunner().invoke(app, ["fit", str(photos), "-k", "2", "--out", str(tmp_path / "run")])
    assert result.exit_code != 0
    assert (tmp_path / "run" / "labels.csv").is_file()
    assert (tmp_path / "run" / "model").is_dir()


def test_evaluate_prints_one_json_line(photos: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    call("fit", photos, "-k", 2, "--out", run)
    (photos / "dark").rename(tmp_path / "gone")  # the labels are in the names: the images are not needed again
    assert call("evaluate", run).stdout == '{"n": 7, "acc": 1.0, "nmi": 1.0, "ari": 1.0}\n'
    np.save(tmp_path / "y.npy", np.array([0, 0, 0, 1, 1, 1, 1]))
    assert json.loads(call("evaluate", run, "--labels", tmp_path / "y.npy").stdout)["acc"] == pytest.approx(6 / 7)


def test_evaluate_matches_a_label_file_by_name(photos: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    call("fit", photos, "-k", 2, "--out", run)
    lines = (run / "labels.csv").read_text().splitlines()
    (tmp_path / "y.csv").write_text("\n".join([lines[0], *reversed(lines[1:]), "other.png,1"]))
    assert json.loads(call("evaluate", run, "--labels", tmp_path / "y.csv").stdout)["acc"] == 1.0
    (tmp_path / "y.csv").write_text("\n".join(lines[:-1]))
    fails("evaluate", run, "--labels", tmp_path / "y.csv", message="no label for 'light/g.png'")
    (tmp_path / "y.csv").write_text("\n".join(["species", *(line.split(",")[-1] for line in lines[1:])]))
    fails("evaluate", run, "--labels", tmp_path / "y.csv", message="call it 'label'")


def test_evaluate_without_labels(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(6.0).reshape(3, 2))
    call("fit", tmp_path / "x.npy", "-k", 2, "--out", tmp_path / "run")
    fails("evaluate", tmp_path / "run", message="give them with --labels FILE")
    (tmp_path / "y.csv").write_text("0\n1\n")
    fails("evaluate", tmp_path / "run", "--labels", tmp_path / "y.csv", message="2 true labels and the run has 3")
    fails("evaluate", tmp_path / "run", "--labels", tmp_path / "no.csv", message="There is no file")
    fails("evaluate", tmp_path / "nowhere", message="is not a run folder")


def test_confidence_is_asked_of_some_samples_of_each_cluster(monkeypatch) -> None:
    """A pass over all images takes as long as a third of the fit."""
    monkeypatch.setattr(_cli_figures, "_SCORED_SAMPLES", 40)
    labels = np.repeat([0, 1, 3], [500, 3, 30])
    data = Dataset("x", np.arange(533.0)[:, None, None])

    class Sure:
        def predict_proba(self, X):
            return X[:, :, 0] / 1000 + np.arange(4)

    found = _cli_figures._confidence(Sure(), data, labels)
    asked = ~np.isnan(found)
    assert np.bincount(labels[asked]).tolist() == [13, 3, 0, 13]
    rows = np.flatnonzero(asked)
    np.testing.assert_array_equal(found[asked], rows / 1000 + labels[asked])


def test_figures_are_drawn_again_and_by_true_label_when_asked(photos: Path, tmp_path: Path, monkeypatch) -> None:
    run, fresh = tmp_path / "run", tmp_path / "fresh"
    call("fit", photos, "-k", 2, "--out", run)
    seen: list[dict] = []
    draw = plots.latent_figure
    monkeypatch.setattr(plots, "latent_figure", lambda *args, **more: seen.append(more) or draw(*args, **more))
    (run / "figures" / "clusters.png").unlink()
    written = json.loads(call("figures", run).stdout)["figures"]
    names = ["clusters", "training", "latent", "affinities"]
    assert written == [str(run / "figures" / f"{name}.png") for name in names]
    assert all(Path(path).is_file() for path in written)
    assert seen[0]["truth"] is None
    call("figures", run, "--true", "--out", fresh)
    assert sorted(path.stem for path in fresh.iterdir()) == sorted(names)
    assert seen[1]["truth"].tolist() == ["dark"] * 4 + ["light"] * 3
    assert Image.open(fresh / "latent.png").size[0] > 1.9 * Image.open(run / "figures" / "latent.png").size[0]
    np.save(tmp_path / "y.npy", np.arange(7))
    call("figures", run, "--labels", tmp_path / "y.npy", "--out", fresh)
    assert seen[2]["truth"].tolist() == list(range(7))


def test_pictures_do_not_go_among_the_images_or_into_a_model(photos: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    call("fit", photos, "-k", 2, "--out", run)
    call("fit", photos, "-k", 2, "--out", photos / "run")
    kept = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for out in (photos, photos / "dark", photos / "new"):
        fails("figures", run, "-o", out, message="holds the images of the run")
    for out in (run, run / "model", photos / "run"):
        fails("figures", run, "-o", out, message="choose another --out")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == kept
    call("figures", run, "-o", run / "figures")
    call("figures", photos / "run", "-o", photos / "run" / "more")
    assert (photos / "run" / "more" / "latent.png").is_file()


@pytest.mark.parametrize(("axis", "channels"), [(1, 3), (1, 1), (-1, 3), (-1, 1)])
def test_a_run_on_an_array_labels_a_folder_wherever_its_channels_are(photos: Path, tmp_path: Path, axis, channels):
    images = np.zeros((4, 5, 6, channels), np.uint8)
    images[2:] = 255
    np.save(tmp_path / "x.npy", np.moveaxis(images, -1, axis))
    call("fit", tmp_path / "x.npy", "-k", 2, "--out", tmp_path / "run")
    call("predict", tmp_path / "run", photos, "--out", tmp_path / "new.csv")
    lines = (tmp_path / "new.csv").read_text().splitlines()[1:]
    assert [line.rpartition(",")[2] for line in lines] == ["0"] * 4 + ["1"] * 3


def test_a_method_without_training_has_no_curves(photos: Path, tmp_path: Path, monkeypatch) -> None:
    fit = Halves.fit

    def solve(self, X):
        fit(self, X).history_ = [{"phase": "solve", "epoch": 1, "seconds": 0.1}]
        return self

    monkeypatch.setattr(Halves, "fit", solve)
    call("fit", photos, "-k", 2, "--out", tmp_path / "run")
    assert sorted(path.stem for path in (tmp_path / "run" / "figures").iterdir()) == [
        "affinities",
        "clusters",
        "latent",
    ]


def test_figures_need_the_samples_of_the_run(photos: Path, tmp_path: Path, monkeypatch) -> None:
    run = tmp_path / "run"
    call("fit", photos, "-k", 2, "--out", run)

    def forgot(self, X, index):
        raise InvalidInputError("A loaded model holds no coefficients: fit it again to see its affinity.")

    monkeypatch.setattr(Halves, "affinities", forgot)
    result = call("figures", run)
    assert "No new affinities.png: A loaded model holds no coefficients" in result.stderr
    assert len(json.loads(result.stdout)["figures"]) == 3
    (photos / "dark" / "a.png").rename(photos / "dark" / "z.png")
    fails("figures", run, message="no longer holds the 7 samples of the run")
    (run / "labels.csv").unlink()
    fails("figures", run, message="--resume")


def test_an_existing_run_needs_resume_or_overwrite(photos: Path, tmp_path: Path) -> None:
    words = ("fit", photos, "-k", 2, "--out", tmp_path / "run")
    call(*words)
    fails(*words, message="add --resume to continue or --overwrite")
    fails(*words, "--resume", "--overwrite", message="exclude each other")
    assert len(Halves.fits) == 1
    assert "finished already" in call(*words, "--resume").stderr
    fails(*words, "--resume", "--image-size", 4, message="started with another reading")
    fails(*words, "--resume", "--seed", 3, message="another random_state")
    fails("fit", photos, "-k", 3, "--out", tmp_path / "run", "--resume", message="another n_clusters")
    fails("fit", "digits", "-k", 2, "--out", tmp_path / "run", "--resume", message="another source")
    assert len(Halves.fits) == 1
    call(*words, "--overwrite")
    assert [fit["resume"] for fit in Halves.fits] == [False, False]


def test_interrupted_fit_keeps_its_checkpoint_and_says_how_to_go_on(photos: Path, tmp_path: Path, monkeypatch) -> None:
    run = tmp_path / "my run"
    monkeypatch.setattr(Halves, "interrupt", True)
    words = ("fit", photos, "-k", 2, "--set", "epochs=[2, 1]", "--set", "learning_rate=0.01", "--seed", 4)
    result = call(*words, "--out", run, code=130)
    assert "the checkpoint is kept" in result.stderr
    assert "Traceback" not in result.output
    assert (run / "checkpoint" / "state").exists()
    assert not (run / "labels.csv").exists()
    fails("evaluate", run, message="--resume")

    monkeypatch.setattr(Halves, "interrupt", False)
    fails("fit", photos, "-k", 3, "--out", run, "--resume", message="another epochs, learning_rate, n_clusters")
    command = result.stderr.rpartition("Continue with: ")[2]
    call(*shlex.split(command)[1:])
    before, after = Halves.fits
    assert after["resume"] is True
    assert {**after, "resume": False} == before
    assert not (run / "checkpoint").exists()


def test_wrong_words_get_one_sentence(photos: Path, tmp_path: Path) -> None:
    def fit(*words: object) -> tuple:
        return ("fit", photos, "-k", 2, "--out", tmp_path / "run", *words)

    fails(*fit("--set", "learning_rte=1"), message="has no parameter 'learning_rte': did you mean learning_rate?")
    fails(*fit("--set", "learning_rate"), message="write --set name=value")
    fails(*fit("--set", "n_clusters=4"), message="use --n-clusters")
    fails(*fit("--set", "epochs=1", "--set", "epochs=2"), message="twice")
    fails(*fit("--set", "learning_rate=-1"), message="learning_rate must be positive (add --debug")
    fails(*fit("--method", "ncs"), message="There is no method 'ncs': did you mean ncsc?")
    fails(*fit("--method", "foo"), message=f"There is no method 'foo': choose one of {', '.join(METHODS)}.")
    fails(*fit("--set", "foo=1"), message="has no parameter 'foo': there are ")
    fails(*fit("--color", "blue"), message="choose 'auto', 'gray' or 'rgb'")
    fails("fit", photos, "-k", 0, "--out", tmp_path / "run", message="n_clusters is 0")
    fails("fit", photos, "-k", 2, message="add --out RUN")
    fails("fit", "digts", "-k", 2, "--out", tmp_path / "run", message="a known name (digits")
    fails(
        "fit", tmp_path / "no.csv", "-k", 2, "--out", tmp_path / "run", message="There is no data set, folder or file"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("words", [("fit", "digits"), ("fit", "digits", "-k", "two"), ("fit",), ("fitt",)])
def test_misused_options_end_with_code_2(words: tuple) -> None:
    result = call(*words, code=2)
    assert "Error:" in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize("position", [0, 5])
def test_debug_shows_the_traceback(tmp_path: Path, position: int) -> None:
    words = ["fit", "nothing", "-k", "2", "--dry-run"]
    words.insert(position, "--debug")
    result = call(*words, code=2)
    assert "Traceback" in result.stderr
    assert "DataNotFoundError" in result.stderr


def test_a_bug_is_not_hidden(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(Halves, "fit", lambda self, X: {}["bug"])
    result = CliRunner().invoke(app, ["fit", "digits", "-k", "2", "-o", str(tmp_path / "run")])
    assert isinstance(result.exception, KeyError)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("true", True),
        ("False", False),
        ("None", None),
        ("(1, 2)", (1, 2)),
        ("[1]", [1]),
        ("relu", "relu"),
    ],
)
def test_values_of_set(text: str, value: object) -> None:
    found = parse_settings([f"name={text}"])["name"]
    assert found == value
    assert type(found) is type(value)


def test_lists_of_methods_and_datasets(tmp_path: Path, monkeypatch) -> None:
    assert call("methods").stdout.split(maxsplit=2)[:2] == ["ncsc", "Clusters"]
    np.savez(tmp_path / "mine.npz", X=np.ones((6, 3, 2)), y=np.arange(6) % 2)
    monkeypatch.setenv("SUBSPAN_DATA", str(tmp_path))
    rows = {line.split()[0]: line.split() for line in call("datasets").stdout.splitlines()}
    assert rows["mine"][1:7] == ["6", "3", "x", "2", "2", "yes"]
    assert rows["mnist"][1:7] == ["70000", "28", "x", "28", "10", "no"]


def test_demo_compares_with_kmeans_and_can_be_repeated(tmp_path: Path) -> None:
    for _ in range(2):
        output = call("demo", "--out", tmp_path / "demo", "--set", "epochs=1", "-q").stdout
    lines = {
        name: line.split() for line in output.splitlines() for name in ("NCSC", "K-Means", "method") if name in line
    }
    assert [word for word in lines["method"] if word.isalpha()] == ["method", "ACC", "NMI", "ARI"]
    scores = [float(word) for word in lines["K-Means"] if "." in word]
    assert 70 < scores[0] < 90  # K-Means on the pixels of the digits
    assert len([word for word in lines["NCSC"] if "." in word]) == 3
    assert (tmp_path / "demo" / "figures" / "clusters.png").exists()
    assert "1,797" in (tmp_path / "demo" / "report.html").read_text()


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "subspan", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == CliRunner().invoke(app, ["--version"]).output.strip()


def test_help_and_version_do_not_import_torch() -> None:
    code = (
        "import sys, subspan.cli as cli\n"
        "try: cli.app(['--version'])\n"
        "except SystemExit as end: code = end.code\n"
        "print(code, [m for m in ('torch', 'sklearn', 'matplotlib', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[1:] == ["0 []"]
    assert done.stdout.startswith("subspan 0.")


def test_what_cannot_be_fitted_leaves_no_run_and_clears_none(tmp_path):
    out = tmp_path / "run"
    for words in (["--set", "device=abacus"], ["--seed", "-1"], ["--set", "head_width=-3"], ["--set", "head=arms"]):
        done = CliRunner().invoke(app, ["fit", "digits", "-k", "10", "--out", str(out), *words])
        assert done.exit_code == 2, words
        assert not out.exists(), words
    small = ["--method", "sae-km", "--set", 'epochs={"layers": 0, "autoencoder": 0}']
    assert CliRunner().invoke(app, ["fit", "digits", "-k", "10", "--out", str(out), *small]).exit_code == 0
    again = [*small, "--set", f"pretrained={out}/model", "--overwrite"]
    assert CliRunner().invoke(app, ["fit", "digits", "-k", "10", "--out", str(out), *again]).exit_code == 2
    assert (out / "model" / "model.safetensors").is_file()

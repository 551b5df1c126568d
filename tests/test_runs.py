"""Run folders: files are whole or absent, and nobody's data is lost."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest

from subspan import runs
from subspan.errors import CheckpointError, DataNotFoundError, InvalidInputError, ResourceError

CONFIG = {"method": "m", "source": "s", "parameters": {"k": 3, "resume": False}}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_config_comes_back(tmp_path: Path) -> None:
    runs.create_run(tmp_path / "a" / "run", {**CONFIG, "prior": np.array([0.5, 0.5]), "seed": np.int64(3)})
    assert runs.load_run(tmp_path / "a" / "run").config == {**CONFIG, "prior": [0.5, 0.5], "seed": 3}


def test_labels_come_back_with_any_name(tmp_path: Path) -> None:
    given = ["a,b", 'quote " and\nnew line', "ü/é.png"]
    runs.write_labels(tmp_path / "labels.csv", np.array([2, 0, 1]), given)
    labels, found = runs.read_labels(tmp_path / "labels.csv")
    assert labels.tolist() == [2, 0, 1]
    assert found == given
    runs.write_labels(tmp_path / "labels.csv", np.array([5, 6]))
    assert (tmp_path / "labels.csv").read_text() == "name,label\n0,5\n1,6\n"


def test_history_is_json_lines_without_nan(tmp_path: Path) -> None:
    run = runs.create_run(tmp_path / "run", CONFIG)
    runs.write_history(run, [{"phase": "a", "loss": np.float32(0.5)}, {"phase": "b", "loss": float("nan")}])
    lines = run.history.read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"phase": "a", "loss": 0.5}, {"phase": "b", "loss": None}]


def test_an_existing_run_is_refused_and_kept(tmp_path: Path) -> None:
    run = runs.create_run(tmp_path, CONFIG)
    runs.write_labels(run.labels, np.array([1]))
    with pytest.raises(InvalidInputError, match="--resume to continue or --overwrite"):
        runs.create_run(tmp_path, CONFIG)
    assert run.finished


def test_overwrite_removes_the_run_and_nothing_else(tmp_path: Path) -> None:
    run = runs.create_run(tmp_path, CONFIG)
    runs.write_labels(run.labels, np.array([1]))
    run.checkpoint.mkdir()
    (run.checkpoint / "state").write_text("x")
    (tmp_path / "notes.txt").write_text("mine")
    runs.create_run(tmp_path, CONFIG, overwrite=True)
    assert names(tmp_path) == ["config.json", "notes.txt"]


def test_an_overwrite_that_is_interrupted_can_be_repeated(tmp_path: Path, monkeypatch) -> None:
    run = runs.create_run(tmp_path, CONFIG)
    run.checkpoint.mkdir()

    def interrupted(path):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(runs.shutil, "rmtree", interrupted)
        with pytest.raises(KeyboardInterrupt):
            runs.create_run(tmp_path, CONFIG, overwrite=True)
    runs.create_run(tmp_path, CONFIG, overwrite=True)
    assert names(tmp_path) == ["config.json"]


def test_overwrite_removes_a_link_and_not_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "state").write_text("x")
    run = runs.create_run(tmp_path / "run", CONFIG)
    run.checkpoint.symlink_to(tmp_path / "disk")
    runs.create_run(tmp_path / "run", CONFIG, overwrite=True)
    assert names(tmp_path / "run") == ["config.json"]
    assert (tmp_path / "disk" / "state").read_text() == "x"


@pytest.mark.parametrize("option", ["overwrite", "resume"])
def test_a_folder_that_is_no_run_is_never_touched(tmp_path: Path, option: str) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "thesis.tex").write_text("mine")
    with pytest.raises(InvalidInputError, match="not a run folder"):
        runs.create_run(tmp_path, CONFIG, **{option: True})
    assert (tmp_path / "model" / "thesis.tex").read_text() == "mine"


def test_resume_wants_the_same_configuration(tmp_path: Path) -> None:
    runs.create_run(tmp_path, CONFIG)
    runs.create_run(
        tmp_path, {**CONFIG, "parameters": {"k": 3, "resume": True}}, resume=True
    )  # resume itself is no change
    with pytest.raises(CheckpointError, match="another k:"):
        runs.create_run(tmp_path, {**CONFIG, "parameters": {"k": 4, "resume": True}}, resume=True)
    assert runs.load_run(tmp_path).config["parameters"]["k"] == 3


def test_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("x")
    with pytest.raises(InvalidInputError, match="is a file"):
        runs.create_run(tmp_path / "run", CONFIG)
    with pytest.raises(InvalidInputError, match="cannot be written"):
        runs.create_run(tmp_path / "run" / "below", CONFIG)


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(InvalidInputError, match="cannot be written"):
        runs.create_run(tmp_path / "run", CONFIG)


@pytest.mark.parametrize(("code", "kind"), [(errno.ENOSPC, ResourceError), (errno.EROFS, InvalidInputError)])
def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch, code: int, kind: type) -> None:
    run = runs.create_run(tmp_path, CONFIG)
    runs.write_labels(run.labels, np.array([1]))

    def fail(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(kind, match="choose another place"):
        runs.write_labels(run.labels, np.array([2]))
    assert runs.read_labels(run.labels)[0].tolist() == [1]
    assert names(tmp_path) == ["config.json", "labels.csv"]


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    runs.write_labels(tmp_path / "labels.csv", np.array([1]))
    with (tmp_path / "labels.csv").open() as reader:  # opened before, read after: still the old file
        runs.write_labels(tmp_path / "labels.csv", np.array([2, 3]))
        assert reader.read() == "name,label\n0,1\n"
    assert (tmp_path / "labels.csv").read_text() == "name,label\n0,2\n1,3\n"


def test_a_model_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    run = runs.create_run(tmp_path, CONFIG)
    runs.write_model(run, lambda folder: (Path(folder) / "weights").write_text("old"))

    def fail(folder: Path) -> None:
        (Path(folder) / "weights").write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(ResourceError, match="is full"):
        runs.write_model(run, fail)
    assert (run.model / "weights").read_text() == "old"
    runs.write_model(run, lambda folder: (Path(folder) / "weights").write_text("new"))
    assert (run.model / "weights").read_text() == "new"
    assert names(tmp_path) == ["config.json", "model"]


def test_finish_adds_the_outcome_and_drops_the_checkpoint(tmp_path: Path) -> None:
    run = runs.create_run(tmp_path, CONFIG)
    run.checkpoint.mkdir()
    assert not run.finished
    runs.finish_run(run, {"seconds": 1.5}, np.array([0, 1]))
    assert run.finished
    assert runs.load_run(tmp_path).config == {**CONFIG, "result": {"seconds": 1.5}}
    assert names(tmp_path) == ["config.json", "labels.csv"]


def test_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match=r"no config\.json"):
        runs.load_run(tmp_path)
    (tmp_path / "config.json").write_text('{"method": ')
    with pytest.raises(CheckpointError, match=r"config\.json is damaged"):
        runs.load_run(tmp_path)
    with pytest.raises(DataNotFoundError, match=r"There is no .*labels\.csv"):
        runs.read_labels(tmp_path / "labels.csv")
    for content in ("", "name,label\n0,x\n", "a,b\n0,1\n", "name,label\n0\n"):
        (tmp_path / "labels.csv").write_text(content)
        with pytest.raises(CheckpointError, match=r"labels\.csv is damaged"):
            runs.read_labels(tmp_path / "labels.csv")


def test_a_link_stays_a_link_and_a_device_a_device(tmp_path):
    (tmp_path / "real.csv").write_text("old")
    (tmp_path / "link.csv").symlink_to(tmp_path / "real.csv")
    runs.write_labels(tmp_path / "link.csv", np.array([1, 0]))
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "real.csv").read_text().splitlines()[-1].endswith("0")
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(InvalidInputError, match="not a file that could be replaced"):
        runs.write_labels(tmp_path / "pipe.csv", np.array([1, 0]))
    assert (tmp_path / "pipe.csv").is_fifo()

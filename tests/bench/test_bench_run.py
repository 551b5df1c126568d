"""Cells in their processes: what a line holds, failures, limits, and kill -9."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import subspan
from subspan.bench import runner, shared
from subspan.bench.records import Journal, read_records
from subspan.bench.scratch import scratch_folder
from subspan.bench.settings import cells, parse_suite
from subspan.bench.worker import choose_samples, run_cell
from subspan.cli import app
from subspan.methods.sae_kmeans import SAEKMeans

OPTIONS = runner.Options(plugins=("bench_fakes",))
PROGRAM = "from subspan.cli import main; main()"


def run_all(found, path, options=OPTIONS):
    with Journal(path) as journal:
        plan = runner.make_plan(found, journal.finished, options)
        return plan, runner.run_plan(plan, journal, options, lambda text: None)


def other(cell, method, **changes):
    return replace(cell, row=method, method=method, parameters={}, **changes)


def test_scores_are_those_of_hand_made_labels(suite, tiny, fakes):
    """Ten samples, one of them in the wrong cluster."""
    right, spoilt = (run_cell(cell.to_json()) for cell in cells(suite, [0])[:2])
    assert (right["acc"], right["nmi"], right["ari"]) == (1.0, 1.0, 1.0)
    assert spoilt["status"] == "ok"
    assert spoilt["acc"] == 0.9
    # pairs: 1 + ... with clusters of 4 and 6, table [[4, 0], [1, 5]]: index 16, expected 20 * 21 / 45, maximum 20.5
    assert spoilt["ari"] == pytest.approx((16 - 20 * 21 / 45) / (20.5 - 20 * 21 / 45))
    assert spoilt["config"] == {"n_clusters": 2, "random_state": 0, "wait": 0.0, "wrong": 1}
    assert spoilt["phases"] == {"a": 2.0, "b": 1.0}
    assert (spoilt["n"], spoilt["live_clusters"], spoilt["stop_reason"]) == (10, 2, "finished")
    assert spoilt["memory"]["peak_bytes"] > 10_000_000


def test_a_subset_depends_on_the_seed_alone_and_keeps_its_labels(suite, tiny, fakes):
    assert choose_samples(10, None, 0) is None
    assert choose_samples(10, 10, 0) is None
    chosen = choose_samples(1000, 20, 3)
    assert len(np.unique(chosen)) == 20
    assert np.array_equal(chosen, np.sort(chosen))
    assert np.array_equal(chosen, choose_samples(1000, 20, 3))
    assert not np.array_equal(chosen, choose_samples(1000, 20, 4))
    found = run_cell(replace(cells(suite, [0])[0], max_samples=7).to_json())
    assert (found["n"], found["acc"]) == (7, 1.0)


def test_failures_say_why_without_the_folders_of_this_machine(suite, tiny, fakes):
    failed = run_cell(other(cells(suite, [0])[0], "fake-failing").to_json())
    assert failed["status"] == "failed"
    assert failed["error"] == "ArithmeticError: no such luck"
    assert "worker.py" in failed["traceback"]
    assert str(Path(subspan.__file__).parents[1]) not in failed["traceback"]
    assert failed["warnings"] == ["UserWarning: this will not end well"]
    good = cells(suite, [0])[0]
    assert run_cell(replace(good, data="nowhere").to_json())["status"] == "missing"
    assert "no labels" in run_cell(replace(good, data="unlabelled").to_json())["error"]
    assert "unexpected" in run_cell(replace(good, parameters={"hue": 1}).to_json())["error"]


def test_codes_are_learned_before_the_fit(suite, tmp_path, tiny, fakes, monkeypatch):
    rng = np.random.default_rng(0)
    y = np.arange(40) % 2
    np.savez(tiny / "images.npz", X=rng.random((40, 8, 8)) + y[:, None, None], y=y)
    seen = []
    monkeypatch.setattr(fakes.Nearest, "fit", lambda self, X: seen.append(X) or setattr(self, "labels_", y) or self)
    cell = replace(cells(suite, [0])[0], data="images", codes={"encoder": "mlp", "epochs": 1})
    for folder in ("first", "second"):
        found = run_cell(cell.to_json(), cache=str(tmp_path / folder))
    assert found["status"] == "ok", found
    assert found["seconds"]["codes"] > 0
    assert found["shared_seconds"] == 0
    assert seen[0].shape == (40, 32)
    assert np.array_equal(*seen), "the same seed, the same codes"


def test_cells_that_share_codes_learn_them_once(suite, tmp_path, tiny, monkeypatch):
    X, learned = np.random.default_rng(0).random((40, 8, 8)), []

    def learn(X, k, seed, *, device, epochs):
        learned.append((seed, epochs))
        return np.full((len(X), 3), seed + epochs, np.float32)

    monkeypatch.setattr(shared, "learn_codes", learn)
    cell = replace(cells(suite, [0])[0], codes={"epochs": 1}).to_json()
    codes, seconds = shared.shared_codes(cell, X, tmp_path / "new", "cpu")
    again, counted = shared.shared_codes({**cell, "method": "another", "parameters": {}}, X, tmp_path / "new", "cpu")
    assert (learned, counted) == ([(0, 1)], seconds)
    assert np.array_equal(codes, again)
    for other in ({"seed": 1}, {"codes": {"epochs": 2}}):
        assert shared.shared_codes(cell | other, X, tmp_path / "new", "cpu")[0][0, 0] == 2
    shared.shared_codes(cell, X + 1, tmp_path / "new", "cpu")
    assert learned == [(0, 1), (1, 1), (0, 2), (0, 1)], "other seed, options or samples, other codes"
    kept = list((tmp_path / "new").iterdir())
    assert len(kept) == 4
    for path in kept:
        path.write_bytes(path.read_bytes()[:50])
    assert np.array_equal(shared.shared_codes(cell, X, tmp_path / "new", "cpu")[0], codes)
    assert len(learned) == 5, "what is damaged is learned again"


PRETRAINING = {"method": "sae-km", "values": {"epochs": {"layers": 1, "autoencoder": 2}}}


def test_cells_that_share_an_auto_encoder_train_it_once(suite, tmp_path, tiny, monkeypatch):
    rng = np.random.default_rng(0)
    y = np.arange(40) % 2
    np.savez(tiny / "images.npz", X=rng.random((40, 8, 8)) + y[:, None, None], y=y)
    fits = []
    train = SAEKMeans._pretraining
    monkeypatch.setattr(SAEKMeans, "_pretraining", lambda self, *rest: fits.append(self) or train(self, *rest))
    cell = replace(cells(suite, [0])[0], data="images", method="sae-km", parameters={}, pretraining=PRETRAINING)
    idec = replace(cell, method="idec", parameters={"epochs": {"clustering": 1}, "update_interval": 1})
    alone = run_cell(cell.to_json(), cache=str(tmp_path / "alone"))
    assert len(fits) == 1
    shared = [run_cell(one.to_json(), cache=str(tmp_path / "c")) for one in (cell, idec, replace(cell, seed=1))]
    assert [found["status"] for found in shared] == ["ok"] * 3, shared
    assert len(fits) == 3, "of IDEC the auto-encoder of the first; another seed has its own"
    assert len(list((tmp_path / "c").iterdir())) == 2
    first, second, _ = shared
    assert (first["acc"], first["nmi"]) == (alone["acc"], alone["nmi"])
    assert set(second["pretraining_phases"]) == {"layer 1", "layer 2", "layer 3", "layer 4", "autoencoder"}
    assert set(second["phases"]) == {"clustering"}
    assert first["shared_seconds"] == 0
    trained = sum(second["pretraining_phases"].values())
    assert second["shared_seconds"] == pytest.approx(trained - second["seconds"]["pretraining"])
    assert second["shared_seconds"] > 0
    assert str(tmp_path) not in json.dumps(second["config"], default=str)


def test_a_shared_model_that_is_damaged_is_trained_again_and_a_full_disk_is_told(suite, tmp_path, tiny, monkeypatch):
    X = np.random.default_rng(0).random((40, 8, 8))
    cell = replace(cells(suite, [0])[0], pretraining=PRETRAINING).to_json()
    model = shared.pretrained_model(cell, X, tmp_path, "cpu")
    whole = subspan.load(model).transform(X)
    (model / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes()[:100])
    assert shared.pretrained_model(cell, X, tmp_path, "cpu") == model
    assert np.array_equal(subspan.load(model).transform(X), whole)
    assert shared.pretrained_model(cell, X + 1, tmp_path, "cpu") != model, "other samples, another model"
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", lambda self: b"changed")
        assert shared._digest(cell, X, "cpu") != model.name, "other sources, another model"

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(shared.os, "rename", full)
    with pytest.raises(OSError, match="No space"):
        shared.pretrained_model({**cell, "seed": 5}, X, tmp_path, "cpu")
    assert len(list(tmp_path.glob("partial-*"))) == 0


def test_a_method_without_an_auto_encoder_is_refused_before_one_is_trained(suite, tiny, fakes, monkeypatch):
    monkeypatch.setattr(shared, "pretrained_model", lambda *_: pytest.fail("trained"))
    found = run_cell(replace(cells(suite, [0])[0], pretraining=PRETRAINING).to_json(), cache="never made")
    assert "takes no pre-trained auto-encoder" in found["error"]


def test_failing_cells_and_limits_do_not_stop_the_others(suite, tiny, fakes, tmp_path):
    good = cells(suite, [0])[0]
    bad = [
        other(good, "fake-failing"),
        other(good, "fake-sleeper", time_limit=1.5),
        other(good, "fake-hog", memory_limit_gb=0.6),
        other(good, "fake-suicide"),
        other(good, "no-such-method"),
    ]
    elsewhere = [replace(good, data="nowhere", seed=seed) for seed in range(2)]
    path = tmp_path / "r.jsonl"
    plan, tally = run_all([*bad, *elsewhere, good], path, replace(OPTIONS, jobs=2))
    assert [cell.method for cell in plan.missing] == ["no-such-method"]
    assert tally == {"failed": 2, "timeout": 1, "memory": 1, "missing": 2, "ok": 1}
    found = {record["method"]: record for record in read_records(path)}
    assert {name: record["status"] for name, record in found.items()} == {
        "fake-failing": "failed",
        "fake-sleeper": "timeout",
        "fake-hog": "memory",
        "fake-suicide": "failed",
        "fake-nearest": "ok",
    }
    assert "limit of 1.5 s" in found["fake-sleeper"]["error"]
    assert found["fake-sleeper"]["seconds"]["total"] < 20
    assert "limit of 0.6 GB" in found["fake-hog"]["error"]
    assert "signal 9" in found["fake-suicide"]["error"]
    for record in found.values():
        assert {"key", "versions", "git", "machine", "seed", "oracle", "sources", "started"} <= set(record)
    for name in ("fake-hog", "fake-suicide"):  # what their processes knew before the fit
        assert found[name]["config"] == {"n_clusters": 2}
        assert (found[name]["n"], set(found[name]["seconds"])) == (10, {"load", "total"})
        assert found[name]["memory"]["peak_gpu_bytes"] is None
    assert found["fake-sleeper"]["memory"]["peak_bytes"] > 1_000_000
    assert found["fake-hog"]["memory"]["peak_bytes"] > 600_000_000
    again, tally = run_all([*bad, good], path)
    assert (len(again.done), len(again.todo), tally) == (5, 0, {})
    plan = runner.make_plan([*bad, good], {r["key"]: r["status"] for r in found.values()}, replace(OPTIONS, retry=True))
    assert [cell.method for cell in plan.todo] == ["fake-failing", "fake-sleeper", "fake-hog", "fake-suicide"]


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes through /proc")
def test_kill_9_in_the_middle_loses_nothing(tiny, fakes, tmp_path, monkeypatch):
    log, path, suite_file = tmp_path / "log.txt", tmp_path / "r.jsonl", tmp_path / "slow.toml"
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setenv("BENCH_FAKES_LOG", str(log))
    suite_file.write_text(
        'title = "slow"\nseeds = 3\nrows = ["r"]\n[[data]]\nname = "tiny"\nn_clusters = 2\n'
        '[[row]]\nname = "r"\nmethod = "fake-nearest"\n'
    )
    words = ["bench", "run", "--suite", str(suite_file), "--out", str(path), "--plugin", "bench_fakes"]
    hang = {**os.environ, "BENCH_FAKES_HANG": "1"}  # in the second fit, when the first line is there
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, *words], stderr=subprocess.DEVNULL, env=hang)
    wait_until(lambda: log.exists() and log.read_text().count("\n") == 2 and path.read_text().count("\n") == 1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    orphan = int(log.read_text().split()[-1])
    wait_until(lambda: not alive(orphan), 20)  # the cell that ran does not go on without its runner
    assert len(list(scratch.glob("subspan-bench-*"))) == 1
    finished = path.read_bytes()
    path.write_bytes(finished + finished[: len(finished) // 2])  # as if the power had failed within a line
    done = subprocess.run([sys.executable, "-c", PROGRAM, *words], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {"out": str(path), "cells": 3, "kept": 1, "ok": 2, "missing": 0}
    assert path.read_bytes().startswith(finished)
    expected = [cell.key for cell in cells(parse_suite("slow", suite_file.read_text()), range(3))]
    assert [json.loads(line)["key"] for line in path.read_text().splitlines()] == expected
    assert [line.split()[0] for line in log.read_text().splitlines()] == ["0", "1", "1", "2"]
    assert list(scratch.glob("subspan-bench-*")) == [], "neither that of the killed run nor its own"


@pytest.mark.skipif(os.name != "posix", reason="locks")
def test_folders_of_runs_that_live_or_are_not_ours_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    dead, unlocked = tmp_path / "subspan-bench-dead", tmp_path / "subspan-bench-unlocked"
    for folder in (dead, unlocked):
        folder.mkdir()
    (dead / "lock").touch()
    (tmp_path / "other").mkdir()
    (tmp_path / "subspan-bench-link").symlink_to(dead)
    with monkeypatch.context() as patch:
        patch.setattr(os, "getuid", lambda: dead.stat().st_uid + 1)
        with scratch_folder():
            assert dead.is_dir()
    with scratch_folder() as first:
        assert not dead.exists()
        with scratch_folder() as second:
            assert first.is_dir()
            assert second.is_dir()
    assert {path.name for path in tmp_path.iterdir()} == {"subspan-bench-unlocked", "subspan-bench-link", "other"}


def test_interruption_kills_the_cell_and_keeps_the_file(suite, tiny, fakes, tmp_path, monkeypatch):
    good = cells(suite, [0])[0]
    path = tmp_path / "r.jsonl"

    def interrupt(text):
        raise KeyboardInterrupt

    found = [good, *(other(good, "fake-sleeper", seed=seed) for seed in range(3))]
    start = time.monotonic()
    with Journal(path) as journal:
        plan = runner.make_plan(found, {}, OPTIONS)
        with pytest.raises(KeyboardInterrupt):
            runner.run_plan(plan, journal, replace(OPTIONS, jobs=2), interrupt)
    assert time.monotonic() - start < 30
    assert [record["row"] for record in read_records(path)] == ["good"]


def test_jobs_share_the_cores_unless_the_caller_says_otherwise(monkeypatch):
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert runner._environment(4)["OMP_NUM_THREADS"] == "2"
    assert "OMP_NUM_THREADS" not in runner._environment(1)
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert runner._environment(4)["OMP_NUM_THREADS"] == "5"


def invoke(*words):
    return CliRunner().invoke(app, ["bench", *map(str, words)])


def test_command_line_from_run_to_comparison(suite_file, tiny, fakes, tmp_path):
    path = tmp_path / "r.jsonl"
    words = ["run", "--suite", suite_file, "--plugin", "bench_fakes", "--seeds", 2, "--methods", "good,absent"]
    dry = invoke(*words, "--dry-run")
    assert dry.stdout.splitlines() == [f"tiny good ({v}) seed {s}" for s in (0, 1) for v in ("raw", "spoilt")]
    done = invoke(*words, "--out", path, "--jobs", 2)
    assert done.exit_code == 1, "a method is not there"
    assert json.loads(done.stdout) == {"out": str(path), "cells": 6, "kept": 0, "ok": 4, "missing": 2}
    assert "no method no-such-method yet" in done.stderr
    table = invoke("table", path, "--suite", suite_file, "--plugin", "bench_fakes").stdout
    assert "| Good_1 (spoilt) † | 10 | 90.00 ± 0.00 |" in table
    assert "| absent |  | missing | missing | missing | missing (no such method yet) |" in table
    compared = invoke("compare", f"{path}::good/raw", f"{path}::good/spoilt").stdout
    assert "| tiny | good/raw - good/spoilt | ACC | 2 | +10.00 | +10.00 to +10.00 |" in compared


NOWHERE = '[[data]]\nname = "nowhere"\nn_clusters = 2\n'


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["--methods", "good"], 0),  # only data are missing that nobody named
        (["--methods", "good", "--data", "tiny"], 0),
        (["--methods", "good", "--data", "tiny,nowhere"], 1),
        (["--methods", "good", "--data", "nowhere"], 1),
        (["--methods", "good,bad"], 1),
    ],
)
def test_the_exit_status_says_whether_all_is_there(words, status, suite_file, tiny, fakes, tmp_path):
    suite_file.write_text(suite_file.read_text().replace("[[row]]", f"{NOWHERE}[[row]]", 1))
    command = ["run", "--suite", suite_file, "--plugin", "bench_fakes", "--seeds", 1, "--out", tmp_path / "r.jsonl"]
    for _ in range(2):  # the second time, with what is kept
        done = invoke(*command, *words)
        assert done.exit_code == status, done.output
    assert json.loads(done.stdout)["missing"] == done.stderr.count("nowhere good") + done.stderr.count("nowhere bad")


def test_a_run_of_nothing_is_no_success(suite_file, tiny, fakes, tmp_path):
    suite_file.write_text(suite_file.read_text().replace('"tiny"', '"nowhere"'))
    words = ["run", "--suite", suite_file, "--plugin", "bench_fakes", "--methods", "good"]
    assert invoke(*words, "--out", tmp_path / "r.jsonl").exit_code == 1


def test_kept_cells_that_are_not_ok_are_told(suite_file, tiny, fakes, tmp_path):
    words = ["run", "--suite", suite_file, "--plugin", "bench_fakes", "--seeds", 1, "--methods", "good,bad"]
    words += ["--out", tmp_path / "r.jsonl"]
    assert "--retry" not in invoke(*words).stderr
    for more in (["--time-limit", 90], ["--dry-run"]):
        assert "1 failed: kept" in invoke(*words, *more).stderr
    assert "kept" not in invoke(*words, "--retry").stderr


PRETRAINED = """
title = "t"
rows = ["first", "second"]
[[data]]
name = "images"
n_clusters = 2
"""


def test_the_command_line_keeps_shared_models_where_it_is_told_and_else_nowhere(tiny, fakes, tmp_path, monkeypatch):
    y = np.arange(40) % 2
    np.savez(tiny / "images.npz", X=np.random.default_rng(0).random((40, 8, 8)) + y[:, None, None], y=y)
    values = "{ epochs = { layers = 1, autoencoder = 2 } }"
    group = f'{{ source = "default", pretraining = {{ method = "sae-km", values = {values} }} }}'
    rows = [f'[[row]]\nname = "{name}"\nmethod = "sae-km"\nsettings = [{group}]\n' for name in ("first", "second")]
    suite, scratch, cache = tmp_path / "s.toml", tmp_path / "scratch", tmp_path / "cache"
    suite.write_text(PRETRAINED + "".join(rows))
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    words = ["run", "--suite", suite, "--seeds", 1, "--out"]
    assert invoke(*words, tmp_path / "kept.jsonl", "--cache", cache).exit_code == 0
    assert len(list(cache.iterdir())) == 1, "two cells, one model"
    kept = read_records(tmp_path / "kept.jsonl")
    assert len({record["acc"] for record in kept}) == 1
    assert invoke(*words, tmp_path / "own.jsonl", "--methods", "first").exit_code == 0
    assert read_records(tmp_path / "own.jsonl")[0]["acc"] == kept[0]["acc"]
    assert list(scratch.glob("subspan-bench-*")) == []


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["run", "--suite", "quick"], "add --out"),
        (["run", "--suite", "quik", "--out", "r.jsonl"], "quick"),
        (["run", "--suite", "quick", "--methods", "nsc", "--out", "r.jsonl"], "ncsc"),
        (["run", "--suite", "small", "--data", "mnist", "--dry-run"], "choose from orl"),
        (["run", "--suite", "quick", "--plugin", "no_such_module", "--dry-run"], "cannot be imported"),
        (["table", "none.jsonl", "--suite", "quick"], "no results file"),
        (["table", "none.jsonl", "--suite", "quick", "--format", "docx"], "md, html, latex, csv"),
        (["compare", "none.jsonl", "none.jsonl"], "no results file"),
    ],
)
def test_command_line_says_what_to_do(words, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = invoke(*words)
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert list(tmp_path.iterdir()) == []

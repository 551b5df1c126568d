"""The estimator face, with a method simple enough to predict: clusters are the signs of the first feature."""

from __future__ import annotations

import json
import sys

import numpy as np
import pandas
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.exceptions import NotFittedError

import subspan
from subspan import NCSC
from subspan.base import Clusterer, load, resolve_device
from subspan.errors import CheckpointError, InvalidInputError

MODULE = "subspan.methods.signs"


class Signs(Clusterer):
    def __init__(
        self, n_clusters=2, *, weights=None, options=None, channel_axis="auto", random_state=None, device="cpu"
    ):
        self.n_clusters = n_clusters
        self.weights = weights
        self.options = options
        self.channel_axis = channel_axis
        self.random_state = random_state
        self.device = device

    def _fit(self, samples, seed):
        self.turn_ = torch.tensor([1.0])
        self.labels_ = self._labels(samples.batch(slice(0, samples.n))).numpy()
        self.history_, self.stop_reasons_ = [{"phase": "signs", "epoch": 0, "value": 0.1}], {"signs": "completed"}

    def _labels(self, batch):
        return (batch.flatten(1)[:, 0] * self.turn_ > 0).long()

    def _codes(self, batch):
        return batch.flatten(1)[:, :2]

    def _state(self):
        return {"turn": self.turn_}, {"note": "x"}

    def _restore(self, tensors, extra):
        self.turn_, self.note_ = tensors["turn"], extra["note"]


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    """Make the class above importable where saved models are looked for."""
    module = type(sys)(MODULE)
    module.Signs, module.json = Signs, json
    monkeypatch.setitem(sys.modules, MODULE, module)
    monkeypatch.setattr(Signs, "__module__", MODULE)


def X(n=20):
    return np.random.default_rng(0).normal(size=(n, 4))


def test_fit_sets_what_it_promises():
    data = X()
    model = Signs(random_state=5).fit(data, y="dropped")
    assert model.n_features_in_ == 4
    assert model.sample_shape_ == (4,)
    assert np.array_equal(model.labels_, data[:, 0] > data[:, 0].mean())
    assert model.stop_reason_ == "completed"
    assert model.seed_ == Signs(random_state=5).fit(data).seed_ != Signs(random_state=6).fit(data).seed_


def test_prediction_uses_the_scaling_of_the_training_data():
    """A new sample alone is not centred by itself."""
    data = X() + 100.0
    model = Signs().fit(data)
    for i in range(5):
        assert model.predict(data[i : i + 1]) == model.labels_[i]
    assert model.transform(data).shape == (20, 2)
    assert model.transform(data).dtype == np.float32


def test_prediction_goes_batch_by_batch(monkeypatch):
    sizes = []
    monkeypatch.setattr("subspan.base.PREDICT_BATCH", 7)
    model = Signs().fit(X())
    labels = Signs._labels
    monkeypatch.setattr(Signs, "_labels", lambda self, batch: sizes.append(len(batch)) or labels(self, batch))
    assert np.array_equal(model.predict(X()), model.labels_)
    assert sizes == [7, 7, 6]


def test_one_sample_is_refused():
    with pytest.raises(InvalidInputError, match="n_samples=1: clustering needs at least two"):
        Signs(1).fit(X(1))


def test_feature_names_are_checked():
    frame = pandas.DataFrame(X(), columns=list("abcd"))
    model = Signs().fit(frame)
    assert model.feature_names_in_.tolist() == list("abcd")
    with pytest.raises(ValueError, match="feature names"):
        model.predict(frame[list("dcba")])


def test_codes_are_a_table_with_names_if_asked_for(tmp_path):
    frame = pandas.DataFrame(X(), columns=list("abcd"), index=range(100, 120))
    model = Signs().fit(frame)
    plain = model.transform(frame)
    assert isinstance(plain, np.ndarray)
    table = model.set_output(transform="pandas").transform(frame)
    assert table.columns.tolist() == ["signs0", "signs1"]
    assert table.index.tolist() == frame.index.tolist()
    assert np.array_equal(table.to_numpy(), plain)
    model.save(tmp_path)
    assert load(tmp_path).get_feature_names_out().tolist() == ["signs0", "signs1"]
    with pytest.raises(NotFittedError):
        Signs().get_feature_names_out()


def test_save_and_load_keep_everything(tmp_path):
    data = X()
    options = {"sizes": (1, np.int64(2)), "rates": {"a": np.float32(0.5)}}
    model = Signs(np.int64(2), weights=np.array([1.0, 2.0]), options=options, random_state=np.random.RandomState(0))
    model.fit(data).save(tmp_path / "new" / "folder")
    again = load(tmp_path / "new" / "folder")
    assert np.array_equal(again.predict(data), model.labels_)
    assert again.get_params() == {
        "n_clusters": 2,
        "weights": [1.0, 2.0],
        "options": {"sizes": [1, 2], "rates": {"a": 0.5}},
        "channel_axis": "auto",
        "random_state": None,  # what was drawn from it is kept in seed_
        "device": "cpu",
    }
    for name in ("seed_", "n_features_in_", "sample_shape_", "history_", "stop_reasons_", "note_"):
        assert getattr(again, name) == getattr(model, name, "x")
    assert again.scaling_.scale == model.scaling_.scale
    assert np.array_equal(again.scaling_.shift, model.scaling_.shift)
    readable = json.loads((tmp_path / "new" / "folder" / "model.json").read_text())
    assert readable["subspan"] == subspan.__version__
    assert readable["seed"] == model.seed_


def test_unfitted_models_cannot_be_saved(tmp_path):
    with pytest.raises(ValueError, match="not fitted"):
        Signs().save(tmp_path)
    assert not list(tmp_path.iterdir())


def test_failed_save_keeps_the_older_model(tmp_path, monkeypatch):
    old = Signs().fit(X())
    old.save(tmp_path)

    def no_space(*_):
        raise OSError("no space")

    monkeypatch.setattr("subspan.checkpoint.os.replace", no_space)
    with pytest.raises(OSError, match="no space"):
        Signs().fit(-X()).save(tmp_path)
    assert np.array_equal(load(tmp_path).labels_, old.labels_)
    assert {path.name for path in tmp_path.iterdir()} == {"model.json", "model.safetensors"}


def rewrite(folder, **changes):
    path = folder / "model.safetensors"
    meta = json.loads((folder / "model.json").read_text()) | changes
    save_file(load_file(path), path, {"model": json.dumps(meta)})


def test_missing_damaged_and_foreign_models_are_named(tmp_path):
    with pytest.raises(CheckpointError, match="there is no model"):
        load(tmp_path)
    Signs().fit(X()).save(tmp_path)
    rewrite(tmp_path, format=99)
    with pytest.raises(CheckpointError, match="format 99; this subspan reads 5"):
        load(tmp_path)
    path = tmp_path / "model.safetensors"
    content = path.read_bytes()
    for damaged in (b"", content[:-1], b"garbage" * 30):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="is damaged"):
            load(tmp_path)
    Signs().fit(X()).save(tmp_path)
    rewrite(tmp_path, extra={})
    with pytest.raises(CheckpointError, match="is damaged"):
        load(tmp_path)
    save_file({"a": torch.ones(1)}, path)
    with pytest.raises(CheckpointError, match="is damaged"):
        load(tmp_path)


@pytest.mark.parametrize(
    "spec",
    [
        "os:system",
        "wsgiref.headers:Headers",
        "subspan.cli:main",
        f"{MODULE}:json",
        f"{MODULE}:Absent",
        "subspan.methods.absent:A",
    ],
)
def test_a_model_cannot_name_foreign_code(tmp_path, spec):
    Signs().fit(X()).save(tmp_path)
    rewrite(tmp_path, estimator=spec)
    with pytest.raises(CheckpointError, match="which this subspan does not have"):
        load(tmp_path)
    assert "wsgiref.headers" not in sys.modules  # it is not even imported


def test_a_model_of_an_absent_device_is_loaded_on_what_is_there(tmp_path):
    Signs().fit(X()).save(tmp_path)
    meta = json.loads((tmp_path / "model.json").read_text())
    rewrite(tmp_path, parameters=meta["parameters"] | {"device": "abacus"})
    with pytest.warns(UserWarning, match="fitted on device 'abacus', which this machine does not have"):
        assert load(tmp_path).device == "auto"


def test_a_device_of_torch_is_saved_by_its_name(tmp_path):
    model = Signs(device=torch.device("cpu")).fit(X())
    model.save(tmp_path)
    again = load(tmp_path)
    assert again.device == "cpu"
    assert np.array_equal(again.predict(X()), model.predict(X()))


def images(dtype=np.uint8):
    return np.random.default_rng(0).integers(0, 256, (20, 4, 4)).astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32])
@pytest.mark.parametrize("method", ["predict", "transform"])
def test_images_that_were_divided_after_the_fit_are_told(tmp_path, dtype, method):
    Signs().fit(images(dtype)).save(tmp_path)
    with pytest.warns(UserWarning, match=r"in \[0, 1\].*give images on that scale") as told:
        getattr(load(tmp_path), method)(images() / 255)
    assert len(told) == 1


@pytest.mark.parametrize(
    ("fitted", "new"),
    [
        (images(), images().astype(float)),
        (images() / 255, images() / 255),
        (images() / 100, images() / 255),  # no whole numbers: values of any size may be right
        (images() // 128, images() / 255),  # 0 and 1
        (images(), images() // 128),
        (images(), np.zeros((2, 4, 4))),
        (images().reshape(20, -1), images().reshape(20, -1) / 255),  # vectors may be in any unit
    ],
)
@pytest.mark.filterwarnings("error")
def test_images_on_the_scale_of_the_fit_are_not_told(fitted, new):
    Signs().fit(fitted).predict(new)


def test_models_that_do_not_say_whether_they_saw_whole_numbers_are_read(tmp_path):
    Signs().fit(images()).save(tmp_path)
    path = tmp_path / "model.safetensors"
    meta, tensors = json.loads((tmp_path / "model.json").read_text()), load_file(path)
    del tensors["scaling.whole"]
    save_file(tensors, path, {"model": json.dumps(meta)})
    assert load(tmp_path).scaling_.whole is False


@pytest.mark.parametrize("look", ["estimate_resources", "resolved_parameters"])
def test_an_iterator_is_not_used_up_before_the_fit(look):
    batches = iter([X(), X()])
    with pytest.raises(InvalidInputError, match=r"X is an iterator.*give an array, or an iterable"):
        getattr(NCSC(2), look)(batches)
    assert len(list(batches)) == 2
    loader = torch.utils.data.DataLoader(torch.from_numpy(X()), batch_size=7)
    assert getattr(NCSC(2), look)(loader) == getattr(NCSC(2), look)(X())


def test_devices():
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type in ("cpu", "cuda")
    for absent in ("abacus", "cuda:99"):
        with pytest.raises(InvalidInputError, match=f"device '{absent}' cannot be used here"):
            resolve_device(absent)


def test_a_device_that_holds_no_numbers_is_refused():
    with pytest.raises(InvalidInputError, match="device 'meta' cannot be used here"):
        resolve_device("meta")

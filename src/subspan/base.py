"""The estimator face (layer 3): fit = validate > seed > ``_fit`` > attributes; predict, transform, save, load.

A method subclasses :class:`Clusterer` and fills in ``_fit``, ``_labels``, ``_codes`` and, for save and load, ``_state``
and ``_restore``. Labels never pass this border: ``fit`` drops ``y``.
"""

from __future__ import annotations

import importlib
import json
import os
import warnings
from collections.abc import Iterator
from numbers import Real
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, ClusterMixin, TransformerMixin
from sklearn.utils.validation import _check_feature_names, check_is_fitted
from torch import Tensor

import subspan
from subspan._random import draw_seed
from subspan._scaling import Scaling
from subspan._validation import (
    Samples,
    check_distinct,
    check_n_clusters,
    check_same_features,
    check_samples,
    fit_scaling,
    is_divided,
    iter_slices,
)
from subspan.checkpoint import Checkpoint, saved_seed, write_tensors
from subspan.errors import CheckpointError, InvalidInputError

FORMAT = 5  # of saved models; 2: heads hold the sizes that they expect, NCSC its gamma; 3: scattering knows contrast;
# 4: both scales of scattering are averages of the same maps; 5: NCSC knows what negative coefficients count
PREDICT_BATCH = 5000


class Clusterer(ClusterMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Abstract base of all estimators.

    Attributes
    ----------
    labels_ : ndarray of shape (n,)
        Cluster of every training sample, 0 .. n_clusters - 1.
    history_ : list of dict
        One record per epoch (phase, epoch, loss terms, figures, seconds).
    stop_reasons_ : dict
        Why each phase ended.
    n_features_in_ : int
        Entries per sample.
    sample_shape_ : tuple
        (p,) or (c, h, w).
    seed_ : int
        The integer drawn from ``random_state``; everything random follows from it. A run that is continued
        (``resume``) without a ``random_state`` keeps its own.
    """

    n_clusters: int
    random_state: Any
    device: str | torch.device
    channel_axis: Any
    checkpoint_dir: Any  # of methods that are trained
    resume: bool

    _epochs: ClassVar[dict[str, int]] = {}  # of each phase, unless the parameter ``epochs`` says otherwise
    _rates: ClassVar[dict[str, float]] = {}  # likewise, ``learning_rates``

    def fit(self, X, y=None):
        """Cluster the samples of X.

        Parameters
        ----------
        X : array-like or tensor of shape (n, p), (n, h, w), (n, h, w, c) or (n, c, h, w)
            uint8 or float; memory maps are read batch by batch. Or an iterable of batches, such as a generator or a
            ``DataLoader`` without labels; but a list is read as samples, so for batches in a list give ``iter(list)``.
        y : ignored

        Returns
        -------
        self

        Raises
        ------
        InvalidInputError
            X or a parameter cannot be used as given, or all samples are the same.
        DivergenceError
            A loss term or a weight became NaN, infinite or far too large.

        Warns
        -----
        UserWarning
            Fewer samples than ``n_clusters`` differ.
        """
        self._validate_parameters()
        samples = self._check(X)
        if samples.n < 2:
            raise InvalidInputError("X has n_samples=1: clustering needs at least two samples.")
        check_distinct(samples, self.n_clusters)
        _check_feature_names(self, X, reset=True)
        self.n_features_in_ = int(np.prod(samples.shape))
        self.sample_shape_ = samples.shape
        self.seed_ = self._seed()
        self.scaling_ = fit_scaling(samples)
        self._fit(samples.with_scaling(self.scaling_), self.seed_)
        return self

    def predict(self, X) -> np.ndarray:
        """Cluster of each sample of X, int64 of shape (n,); no spectral clustering is involved."""
        return self._map(X, self._labels)

    def transform(self, X) -> np.ndarray:
        """Codes of the samples of X, float32 of shape (n, d), or a table of them as ``set_output`` says."""
        return self._map(X, self._codes)

    @property
    def _n_features_out(self) -> int:
        """Length d of a code, for ``get_feature_names_out``."""
        with torch.no_grad():
            return self._codes(torch.zeros(1, *self.sample_shape_, device=self._device)).shape[1]

    def resolved_parameters(self, X) -> dict[str, Any]:
        """Values that a fit on X takes for parameters that leave some open ("auto", None, a part of the phases)."""
        self._validate_parameters()
        tables = {"epochs": self._all_epochs(), "learning_rates": self._all_rates()}
        return {name: table for name, table in tables.items() if table}

    def _inspect(self, X) -> Samples:
        """Check the parameters and X before a fit on the same X."""
        self._validate_parameters()
        if isinstance(X, Iterator):
            raise InvalidInputError(
                "X is an iterator, which fit could not read again: give an array, or an iterable that can be read more "
                "than once, such as a DataLoader."
            )
        return self._check(X)

    def _check(self, X) -> Samples:
        samples = check_samples(X, channel_axis=self.channel_axis)
        check_n_clusters(self.n_clusters, samples.n)
        return samples

    def _seed(self) -> int:
        folder = getattr(self, "checkpoint_dir", None)
        known = saved_seed(folder) if folder is not None and self.resume and self.random_state is None else None
        return draw_seed(self.random_state) if known is None else known

    def _all_epochs(self) -> dict[str, int]:
        """Epochs of each phase: the parameter ``epochs``, and the defaults of what it leaves out."""
        return {**self._epochs, **(getattr(self, "epochs", None) or {})} if self._epochs else {}

    def _all_rates(self) -> dict[str, float]:
        """Likewise, ``learning_rates``."""
        return {**self._rates, **(getattr(self, "learning_rates", None) or {})} if self._rates else {}

    def save(self, folder: str | os.PathLike) -> None:
        """Write the fitted model as ``model.json`` and ``model.safetensors`` into a folder; no pickle.

        Raises
        ------
        OSError
            The folder cannot be written; an older model in it is left as it was.
        """
        check_is_fitted(self, "labels_")
        tensors, extra = self._state()
        tensors = {**tensors, "labels": torch.from_numpy(self.labels_)}
        tensors |= {f"scaling.{k}": v for k, v in self.scaling_.to_tensors().items()}
        names = getattr(self, "feature_names_in_", None)
        meta = {
            "format": FORMAT,
            "subspan": subspan.__version__,
            "estimator": f"{type(self).__module__}:{type(self).__name__}",
            "parameters": self.get_params(deep=False),
            "sample_shape": list(self.sample_shape_),
            "feature_names": None if names is None else [str(name) for name in names],
            "seed": self.seed_,
            "history": self.history_,
            "stop_reasons": self.stop_reasons_,
            "extra": extra,
        }
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        # one atomic file holds everything that must agree; model.json is a readable copy of its metadata
        meta = _jsonable("model", meta)
        text = json.dumps(meta)
        write_tensors(folder / "model.safetensors", tensors, {"model": text})
        partial = folder / "model.json.partial"
        partial.write_text(json.dumps(meta, indent=1))
        os.replace(partial, folder / "model.json")

    @property
    def stop_reason_(self) -> str:
        """Why the last phase ended."""
        check_is_fitted(self, "labels_")
        return list(self.stop_reasons_.values())[-1] if self.stop_reasons_ else "completed"

    @property
    def _device(self) -> torch.device:
        return resolve_device(self.device)

    def _checkpoint(self, samples: Samples, seed: int) -> Checkpoint | None:
        """Where the training loop saves and what the state depends on; None without ``checkpoint_dir``."""
        parameters = self.get_params(deep=False)
        if parameters.get("checkpoint_dir") is None:
            return None
        ignored = ("random_state", "device", "verbose", "checkpoint_dir", "resume")
        fingerprint = {k: v for k, v in parameters.items() if k not in ignored}
        fingerprint |= {"seed": seed, "n_samples": samples.n, "shape": samples.shape, "data": samples.checksum()}
        return Checkpoint(parameters["checkpoint_dir"], fingerprint, parameters["resume"])

    def _map(self, X, function) -> np.ndarray:
        """Apply ``function`` (batch tensor -> tensor) to all samples of X, batch by batch."""
        check_is_fitted(self, "labels_")
        _check_feature_names(self, X, reset=False)
        samples = check_samples(X, channel_axis=self.channel_axis)
        check_same_features(samples, self.sample_shape_, type(self).__name__)
        if is_divided(samples, self.scaling_):
            warnings.warn(
                "X holds images of floats in [0, 1], but the model was fitted on images of whole numbers, such as "
                "0 .. 255: give images on that scale, for example without dividing them by 255",
                UserWarning,
                stacklevel=3,
            )
        samples = samples.with_scaling(self.scaling_)
        with torch.no_grad():
            parts = [
                function(samples.batch(rows).to(self._device)).cpu() for rows in iter_slices(samples.n, PREDICT_BATCH)
            ]
        return torch.cat(parts).numpy()

    def _validate_parameters(self) -> None:
        """Check the parameters that do not depend on the data."""

    def _fit(self, samples: Samples, seed: int) -> None:
        """Set ``labels_``, ``history_``, ``stop_reasons_`` and what prediction needs."""
        raise NotImplementedError

    def _labels(self, batch: Tensor) -> Tensor:
        """Scaled samples (b, ...) -> int64 labels (b,)."""
        raise NotImplementedError

    def _codes(self, batch: Tensor) -> Tensor:
        """Scaled samples (b, ...) -> codes (b, d)."""
        raise NotImplementedError

    def _state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and JSON-able facts that prediction needs."""
        raise NotImplementedError

    def _restore(self, tensors: dict[str, Tensor], extra: dict[str, Any]) -> None:
        """Inverse of :meth:`_state`."""
        raise NotImplementedError


def load(folder: str | os.PathLike) -> Clusterer:
    """Read a model that :meth:`Clusterer.save` wrote; the training data are not needed.

    Raises
    ------
    CheckpointError
        There is no model, it is damaged, or it has another format version.
    """
    path = Path(folder) / "model.safetensors"
    if not path.exists():
        raise CheckpointError(f"there is no model in '{folder}': give the folder that save() wrote")
    try:
        with safe_open(path, framework="pt") as file:
            meta = json.loads((file.metadata() or {})["model"])
        tensors = load_file(path)
    except (SafetensorError, OSError, KeyError, json.JSONDecodeError) as error:
        raise CheckpointError(f"the model in '{folder}' is damaged ({error}): save it again") from error
    if meta.get("format") != FORMAT:
        raise CheckpointError(
            f"the model in '{folder}' has format {meta.get('format')}; this subspan reads {FORMAT}: "
            "fit again, or predict with the version that saved it"
        )
    parameters = meta["parameters"]
    if "device" in parameters:
        parameters["device"] = _usable_device(parameters["device"])
    estimator = _estimator_class(meta["estimator"])(**parameters)
    estimator.labels_ = tensors.pop("labels").numpy()
    scaling = {name: tensors.pop(name) for name in list(tensors) if name.startswith("scaling.")}
    estimator.scaling_ = Scaling.from_tensors({name.removeprefix("scaling."): v for name, v in scaling.items()})
    estimator.sample_shape_ = tuple(meta["sample_shape"])
    estimator.n_features_in_ = int(np.prod(estimator.sample_shape_))
    estimator.seed_ = meta["seed"]
    estimator.history_, estimator.stop_reasons_ = meta["history"], meta["stop_reasons"]
    if meta["feature_names"] is not None:
        estimator.feature_names_in_ = np.array(meta["feature_names"], dtype=object)
    try:
        estimator._restore(tensors, meta["extra"])
    except torch.OutOfMemoryError:
        raise
    except (KeyError, TypeError, RuntimeError) as error:  # a tensor or a fact is not there, or of another shape
        raise CheckpointError(f"the model in '{folder}' is damaged ({error}): save it again") from error
    return estimator


def resolve_device(device: str | torch.device) -> torch.device:
    """ "auto" is CUDA when present, else the CPU; anything else is torch's own name.

    Raises
    ------
    InvalidInputError
        The device does not exist here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InvalidInputError(f"device '{device}' cannot be used here: choose 'auto' or 'cpu'") from error
    return torch.device(device)


def _usable_device(device: str) -> str:
    try:
        resolve_device(device)
    except InvalidInputError:
        warnings.warn(
            f"the model was fitted on device '{device}', which this machine does not have; it uses device='auto'",
            UserWarning,
            stacklevel=3,
        )
        return "auto"
    return device


def _estimator_class(spec: str) -> type[Clusterer]:
    """The class a model was saved from; only subspan's own estimators are accepted."""
    module, _, name = spec.partition(":")
    if module.startswith("subspan.methods."):
        try:
            found = getattr(importlib.import_module(module), name, None)
        except ImportError:
            found = None
        if isinstance(found, type) and issubclass(found, Clusterer):
            return found
    raise CheckpointError(f"the model was saved from '{spec}', which this subspan does not have")


def _jsonable(name: str, value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _jsonable(key, entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(name, entry) for entry in value]
    if isinstance(value, np.ndarray | Tensor):
        return value.tolist()
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Real) and not isinstance(value, int | float):
        return float(value)
    if isinstance(value, torch.device):
        return str(value)
    if name == "random_state" and isinstance(value, np.random.RandomState):
        return None  # seed_ holds what was drawn from it
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value

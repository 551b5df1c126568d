"""What NCSC will do, before it does it: defaults of both recipes, the stages of Algorithm 1, and their memory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from subspan._parameters import check_choice, check_integer, check_number, check_overrides, check_pair, check_single
from subspan._resources import LIBRARIES, available_bytes
from subspan.components import make_components
from subspan.encoders import ENCODERS, Encoder, IdentityEncoder, given_options
from subspan.errors import InvalidInputError, ResourceError
from subspan.heads import Heads
from subspan.information import UNEVEN
from subspan.methods._ncsc_classifiers import ClassifierStage
from subspan.methods._ncsc_global import GlobalSetting
from subspan.methods._ncsc_setting import UNCHANGED, Setting
from subspan.methods._ncsc_settling import SettlingStage
from subspan.methods._ncsc_stages import CollaborationStage, SubspaceStage
from subspan.multiscale import make_scattering
from subspan.pretraining import Reconstruction
from subspan.proposals import memory_bytes
from subspan.self_expression import learned_bytes
from subspan.training import Phase
from subspan.whitened import make_whitened

AUTO: dict[str, dict[str, Any]] = {
    "paper": {"gamma": 30.0, "positive": False, "u": 0.9, "balance": (4.0, 1.0), "n_starts": 5},
    "global": {"gamma": None, "positive": None, "u": 0.0, "balance": (4.0, 0.5), "n_starts": 0},
}
EPOCHS = {"autoencoder": 30, "subspace": 1, "starts": 8, "classifier": 6, "settling": 8, "collaboration": 3}
LEFT_OUT = {"paper": "settling", "global": "collaboration"}  # unless its epochs are given
RATES = {
    "autoencoder": 1e-3,  # pre-training
    "encoder": 1e-5,  # the auto-encoder after pre-training
    "self_expression": 1e-3,  # of a learned C
    "starts": 3e-3,
    "classifier": 3e-3,
    "settling": 3e-3,
    "collaboration": 1e-3,  # the head in the last stage
}
COMPRESSION = {"auto": None, "uniform": 0.0, "uneven": UNEVEN}  # by prior, see subspan.information
SCATTERING = {"scattering": {"contrast": True}, "plain-scattering": {"contrast": False}}  # encoders of images
WHITENED = {"whitened-3": 3, "whitened-6": 6, "whitened-9": 9}  # dimensions of a cluster
OPTIONS = dict.fromkeys(SCATTERING, ("n_components", "J", "L")) | dict.fromkeys(("pca", *WHITENED), ("n_components",))
MAX_PIXELS = 4096  # numbers per image up to which pixels may be the codes
CANDIDATES = 6  # proposals that are trained on
SAMPLES_PER_CLUSTER = 20  # the starts have more than k clusters only with so many samples for each


def automatic(recipe: str, name: str, value: Any) -> Any:
    """Value of a parameter, or the recipe's where it is "auto"."""
    return AUTO[recipe][name] if isinstance(value, str) and value == "auto" else value


def searches(recipe: str, n_starts: int) -> bool:
    """Whether what classifiers learn first is searched for on the graph of pairs."""
    return n_starts == 0 or (recipe == "global" and n_starts > 1)


def resolve_epochs(recipe: str, epochs: Mapping[str, int] | None) -> dict[str, int]:
    """Epochs of every stage. Each recipe leaves one out unless it is asked for (see docs/log.md)."""
    return EPOCHS | {LEFT_OUT[recipe]: 0} | dict(epochs or {})


def check_parameters(p: Mapping[str, Any]) -> None:
    """Check the parameters of the estimator, by name, that have no other check.

    Raises
    ------
    InvalidInputError
    """
    check_choice("recipe", p["recipe"], tuple(AUTO))
    check_choice("encoder", p["encoder"], ("auto", *OPTIONS, *ENCODERS))
    check_choice("head", p["head"], ("auto", "conv", "mlp"))
    if p["head_width"] is not None:
        check_integer("head_width", p["head_width"], 1)
    if p["encoder_options"] is not None and not isinstance(p["encoder_options"], dict):
        raise InvalidInputError(f"encoder_options is {p['encoder_options']!r}; give a dict, or leave it out.")
    check_choice("self_expression", p["self_expression"], ("closed-form", "parameter"))
    check_choice("batches", p["batches"], ("local", "random"))
    check_choice("affinity", p["affinity"], ("confidence", "cosine"))
    if p["self_expression"] == "parameter" and p["recipe"] == "global":
        raise InvalidInputError("self_expression='parameter' needs fixed batches: choose recipe='paper'.")
    for name in ("gamma", "n_neighbors"):
        check_single(name, p[name])
    if p["gamma"] != "auto":
        check_number("gamma", p["gamma"], 1e-12)
    if not isinstance(p["positive"], (bool, np.bool_)):
        check_choice("positive", p["positive"], ("auto",))
    if p["n_neighbors"] != "auto":
        check_integer("n_neighbors", p["n_neighbors"], 1)
    for name, low, high in (("l", 0, 1), ("overcluster", 1, math.inf), ("lambda_cl", 0, math.inf)):
        check_number(name, p[name], low, high)
    check_number("tolerance", p["tolerance"], 0.0)
    for name in ("batch_size", "walk"):
        check_integer(name, p[name], 1)
    check_integer("n_starts", automatic(p["recipe"], "n_starts", p["n_starts"]), 0)
    for name, high in (("u", 1.0), ("balance", math.inf)):
        for value in check_pair(automatic(p["recipe"], name, p[name]), name):
            check_number(name, value, 0.0, high)
            if name == "u" and value == 1:
                raise InvalidInputError("u is 1, but no affinity is larger: give a number below 1.")
    check_overrides("epochs", p["epochs"], EPOCHS, whole=True)
    if (p["epochs"] or {}).get("classifier") == 0:
        raise InvalidInputError("epochs['classifier'] is 0, but the classifier gives the labels: give at least 1.")
    check_overrides("learning_rates", p["learning_rates"], RATES)
    _check_prior(p["prior"], p["n_clusters"])
    _check_augmentation(p["augmentation"])


def _check_prior(prior: Any, k: int) -> None:
    if isinstance(prior, str):
        check_choice("prior", prior, tuple(COMPRESSION))
        return
    try:
        sizes = np.asarray(prior, dtype=float)
    except (TypeError, ValueError):
        sizes = np.empty(0)
    if sizes.shape != (k,) or not (np.isfinite(sizes).all() and (sizes > 0).all()):
        raise InvalidInputError(
            f"prior must hold {k} positive numbers, one per cluster, or be one of {', '.join(COMPRESSION)}."
        )


def _check_augmentation(augmentation: Any) -> None:
    if augmentation is None:
        return
    if not isinstance(augmentation, dict) or set(augmentation) - set(UNCHANGED):
        raise InvalidInputError(
            f"augmentation is {augmentation!r}; give a dict with keys among {', '.join(UNCHANGED)}."
        )
    for name, value in augmentation.items():
        if name == "flip":
            if not isinstance(value, bool):
                raise InvalidInputError(f"augmentation['flip'] is {value!r}; give True or False.")
        else:
            check_number(f"augmentation[{name!r}]", value, 0.0, 180.0 if name == "rotation" else 0.99)


def fixed_encoders(shape: tuple[int, ...], n: int, k: int) -> dict[str, Encoder]:
    """Encoders without training for n images of shape (c, h, w) in k clusters, by name.

    Scattering and, if they are few, pixels: as they are, and their whitened components.
    """
    encoders = {name: fixed_encoder(name, shape, n, k, {}) for name in SCATTERING}
    if math.prod(shape) <= MAX_PIXELS:
        encoders["identity"] = IdentityEncoder(shape)
        encoders |= {name: fixed_encoder(name, shape, n, k, {}) for name in WHITENED}
    return encoders


def fixed_encoder(name: str, shape: tuple[int, ...], n: int, k: int, options: Mapping[str, Any]) -> Encoder:
    """Encoder without training for n samples in k clusters: scattering, "pca", or whitened.

    Raises
    ------
    InvalidInputError
        Unknown options, numbers out of range, or samples that the encoder is not made for.
    """
    given = given_options(name, options, OPTIONS[name])
    for option, value in given.items():
        check_integer(f"encoder_options[{option!r}]", value, 1)
    if name == "pca":
        return make_components(shape, n, **given)
    if name in WHITENED:
        return make_whitened(shape, n, k, WHITENED[name], **given)
    return make_scattering(shape, n, **SCATTERING[name], **given)


def algorithm_1(
    setting: Setting,
    heads: Mapping[str, Heads],
    *,
    epochs: Mapping[str, int],
    rates: Mapping[str, float],
    tolerance: float,
    search: bool = False,
) -> list[Phase]:
    """The stages of Algorithm 1; with ``search``, proposals are searched for on the graph of all pairs.

    ``heads`` are the "starts" (if there are several), the "candidates", the "head", which becomes the chosen one of
    these, and its copies "settling" (if it settles).
    """
    in_batches = not isinstance(setting, GlobalSetting)
    trainable = setting.encoder.trainable
    learned = trainable or any(True for _ in setting.layer.parameters())
    stages: list[Phase] = []
    if trainable:
        stages.append(
            Reconstruction(
                setting.samples,
                setting.encoder,
                epochs=epochs["autoencoder"],
                batch_size=256,
                learning_rate=rates["autoencoder"],
                device=setting.device,
                min_steps=50,
            )
        )
    if learned and in_batches:
        stages.append(
            SubspaceStage(
                setting,
                epochs=epochs["subspace"],
                rate_encoder=rates["encoder"],
                rate_c=rates["self_expression"],
            )
        )
    stages += _classifiers(setting, heads, epochs, rates, search)
    if trainable or in_batches:
        stages.append(
            CollaborationStage(
                setting,
                heads["head"],
                epochs=epochs["collaboration"],
                rate_encoder=rates["encoder"],
                rate_head=rates["collaboration"],
                rate_c=rates["self_expression"],
                tolerance=tolerance,
            )
        )
    return stages


def _classifiers(
    setting: Setting, heads: Mapping[str, Heads], epochs: Mapping[str, int], rates: Mapping[str, float], search: bool
) -> list[Phase]:
    """The starts, if there are several, the candidates that learn from them, and the chosen one, which settles."""
    starts = None
    if "starts" in heads:
        starts = ClassifierStage(setting, heads["starts"], name="starts", epochs=epochs["starts"], rate=rates["starts"])
    candidates = ClassifierStage(
        setting,
        heads["candidates"],
        name="classifier",
        epochs=epochs["classifier"],
        rate=rates["classifier"],
        starts=starts,
        search=search,
        chosen=heads["head"],
    )
    stages: list[Phase] = [candidates] if starts is None else [starts, candidates]
    if "settling" in heads:
        stages.append(
            SettlingStage(
                setting,
                heads["settling"],
                epochs=epochs["settling"],
                rate=rates["settling"],
                head=heads["head"],
                candidates=candidates,
            )
        )
    return stages


def memory_parts(
    n: int,
    n_codes: int,
    *,
    neighbours: int,
    batch_size: int,
    joint: bool,
    learned: bool,
    searched: int = 0,
    fitting: int = 0,
) -> dict[str, int]:
    """Expected peak memory of ``fit`` in bytes, by part.

    Parameters
    ----------
    n, n_codes : int
        Samples, and length of their codes.
    neighbours : int
        Per sample; 0 where pairs come from batches.
    batch_size : int
        Samples whose self-expression is solved together.
    joint, learned : bool
        Whether Eq. 8 is trained, and whether C is.
    searched : int
        Clusters that are searched for on the graph of pairs; 0 if that is not done.
    fitting : int
        Bytes that fitting a fixed encoder takes. All but the codes comes later, so only what exceeds that counts.
    """
    batch = min(batch_size, n)
    parts = {"libraries": LIBRARIES, "codes": 4 * n * n_codes * 4}
    if neighbours:  # found for both signs, twice as many, as index and product; then pairs
        parts["neighbours"] = n * neighbours * (4 * 12 + 40)
        parts["self_expression"] = 5 * 8 * n_codes**2  # S, the system, its factor and inverse, in float64
    if searched:
        parts["proposals"] = memory_bytes(n, searched)
    if joint or not neighbours:
        parts["affinities"] = 4 * batch * batch * (14 if joint else 5)  # Eq. 8 is differentiated through C
    if learned:
        parts["learned_coefficients"] = learned_bytes([batch]) * -(-n // batch)
    later = sum(parts.values()) - parts["libraries"] - parts["codes"]
    return parts | ({"fitting": fitting - later} if fitting > later else {})


def check_memory(parts: dict[str, int], batch_size: int, n: int) -> None:
    """Refuse what will not fit before anything is allocated.

    Raises
    ------
    ResourceError
        More memory is needed than there is; the message says what would fit.
    """
    available, needed = available_bytes(), sum(parts.values())
    if available is None or needed <= available:
        return
    rest = available - needed + parts.get("affinities", 0)
    said = f"this run takes about {needed / 1e9:.1f} GB and {available / 1e9:.1f} GB are free"
    if "affinities" in parts and rest > 0:
        largest = math.isqrt(int(rest * min(batch_size, n) ** 2 / parts["affinities"]))
        raise ResourceError(f"batches of {min(batch_size, n)} samples: {said}: set batch_size to at most {largest}")
    share = (available - LIBRARIES) / max(needed - LIBRARIES, 1)
    raise ResourceError(f"{said}: fit on at most {max(int(share * n), 0)} of the samples, and predict the rest")

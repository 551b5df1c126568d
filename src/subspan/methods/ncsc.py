"""Neural Collaborative Subspace Clustering (Zhang, Ji, Harandi, Huang, Li; ICML 2019).

Two modules label pairs of samples for each other:

- the classifier's affinity           ``A_c = nu nu^T``                                             (Eq. 1)
- self-expression of the codes        ``Z ~ C Z``, ``diag(C) = 0``                                   (Eqs. 2, 3)
- the subspace affinity               ``A_s`` from ``(|C| + |C|^T) / 2``, rows over their maximum    (Eq. 4)
- collaboration                       ``Omega = L_pos + alpha L_neg``                                (Eq. 5)
- pairs that A_s is sure of           ``L_pos = H(M_s A_s || A_c)``, ``M_s = [A_s > u]``             (Eq. 6)
- pairs that A_c is sure of           ``L_neg = H(M_c (1 - A_c) || 1 - A_s)``, ``M_c = [A_c < l]``   (Eq. 7)
- everything                          ``L = L_sub + lambda_cl Omega``                                (Eq. 8)
- the subspace loss ``L_sub = ||C||^2 + lambda_1 / 2 ||Z - CZ||^2 + 1/2 ||X - Xhat||^2``            (Eq. 9)
- the cluster of a sample             ``argmax nu``                                                  (Eq. 10)

Algorithm 1 trains in three stages (auto-encoder and C on Eq. 9; classifier on Eq. 5; everything on Eq. 8); labels are
the classifier's, also those of new samples. Losses live in :mod:`subspan.losses`, the stages in
:mod:`subspan.methods._ncsc_stages`, :mod:`subspan.methods._ncsc_classifiers` and :mod:`subspan.methods._ncsc_settling`.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from subspan._parameters import check_pair
from subspan._random import generator
from subspan._validation import Samples, check_same_features, check_samples
from subspan.affinity import classifier_affinity, normalise_scores, subspace_affinity
from subspan.base import Clusterer
from subspan.checkpoint import load_module_tensors, module_tensors
from subspan.components import MOST
from subspan.encoders import MIN_SIDE, Encoder, make_encoder
from subspan.errors import DivergenceError, InvalidInputError
from subspan.heads import Heads, build_heads
from subspan.methods._ncsc_classifiers import head_scores
from subspan.methods._ncsc_global import GlobalSetting, count_neighbours
from subspan.methods._ncsc_plan import (
    AUTO,
    CANDIDATES,
    COMPRESSION,
    MAX_PIXELS,
    OPTIONS,
    RATES,
    SAMPLES_PER_CLUSTER,
    algorithm_1,
    automatic,
    check_memory,
    check_parameters,
    fixed_encoder,
    fixed_encoders,
    memory_parts,
    resolve_epochs,
    searches,
)
from subspan.methods._ncsc_setting import Setting
from subspan.methods._ncsc_settling import holds
from subspan.methods._ncsc_time import expected_seconds, spoken
from subspan.pairs import random_batches
from subspan.pretraining import fitting_bytes, restore_encoder
from subspan.progress import Progress
from subspan.selection import SAMPLES, WHITE, choose_encoder, most_neighbours
from subspan.self_expression import (
    ClosedFormSelfExpression,
    LearnedSelfExpression,
    SelfExpression,
)
from subspan.training import train


# eq and repr stay scikit-learn's; the generated __init__ only assigns, as scikit-learn asks
@dataclass(eq=False, repr=False, kw_only=True)
class NCSC(Clusterer):
    """Neural Collaborative Subspace Clustering.

    Parameters
    ----------
    n_clusters : int
        Number of clusters, k.
    recipe : {"global", "paper"}
        "global" takes positive pairs from the self-expression of all samples by all others; "paper" is Algorithm 1,
        batch by batch. Parameters that are "auto" follow the recipe.
    encoder : str
        "scattering", "plain-scattering", "whitened-3", "whitened-6", "whitened-9", "conv", "residual",
        "preact-residual", "mlp", "identity", "pca", or "auto": "identity" for vectors (embeddings), but "pca" where
        they have more than 1,024 features; for images "conv" (paper), or of "scattering" (every place divided by its
        contrast), "plain-scattering", "identity" and whitened pixels (so many components for each cluster, see
        :mod:`subspan.whitened`) the one whose neighbourhoods fall most clearly into k clusters (global), see
        :func:`subspan.selection.choose_encoder`.
    encoder_options : dict, optional
        Sizes: ``n_components`` of "pca", at most 1,024 by default, which loses nothing of fewer samples;
        ``n_components`` of whitened codes; ``n_components``, ``J`` and ``L`` of scattering; for networks see
        :func:`subspan.encoders.make_encoder`.
    head : {"auto", "conv", "mlp"}
        Classifier on the codes; "auto" is the paper's convolutional one where codes have a spatial layout.
    head_width : int, optional
        Hidden width; 64 for "conv", 256 for "mlp".
    self_expression : {"closed-form", "parameter"}
        Solve for C in every shuffled batch, or learn it for fixed batches as the paper does (deviation 3).
    gamma : float or "auto"
        Ridge weight of self-expression relative to the mean eigenvalue of ``Z^T Z`` (deviation 4). "auto": 30 (paper),
        or chosen as the encoder is, see :func:`subspan.selection.choose_graph`; 100 for whitened codes (global).
    positive : bool or "auto"
        Negative coefficients of Eq. 4 count as zero, not by their size (deviation 10). "auto": no (paper), or where
        the graph of neighbours then falls far more clearly into k clusters (global), see
        :func:`subspan.selection.choose_expression`.
    n_neighbors : int or "auto"
        Positive pairs per sample at most (global). "auto": half an average cluster, from 3 to 10; where these mislead
        and gamma is open too, and codes are not whitened, up to 150 among 3000 landmarks, see
        :func:`subspan.selection.choose_graph`.
    batch_size : int
        Samples whose self-expression is solved together at most; batches are of nearly equal size.
    batches : {"local", "random"}
        How batches are composed (deviation 7).
    u : float, (float, float) or "auto"
        Threshold of ``A_s`` for positive pairs; a pair is for the beginning and the end of stage 2 (deviation 1).
        "auto": 0.9 (paper), 0 (global).
    l : float
        Threshold of ``A_c`` for negative pairs (deviation 1).
    affinity : {"confidence", "cosine"}
        Form of ``A_c`` in Eq. 6: ``p_i . p_j``, or the paper's cosine (deviation 5).
    balance : float, (float, float) or "auto"
        Weight of ``KL(mean p || prior)`` at the beginning and at the end of stage 2; 0 leaves it out (deviation 5).
        "auto": (4, 1) (paper), (4, 0.5) (global). A classifier settles with either, and with one between.
    prior : {"auto", "uniform", "uneven"} or array-like of shape (k,)
        Expected cluster sizes: equal; those of labels that were found when sizes may differ; or given ones. "auto":
        equal for most candidates, and two that expect those of their labels are chosen if they tell more; where sizes
        plainly differ, those of their labels for all (global, see :func:`subspan.proposals.propose`). Or equal, unless
        uneven labels keep far more pairs together (starts, see :func:`subspan.merging.consensus`). Unless they are
        given or "uniform", sizes are those of the chosen classifier when it settles.
    augmentation : dict, optional
        Random changes of images that keep what they show, for the samples from which classifiers learn (not their
        partners): "rotation" in degrees; "shift", "zoom" and "crop" relative to the side; "brightness"; "flip" (bool),
        see :func:`subspan.augment.augment`. Each step encodes its images anew. None by default.
    walk : int
        Steps of the random walk to a start's partner at the beginning of stage 2, shortened to one.
    n_starts : int or "auto"
        Independent classifiers trained side by side, whose consensus the final one learns first (deviation 8). 0: what
        it learns first is searched for on the graph of pairs, see :func:`subspan.proposals.propose`. 1: it learns from
        Eq. 5 alone. "auto": 5 (paper), 0 (global; with several starts, what they agree on joins the search).
    overcluster : float
        Clusters of each start, as a multiple of k (deviation 8); without starts it changes nothing.
    lambda_cl : float
        Weight of Omega in Eq. 8.
    epochs : dict, optional
        Overrides of the epochs of "autoencoder" (30), "subspace" (1), "starts" (8), "classifier" (6), "settling" (8; 0
        in the paper's recipe) and "collaboration" (3; 0 in the global recipe, where it made trained codes worse).
    learning_rates : dict, optional
        Overrides of "autoencoder" (1e-3), "encoder" (1e-5, after pre-training), "self_expression" (1e-3),
        "starts" (3e-3), "classifier" (3e-3), "settling" (3e-3), "collaboration" (1e-3, the head).
    tolerance : float
        The collaboration stage stops when a smaller share of the labels changed in an epoch.
    channel_axis : {"auto", 1, -1}
        Where images of shape (n, ., ., .) have their channels.
    random_state : int, RandomState or None
        Initial weights and batches. The search for labels (``n_starts=0``) does not depend on it.
    device : str or torch.device
        "auto" takes CUDA when present.
    verbose : int
        1 shows a progress bar.
    checkpoint_dir : path, optional
        Save the state after every epoch.
    resume : bool
        Continue from the state in ``checkpoint_dir``, if there is one, to the result of an unbroken run.

    Attributes
    ----------
    labels_ : ndarray of shape (n,)
    history_ : list of dict
    stop_reasons_ : dict
    encoder_, head_ : torch modules
    gamma_, n_neighbors_, positive_ : float, int and bool
        As they were chosen.
    encoder_scores_ : dict
        What ``encoder="auto"`` was chosen by.

    Notes
    -----
    Deviations from the paper, where it is silent or where its words do not work:

    1. *Thresholds.* Sec. 5.1 prints u = 0.1 and l = 0.7 then 0.9; that selects nearly every pair both ways. Read as
       swapped: positives A_s > 0.7 then 0.9, negatives A_c < 0.1. The default starts at 0.9, since a walk multiplies
       the errors of its steps; ``u=(0.7, 0.9)`` is the paper's.
    2. *Sign and range.* H(p || q) carries its minus; A_s is normalised as in Sec. 4, which stays in [0, 1].
    3. *C for shuffled batches* is the closed-form minimiser of Eq. 9 with zero diagonal; ``"parameter"`` learns it.
    4. *Scale.* rho = 2 / lambda_1 follows the data: ``rho = gamma trace(Z^T Z) / d``. Terms are means, not sums.
    5. *Collapse.* Nothing in Eqs. 5-9 opposes a uniform softmax, where A_c = 1 everywhere; from a usual
       initialisation the literal loss (``affinity="cosine"``, ``balance=(0, 0)``, ``n_starts=1``) ends there or with
       all samples in one cluster. So the pair term has no
       l2 norm, a balance term is added, and codes are standardised for the head, which has batch normalisation.
    6. *Degenerate codes.* Codes are centred and of unit length in Eq. 9, else shrinking them lowers the loss for free.
       Whitened ones are not centred: linear subspaces go through the origin. Their affinities are not divided by the
       maximum of a row, see :meth:`subspan.neighbours.Neighbours.pairs` (global).
    7. *Batches* are made of whole cells of a coarse k-means partition of the codes, redrawn every epoch: in random
       batches of 5000 out of 70,000 most true neighbours are missing. ``batches="random"`` is the plain reading.
    8. *Starts.* A single classifier (``n_starts=1``) ends in one of many local optima. So six are trained side by side
       that first learn labels, then Eq. 5. In the global recipe the labels are searched for on the graph of pairs
       (:func:`subspan.proposals.propose`); the classifier whose labels tell most about neighbours stays and settles: it
       goes on with the sizes that it has found. In the paper's the one with the lowest objective stays, or one that
       knew more about neighbours before Eq. 5. There several starts are trained first; the small cells on which they
       agree are merged to k by the flow of the walk between them, in several ways, and spectral labels are one way
       more. At most 30 positives are kept per sample, and a step draws one of them.
    9. *Training.* The paper gives rates, but no batch size of pre-training and no schedule: 256 samples; in stage 2
       the rate rises over the first 30 % and falls to zero along a cosine, and a step sees samples drawn from all
       data, not a batch of 5000.
    10. *Negative coefficients.* Eq. 4 takes their size: a subspace holds the opposite of each of its samples. But codes
        are centred (6), and clusters that are no subspaces can lie on opposite sides of the mean, as any two do that
        are all there is. Then their samples express each other, negatively, and must not be joined by that.

    References
    ----------
    T. Zhang, P. Ji, M. Harandi, W. Huang, H. Li. Neural Collaborative Subspace Clustering. ICML 2019.
    """

    n_clusters: int = field(default=10, kw_only=False)
    recipe: str = "global"
    encoder: str = "auto"
    encoder_options: dict | None = None
    head: str = "auto"
    head_width: int | None = None
    self_expression: str = "closed-form"
    gamma: Any = "auto"
    positive: Any = "auto"
    n_neighbors: Any = "auto"
    batch_size: int = 5000
    batches: str = "local"
    u: Any = "auto"
    l: float = 0.1  # noqa: E741
    affinity: str = "confidence"
    balance: Any = "auto"
    prior: Any = "auto"
    augmentation: dict | None = None
    walk: int = 6
    n_starts: Any = "auto"
    overcluster: float = 2.0
    lambda_cl: float = 1.0
    epochs: dict | None = None
    learning_rates: dict | None = None
    tolerance: float = 0.001
    channel_axis: Any = "auto"
    random_state: Any = None
    device: str | torch.device = "auto"
    verbose: int = 0
    checkpoint_dir: Any = None
    resume: bool = False

    _rates: ClassVar[dict[str, float]] = RATES

    def _fit(self, samples: Samples, seed: int) -> None:
        if self.augmentation is not None and samples.kind == "vector":
            raise InvalidInputError("augmentation changes images, but X holds vectors: give (n, h, w) or leave it out.")
        device = self._device
        encoder = self._choose_encoder(samples, seed).to(device)
        parts = self._memory_parts(samples.n, encoder, encoder.n_codes)
        check_memory(parts, self.batch_size, samples.n)
        fixed = self._fixed_batches(samples.n, seed)
        setting = self._setting(samples, encoder, self._layer(fixed).to(device), fixed)
        heads = {name: part.to(device) for name, part in self._classifiers(setting).items()}
        head = heads["head"]
        modules: dict[str, nn.Module] = {"encoder": encoder, "layer": setting.layer, **heads}
        if isinstance(setting, GlobalSetting):
            modules["graph"] = setting.chosen.to(device)
        stages = algorithm_1(
            setting,
            heads,
            epochs=self._all_epochs(),
            rates=self._all_rates(),
            tolerance=self.tolerance,
            search=self._searches,
        )
        if self.verbose:
            print(
                f"{samples.n} samples of {' x '.join(map(str, samples.shape))}, recipe {self.recipe}, "
                f"encoder {encoder.name} ({encoder.n_codes} codes), about {sum(parts.values()) / 1e9:.1f} GB and "
                f"{spoken(expected_seconds(setting, stages))}",
                file=sys.stderr,
            )
        outcome = train(
            stages,
            modules,
            n_samples=samples.n,
            seed=seed,
            checkpoint=self._checkpoint(samples, seed),
            callbacks=[Progress()] if self.verbose else [],
        )
        self.history_, self.stop_reasons_ = outcome.history, outcome.stop_reasons
        self.encoder_, self.head_ = encoder.eval(), head.eval()
        setting.encode_all()
        self.center_, self.gamma_, self.n_neighbors_ = setting.center, setting.layer.gamma, setting.most_pairs()
        self.positive_ = bool(setting.positive)
        scores = head_scores(head, setting.codes)[0]
        if not bool(scores.isfinite().all()):
            raise DivergenceError("the scores of the trained classifier are not finite: lower the learning rates")
        self.labels_ = scores.argmax(dim=1).cpu().numpy()

    def _setting(self, samples: Samples, encoder: Encoder, layer: SelfExpression, fixed) -> Setting:
        given = not isinstance(self.prior, str)
        prior = torch.as_tensor(self.prior, dtype=torch.float32, device=self._device) if given else None
        sizes = self.prior if prior is None else "uniform" if len(prior.unique()) == 1 else "auto"
        shared: dict[str, Any] = {
            "samples": samples,
            "encoder": encoder,
            "layer": layer,
            "device": self._device,
            "n_clusters": self.n_clusters,
            "batch_size": self.batch_size,
            "local": self.batches == "local",
            "u": check_pair(self._auto("u")),
            "l": self.l,
            "walk": self.walk,
            "cosine": self.affinity == "cosine",
            "balance": check_pair(self._auto("balance")),
            "prior": prior,
            "compression": COMPRESSION[sizes],
            "lambda_cl": self.lambda_cl,
            "positive": self._auto("positive"),
            "augmentation": self.augmentation,
            "fixed_batches": fixed,
        }
        if self.recipe == "paper":
            return Setting(**shared)
        m, gamma = self._n_neighbors(samples.n), self._auto("gamma")
        return GlobalSetting(**shared, n_neighbors=m, open_neighbors=self._open_neighbors, gamma=gamma)

    def _auto(self, name: str) -> Any:
        return automatic(self.recipe, name, getattr(self, name))

    def _choose_encoder(self, samples: Samples, seed: int) -> Encoder:
        """The encoder of ``encoder="auto"`` by :func:`subspan.selection.choose_encoder`, or the one that was named."""
        self.encoder_scores_: dict[str, float] = {}
        if not self._is_open(samples):
            return self._encoder(samples, seed)
        found = fixed_encoders(samples.shape, samples.n, self.n_clusters)
        name, self.encoder_scores_ = choose_encoder(
            samples,
            found,
            self.n_clusters,
            self._n_neighbors(min(samples.n, SAMPLES)),
            self._device,
            bool(self._auto("positive")),
        )
        if self.verbose:
            scores = ", ".join(f"{other} {score:.4f}" for other, score in self.encoder_scores_.items())
            print(f"encoder {name} has the clearest clusters ({scores})", file=sys.stderr)
        return self._encoder(samples, seed, name)

    def _is_open(self, samples: Samples) -> bool:
        images = samples.kind == "image" and min(samples.shape[1:]) >= MIN_SIDE
        return self.encoder == "auto" and self.recipe == "global" and images and not self.encoder_options

    def _encoder(self, samples: Samples, seed: int, name: str | None = None) -> Encoder:
        name, options = name or self.encoder, self.encoder_options or {}
        if name == "auto" and self.recipe == "global" and samples.kind == "image":
            name = "scattering" if min(samples.shape[1:]) >= MIN_SIDE else "identity"
        if name == "auto" and samples.kind == "vector" and samples.shape[0] > MOST:
            name = "pca"
        if name in OPTIONS:
            return fixed_encoder(name, samples.shape, samples.n, self.n_clusters, options)
        return make_encoder(name, samples.shape, self.n_clusters, generator(seed, 1), **options)

    def predict_proba(self, X) -> np.ndarray:
        """Softmax scores of the samples of X, float32 of shape (n, k)."""
        return self._map(X, lambda x: self.head_(self.encoder_.encode(x))[0].softmax(dim=-1))

    def affinities(self, X, index=None) -> tuple[np.ndarray, np.ndarray]:
        """Dense ``A_s`` (Eq. 4) and ``A_c`` (Eq. 1) of the samples ``index`` of X (all by default), each (m, m).

        Self-expression is solved among the chosen samples alone.
        """
        check_is_fitted(self, "labels_")
        samples = check_samples(X, channel_axis=self.channel_axis)
        check_same_features(samples, self.sample_shape_, type(self).__name__)
        index = np.arange(samples.n) if index is None else np.asarray(index)
        x = samples.with_scaling(self.scaling_).batch(index).to(self._device)
        with torch.no_grad():
            z = self.encoder_.encode(x)
            Z = nn.functional.normalize(z - self.center_, dim=1)
            C = ClosedFormSelfExpression(self.gamma_).coefficients(Z)
            A_s = subspace_affinity(C, positive=self.positive_)
            A_c = classifier_affinity(normalise_scores(self.head_(z)[0].softmax(dim=-1)))
        return A_s.cpu().numpy(), A_c.cpu().numpy()

    def pair_rule(self) -> dict[str, float]:
        """Rule for pairs at the end: positive above ``u``, at most ``limit`` of a sample; negative below ``l`` (Eq. 7).

        Negative pairs teach in joint training alone, which the global recipe leaves out.
        """
        check_is_fitted(self, "labels_")
        return {"u": check_pair(self._auto("u"))[1], "l": self.l, "limit": self.n_neighbors_}

    def resolved_parameters(self, X) -> dict[str, Any]:
        """Values that a fit on X takes for parameters that leave some open; "by the data" is found from codes."""
        defaults, samples = super().resolved_parameters(X), self._inspect(X)
        encoder = self._encoder(samples, 0)
        white = self.recipe == "global" and encoder.whitened
        found: dict[str, Any] = {
            "encoder": "by the data" if self._is_open(samples) else encoder.name,
            "head": self._heads(encoder, 1, self.n_clusters).name,
            "gamma": self._auto("gamma") or (WHITE if white else "by the data"),
            "positive": "by the data" if self._auto("positive") is None else bool(self._auto("positive")),
            "n_starts": self._auto("n_starts"),
            "overcluster": self._n_fine(samples.n) / self.n_clusters,
        }
        if self.recipe == "global":
            m = self._n_neighbors(samples.n)
            found["n_neighbors"] = f"{m}, or more by the data" if self._open_neighbors and not white else m
        return defaults | found | {name: check_pair(self._auto(name)) for name in ("u", "balance")}

    def _all_epochs(self) -> dict[str, int]:
        return resolve_epochs(self.recipe, self.epochs)

    def estimate_resources(self, X) -> dict[str, Any]:
        """Expected peak memory of ``fit`` on X in bytes, by part; nothing is trained."""
        samples = self._inspect(X)
        encoder = self._encoder(samples, 0)
        pixels = math.prod(samples.shape) if self._is_open(samples) else 0  # may become the codes
        n_codes = max(encoder.n_codes, pixels if pixels <= MAX_PIXELS else 0)
        parts = self._memory_parts(samples.n, encoder, n_codes)
        return {"memory_bytes": sum(parts.values()), "parts": parts, "n_codes": n_codes}

    def _memory_parts(self, n: int, encoder: Encoder, n_codes: int) -> dict[str, int]:
        paper, m = self.recipe == "paper", self._n_neighbors(n)
        far = self._open_neighbors and not encoder.whitened
        return memory_parts(
            n,
            n_codes,
            neighbours=0 if paper else most_neighbours(n, self.n_clusters, m) if far else m,
            batch_size=self.batch_size,
            joint=(paper or encoder.trainable) and self._all_epochs()["collaboration"] > 0,
            learned=self.self_expression == "parameter",
            searched=self.n_clusters if self._searches else 0,
            fitting=fitting_bytes(encoder, n),
        )

    @property
    def _open_neighbors(self) -> bool:
        """Whether more neighbours may be chosen, see :func:`subspan.selection.choose_graph`."""
        return self.n_neighbors == "auto" and not self._auto("gamma")

    def _n_neighbors(self, n: int) -> int:
        return count_neighbours(n, self.n_clusters) if self.n_neighbors == "auto" else self.n_neighbors

    def _labels(self, batch: Tensor) -> Tensor:
        return self.head_(self.encoder_.encode(batch))[0].argmax(dim=1)

    def _codes(self, batch: Tensor) -> Tensor:
        return self.encoder_.encode(batch)

    def _state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        modules: dict[str, Encoder | Heads] = {"encoder": self.encoder_, "head": self.head_}
        tensors = module_tensors(modules) | {"center": self.center_}
        found = {"gamma": self.gamma_, "n_neighbors": self.n_neighbors_, "positive": self.positive_}
        return tensors, {m: module.config() for m, module in modules.items()} | found

    def _restore(self, tensors: dict[str, Tensor], extra: dict[str, Any]) -> None:
        device = self._device
        self.center_ = tensors.pop("center").to(device)
        self.gamma_, self.n_neighbors_, self.positive_ = (extra[name] for name in ("gamma", "n_neighbors", "positive"))
        self.encoder_ = restore_encoder(**extra["encoder"])
        self.head_ = build_heads(**extra["head"])
        load_module_tensors({"encoder": self.encoder_, "head": self.head_}, tensors)
        self.encoder_.to(device).eval()
        self.head_.to(device).eval()

    @property
    def _searches(self) -> bool:
        return searches(self.recipe, self._auto("n_starts"))

    def _classifiers(self, setting: Setting) -> dict[str, Heads]:
        """Classifiers of all stages, see :func:`subspan.methods._ncsc_plan.algorithm_1`; "head" gives the labels."""
        encoder, n_starts, heads = setting.encoder, self._auto("n_starts"), {}
        if n_starts > 1:
            heads["starts"] = self._heads(encoder, n_starts, self._n_fine(setting.samples.n))
        heads["candidates"] = self._heads(encoder, 1 if n_starts == 1 else CANDIDATES, self.n_clusters)
        if self._all_epochs()["settling"] > 0:
            heads["settling"] = self._heads(encoder, len(holds(setting.balance)), self.n_clusters)
        return heads | {"head": self._heads(encoder, 1, self.n_clusters)}

    def _heads(self, encoder, n_starts: int, k: int) -> Heads:
        return build_heads(self.head, n_starts, encoder.code_shape, k, self.head_width)

    def _n_fine(self, n: int) -> int:
        """Number of clusters of each start: ``overcluster * k``, or k where a cluster would have too few samples."""
        fine = max(self.n_clusters, round(self.overcluster * self.n_clusters))
        return fine if n >= SAMPLES_PER_CLUSTER * fine else self.n_clusters

    def _fixed_batches(self, n: int, seed: int) -> list[Tensor] | None:
        if self.self_expression != "parameter":
            return None
        return random_batches(n, self.batch_size, generator(seed, 2))

    def _layer(self, fixed: list[Tensor] | None) -> SelfExpression:
        gamma = self._auto("gamma") or AUTO["paper"]["gamma"]  # where it is chosen, the choice comes later
        if fixed is None:
            return ClosedFormSelfExpression(gamma)
        return LearnedSelfExpression([len(batch) for batch in fixed], gamma)

    def _validate_parameters(self) -> None:
        check_parameters(self.get_params(deep=False))

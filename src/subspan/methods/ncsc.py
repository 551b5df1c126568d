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

Algorithm 1 trains in three stages (auto-encoder and C on Eq. 9; classifier on Eq. 5; everything on Eq. 8) and needs no
spectral clustering. Losses live in :mod:`subspan.losses`, the stages in :mod:`subspan.methods._ncsc_stages`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from subspan._parameters import check_choice, check_integer, check_number, check_overrides, check_pair
from subspan._random import generator
from subspan._resources import available_bytes
from subspan._validation import Samples, check_n_clusters, check_same_features, check_samples
from subspan.affinity import classifier_affinity, normalise_scores, subspace_affinity
from subspan.base import Clusterer
from subspan.encoders import Encoder, build_encoder, make_encoder
from subspan.errors import DivergenceError, InvalidInputError, ResourceError
from subspan.heads import Heads, build_heads
from subspan.methods._ncsc_stages import ClassifierStage, CollaborationStage, Setting, SubspaceStage, head_scores
from subspan.pretraining import Reconstruction, encode
from subspan.progress import Progress
from subspan.self_expression import (
    ClosedFormSelfExpression,
    LearnedSelfExpression,
    SelfExpression,
    learned_bytes,
)
from subspan.training import Phase, train

EPOCHS = {"autoencoder": 30, "subspace": 1, "starts": 8, "classifier": 6, "collaboration": 3}
RATES = {
    "autoencoder": 1e-3,  # pre-training
    "encoder": 1e-5,  # the auto-encoder after pre-training
    "self_expression": 1e-3,  # of a learned C
    "starts": 3e-3,
    "classifier": 3e-3,
    "collaboration": 1e-3,  # the head in the last stage
}
SAMPLES_PER_CLUSTER = 20  # the starts have more than k clusters only with so many samples for each


class NCSC(Clusterer):
    """Neural Collaborative Subspace Clustering.

    Parameters
    ----------
    n_clusters : int
        k.
    recipe : "paper"
        Algorithm 1, batch by batch.
    encoder : {"auto", "conv", "residual", "preact-residual", "mlp", "identity"}
        "auto": "conv" for images, "identity" for vectors (embeddings).
    encoder_options : dict, optional
        Sizes, see :func:`subspan.encoders.make_encoder`.
    head : {"auto", "conv", "mlp"}
        Classifier on the codes; "auto" is the paper's convolutional one where codes have a spatial layout.
    head_width : int, optional
        Hidden width; 64 for "conv", 512 for "mlp".
    self_expression : {"closed-form", "parameter"}
        Solve for C in every shuffled batch, or learn it for fixed batches as the paper does (deviation 3).
    gamma : float
        Ridge weight of self-expression relative to the mean eigenvalue of ``Z^T Z`` (deviation 4).
    batch_size : int
        Samples whose self-expression is solved together.
    batches : {"local", "random"}
        How batches are composed (deviation 7).
    u : float or (float, float)
        Threshold of ``A_s`` for positive pairs; a pair is for the beginning and the end of stage 2 (deviation 1).
    l : float
        Threshold of ``A_c`` for negative pairs (deviation 1).
    affinity : {"confidence", "cosine"}
        Form of ``A_c`` in Eq. 6: ``p_i . p_j``, or the paper's cosine (deviation 5).
    balance : float or (float, float)
        Weight of ``KL(mean p || prior)`` at the beginning and at the end of stage 2; 0 leaves it out (deviation 5).
    prior : array-like of shape (k,), optional
        Expected cluster sizes; uniform by default.
    walk : int
        Steps of the random walk to a sample's partner at the beginning of stage 2, shortened to one.
    n_starts : int
        Independent classifiers trained side by side, whose consensus the final one learns first (deviation 8).
    overcluster : float
        Clusters of each start, as a multiple of k (deviation 8).
    lambda_cl : float
        Weight of Omega in Eq. 8.
    epochs : dict, optional
        Overrides of the epochs of "autoencoder" (30), "subspace" (1), "starts" (8), "classifier" (6) and
        "collaboration" (3).
    learning_rates : dict, optional
        Overrides of "autoencoder" (1e-3), "encoder" (1e-5, after pre-training), "self_expression" (1e-3),
        "starts" (3e-3), "classifier" (3e-3), "collaboration" (1e-3, the head).
    tolerance : float
        The last stage stops when a smaller share of the labels changed in an epoch.
    channel_axis : {"auto", 1, -1}
        Where images of shape (n, ., ., .) have their channels.
    random_state : int, RandomState or None
    device : str
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
    7. *Batches* are made of whole cells of a coarse k-means partition of the codes, redrawn every epoch: in random
       batches of 5000 out of 70,000 most true neighbours are missing. ``batches="random"`` is the plain reading.
    8. *Starts.* A single classifier ends in one of many local optima. Several are trained side by side; the small
       cells on which they agree are merged to k by the flow of the walk between them, and the final classifier first
       learns these labels, then Eq. 5. At most 30 positives are kept per sample, and a step draws one of them.

    References
    ----------
    T. Zhang, P. Ji, M. Harandi, W. Huang, H. Li. Neural Collaborative Subspace Clustering. ICML 2019.
    """

    def __init__(
        self,
        n_clusters=10,
        *,
        recipe="paper",
        encoder="auto",
        encoder_options=None,
        head="auto",
        head_width=None,
        self_expression="closed-form",
        gamma=30.0,
        batch_size=5000,
        batches="local",
        u=0.9,
        l=0.1,  # noqa: E741
        affinity="confidence",
        balance=(4.0, 1.0),
        prior=None,
        walk=6,
        n_starts=5,
        overcluster=2.0,
        lambda_cl=1.0,
        epochs=None,
        learning_rates=None,
        tolerance=0.001,
        channel_axis="auto",
        random_state=None,
        device="auto",
        verbose=0,
        checkpoint_dir=None,
        resume=False,
    ):
        self.n_clusters = n_clusters
        self.recipe = recipe
        self.encoder = encoder
        self.encoder_options = encoder_options
        self.head = head
        self.head_width = head_width
        self.self_expression = self_expression
        self.gamma = gamma
        self.batch_size = batch_size
        self.batches = batches
        self.u = u
        self.l = l
        self.affinity = affinity
        self.balance = balance
        self.prior = prior
        self.walk = walk
        self.n_starts = n_starts
        self.overcluster = overcluster
        self.lambda_cl = lambda_cl
        self.epochs = epochs
        self.learning_rates = learning_rates
        self.tolerance = tolerance
        self.channel_axis = channel_axis
        self.random_state = random_state
        self.device = device
        self.verbose = verbose
        self.checkpoint_dir = checkpoint_dir
        self.resume = resume

    def _fit(self, samples: Samples, seed: int) -> None:
        check_n_clusters(self.n_clusters, samples.n)
        device = self._device
        encoder = make_encoder(
            self.encoder, samples.shape, self.n_clusters, generator(seed, 1), **(self.encoder_options or {})
        ).to(device)
        self._check_memory(samples.n, encoder.n_codes)
        starts = self._heads(encoder, self.n_starts, self._n_fine(samples.n)).to(device)
        head = self._heads(encoder, 1, self.n_clusters).to(device)
        fixed = self._fixed_batches(samples.n, seed)
        layer = self._layer(fixed).to(device)
        setting = Setting(
            samples,
            encoder,
            layer,
            device,
            self.n_clusters,
            self.batch_size,
            self.batches == "local",
            check_pair(self.u),
            self.l,
            self.walk,
            self.affinity == "cosine",
            check_pair(self.balance),
            None if self.prior is None else torch.as_tensor(self.prior, dtype=torch.float32, device=device),
            self.lambda_cl,
            fixed,
        )
        modules: dict[str, nn.Module] = {"encoder": encoder, "layer": layer, "starts": starts, "head": head}
        outcome = train(
            self._stages(setting, starts, head),
            modules,
            n_samples=samples.n,
            seed=seed,
            checkpoint=self._checkpoint(samples, seed),
            callbacks=[Progress()] if self.verbose else [],
        )
        self.history_, self.stop_reasons_ = outcome.history, outcome.stop_reasons
        self.encoder_, self.head_ = encoder.eval(), head.eval()
        codes = encode(samples, encoder, device)
        self.center_ = codes.mean(dim=0)
        scores = head_scores(head, codes)[0]
        if not bool(scores.isfinite().all()):
            raise DivergenceError("the scores of the trained classifier are not finite: lower the learning rates")
        self.labels_ = scores.argmax(dim=1).cpu().numpy()

    def _stages(self, setting: Setting, starts: Heads, head: Heads) -> list[Phase]:
        """Algorithm 1."""
        epochs, rates = EPOCHS | (self.epochs or {}), RATES | (self.learning_rates or {})
        stages: list[Phase] = []
        if setting.encoder.trainable:
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
        if setting.encoder.trainable or any(True for _ in setting.layer.parameters()):
            stages.append(
                SubspaceStage(
                    setting,
                    epochs=epochs["subspace"],
                    rate_encoder=rates["encoder"],
                    rate_c=rates["self_expression"],
                )
            )
        several = None
        if self.n_starts > 1:
            several = ClassifierStage(setting, starts, name="starts", epochs=epochs["starts"], rate=rates["starts"])
            stages.append(several)
        stages.append(
            ClassifierStage(
                setting,
                head,
                name="classifier",
                epochs=epochs["classifier"],
                rate=rates["classifier"],
                starts=several,
            )
        )
        stages.append(
            CollaborationStage(
                setting,
                head,
                epochs=epochs["collaboration"],
                rate_encoder=rates["encoder"],
                rate_head=rates["collaboration"],
                rate_c=rates["self_expression"],
                tolerance=self.tolerance,
            )
        )
        return stages

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
            A_s = subspace_affinity(ClosedFormSelfExpression(self.gamma).coefficients(Z))
            A_c = classifier_affinity(normalise_scores(self.head_(z)[0].softmax(dim=-1)))
        return A_s.cpu().numpy(), A_c.cpu().numpy()

    def estimate_resources(self, X) -> dict[str, Any]:
        """Expected peak memory of ``fit`` on X in bytes, by part; nothing is trained."""
        self._validate_parameters()
        samples = check_samples(X, channel_axis=self.channel_axis, n_clusters=self.n_clusters)
        encoder = make_encoder(
            self.encoder, samples.shape, self.n_clusters, generator(0), **(self.encoder_options or {})
        )
        parts = self._memory_parts(samples.n, encoder.n_codes)
        return {"memory_bytes": sum(parts.values()), "parts": parts, "n_codes": encoder.n_codes}

    def _memory_parts(self, n: int, n_codes: int) -> dict[str, int]:
        batch = min(self.batch_size, n)
        joint = (EPOCHS | (self.epochs or {}))["collaboration"] > 0
        parts = {
            "libraries": 400_000_000,
            "codes": 4 * n * n_codes * 4,
            "affinities": 4 * batch * batch * (14 if joint else 5),  # Eq. 8 is differentiated through C
        }
        if self.self_expression == "parameter":
            parts["learned_coefficients"] = learned_bytes([batch]) * max(1, round(n / batch))
        return parts

    def _check_memory(self, n: int, n_codes: int) -> None:
        """Refuse what will not fit before anything is allocated."""
        available = available_bytes()
        needed = sum(self._memory_parts(n, n_codes).values())
        if available is None or needed <= available:
            return
        rest = available - 400_000_000 - 4 * n * n_codes * 4
        largest = math.isqrt(max(rest, 0) // (4 * 14))
        raise ResourceError(
            f"batches of {min(self.batch_size, n)} samples take about {needed / 1e9:.1f} GB and {available / 1e9:.1f} "
            f"GB are free: set batch_size to at most {largest}, or give fewer samples"
        )

    def _labels(self, batch: Tensor) -> Tensor:
        return self.head_(self.encoder_.encode(batch))[0].argmax(dim=1)

    def _codes(self, batch: Tensor) -> Tensor:
        return self.encoder_.encode(batch)

    def _state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        modules: dict[str, Encoder | Heads] = {"encoder": self.encoder_, "head": self.head_}
        tensors = {f"{m}.{k}": v for m, module in modules.items() for k, v in module.state_dict().items()}
        tensors["center"] = self.center_
        return tensors, {m: module.config() for m, module in modules.items()}

    def _restore(self, tensors: dict[str, Tensor], extra: dict[str, Any]) -> None:
        device = self._device
        self.center_ = tensors.pop("center").to(device)
        self.encoder_ = build_encoder(**extra["encoder"])
        self.head_ = build_heads(**extra["head"])
        for name, module in {"encoder": self.encoder_, "head": self.head_}.items():
            prefix = name + "."
            module.load_state_dict({k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)})
            module.to(device).eval()

    def _heads(self, encoder, n_starts: int, k: int) -> Heads:
        return build_heads(self.head, n_starts, encoder.code_shape, k, self.head_width)

    def _n_fine(self, n: int) -> int:
        """Number of clusters of each start: ``overcluster * k``, or k where a cluster would have too few samples."""
        fine = max(self.n_clusters, round(self.overcluster * self.n_clusters))
        return fine if n >= SAMPLES_PER_CLUSTER * fine else self.n_clusters

    def _fixed_batches(self, n: int, seed: int) -> list[Tensor] | None:
        if self.self_expression != "parameter":
            return None
        count = max(1, round(n / self.batch_size))
        return list(torch.randperm(n, generator=generator(seed, 2)).tensor_split(count))

    def _layer(self, fixed: list[Tensor] | None) -> SelfExpression:
        if fixed is None:
            return ClosedFormSelfExpression(self.gamma)
        return LearnedSelfExpression([len(batch) for batch in fixed], self.gamma)

    def _validate_parameters(self) -> None:
        check_choice("recipe", self.recipe, ("paper",))
        check_choice("self_expression", self.self_expression, ("closed-form", "parameter"))
        check_choice("batches", self.batches, ("local", "random"))
        check_choice("affinity", self.affinity, ("confidence", "cosine"))
        check_number("gamma", self.gamma, 1e-12)
        check_number("l", self.l, 0.0, 1.0)
        check_number("overcluster", self.overcluster, 1.0)
        check_number("lambda_cl", self.lambda_cl, 0.0)
        check_number("tolerance", self.tolerance, 0.0)
        for name in ("batch_size", "n_starts", "walk"):
            check_integer(name, getattr(self, name), 1)
        for name, high in (("u", 1.0), ("balance", math.inf)):
            for value in check_pair(getattr(self, name), name):
                check_number(name, value, 0.0, high)
        check_overrides("epochs", self.epochs, EPOCHS, whole=True)
        if (self.epochs or {}).get("classifier") == 0:
            raise InvalidInputError("epochs['classifier'] is 0, but the classifier gives the labels: give at least 1.")
        check_overrides("learning_rates", self.learning_rates, RATES)
        if self.prior is not None:
            prior = np.asarray(self.prior, dtype=float)
            if prior.shape != (self.n_clusters,) or not (np.isfinite(prior).all() and (prior > 0).all()):
                raise InvalidInputError(f"prior must hold {self.n_clusters} positive numbers, one per cluster.")

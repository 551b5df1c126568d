"""scikit-learn's own checks of an estimator, and its tools around one."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from subspan import NCSC

TINY = {"epochs": {"classifier": 2, "settling": 1, "collaboration": 1}, "n_starts": 1, "head_width": 16}

# {name of a check: why it cannot pass}; a check listed here that passes is an error
EXPECTED_FAILURES: dict[str, str] = {}


@parametrize_with_checks(
    [NCSC(2, **TINY), NCSC(2, recipe="paper", **TINY)],
    expected_failed_checks=lambda estimator: EXPECTED_FAILURES,
    xfail_strict=True,
)
@pytest.mark.filterwarnings("ignore::subspan.errors.CollapseWarning")
def test_scikit_learn_checks(estimator, check):
    check(estimator)


def data():
    rng = np.random.default_rng(0)
    return np.concatenate([rng.normal(size=(40, 2)) @ rng.normal(size=(2, 8)) for _ in range(2)])


def test_clone_keeps_parameters_and_nothing_learnt():
    prior = np.array([2.0, 1.0])
    model = NCSC(2, prior=prior, u=(0.6, 0.8), random_state=3, **TINY).fit(data())
    copy = clone(model)
    assert not hasattr(copy, "labels_")
    params, copied = model.get_params(), copy.get_params()
    assert np.array_equal(copied.pop("prior"), params.pop("prior"))
    assert params == copied


def test_constructor_only_assigns():
    """Nonsense is kept as it is until fit, so that grids and clones work."""
    nonsense = {name: object() for name in NCSC().get_params()}
    assert NCSC(**nonsense).get_params() == nonsense


def test_in_a_pipeline_and_a_grid():
    X = data()
    pipeline = make_pipeline(StandardScaler(), NCSC(2, random_state=0, **TINY))
    labels = pipeline.fit_predict(X)
    assert np.array_equal(pipeline.predict(X), labels)
    assert pipeline.transform(X).shape == X.shape
    grid = GridSearchCV(
        NCSC(2, random_state=0, **TINY), {"gamma": np.array([1, 30])}, scoring=confidence, cv=2, refit=False
    ).fit(X)
    assert np.isfinite(grid.cv_results_["mean_test_score"]).all()


def confidence(model, X, y=None):
    return float(model.predict_proba(X).max(1).mean())

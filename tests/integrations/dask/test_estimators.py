"""Estimators of scikit-learn predict arrays of dask chunk by chunk, and lazily."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

da = pytest.importorskip("dask.array")
pytest.importorskip("sklearn")
estimators = pytest.importorskip("foveate.sklearn")

RNG = np.random.default_rng(25)
X = RNG.normal(size=(200, 3)).astype(np.float32)
Y = X @ np.ones((3, 2), np.float32)


@pytest.mark.parametrize("name", ["NadarayaWatson", "LocalLinearRegression", "Lowess"])
@pytest.mark.parametrize("y", [Y, Y[:, 0]], ids=["two outputs", "one"])
def test_predictions_are_those_of_numpy(name, y):
    model = getattr(estimators, name)(0.7).fit(X, y)
    lazy = model.predict(da.from_array(X, chunks=(70, 2)))
    assert isinstance(lazy, da.Array)
    want = model.predict(X)
    assert lazy.chunks[0] == (70, 70, 60)
    assert (lazy.shape, lazy.dtype) == (want.shape, want.dtype)
    np.testing.assert_array_equal(lazy.compute(), want)


def test_nothing_is_computed_in_predict_and_a_later_fit_changes_nothing():
    def never(_: Any) -> Any:
        raise AssertionError("computed")

    model = estimators.NadarayaWatson(0.7).fit(X, Y)
    want = model.predict(X)
    lazy = model.predict(da.from_array(X, chunks=(70, 3)))
    poisoned = da.from_array(X).map_blocks(never, dtype=X.dtype, meta=X[:0])
    assert model.predict(poisoned).shape == (200, 2)
    model.fit(X, -Y)
    np.testing.assert_array_equal(lazy.compute(), want)


def test_chunks_of_unknown_sizes_are_taken():
    model = estimators.NadarayaWatson(0.7).fit(X, Y)
    chunked = da.from_array(X, chunks=(70, 3))
    some = model.predict(chunked[chunked[:, 0] > 0]).compute()
    np.testing.assert_array_equal(some, model.predict(X[X[:, 0] > 0]))


@pytest.mark.parametrize("bad", [da.zeros((4, 2)), da.zeros(3)])
def test_other_features_are_refused(bad):
    with pytest.raises(ValueError, match="X: got shape"):
        estimators.NadarayaWatson(0.7).fit(X, Y).predict(bad)

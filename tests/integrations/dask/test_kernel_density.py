"""The density estimator of scikit-learn scores arrays of dask chunk by chunk, and lazily."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

da = pytest.importorskip("dask.array")
pytest.importorskip("sklearn")
estimators = pytest.importorskip("foveate.sklearn")

RNG = np.random.default_rng(26)


def test_scores_are_those_of_numpy_and_lazy():
    def never(_: Any) -> Any:
        raise AssertionError("computed")

    sample = RNG.normal(size=(200, 3)).astype(np.float32)
    model = estimators.KernelDensity(bandwidth=0.5).fit(sample)
    lazy = model.score_samples(da.from_array(sample, chunks=(70, 2)))
    want = model.score_samples(sample)
    assert (lazy.shape, lazy.dtype, lazy.chunks) == (want.shape, want.dtype, ((70, 70, 60),))
    np.testing.assert_array_equal(lazy.compute(), want)
    poisoned = da.from_array(sample).map_blocks(never, dtype=sample.dtype, meta=sample[:0])
    assert model.score_samples(poisoned).shape == (200,)

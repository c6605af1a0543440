"""One call of each kind against the plain formula, and a demo, beside nothing but NumPy."""

from __future__ import annotations

import foveate as fv
import numpy as np
from foveate._cli import main as command


def main() -> None:
    rng = np.random.default_rng(0)
    query, key, value = (rng.standard_normal((2, 3, n, 16)) for n in (33, 65, 65))
    scores = query @ key.swapaxes(-1, -2) / 4.0
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    wanted = weights @ value

    # Errors a few hundred times the spacing of the type near 1: only a wrong build goes beyond.
    for dtype, tolerance in ((np.float64, 1e-13), (np.float32, 3e-5), (np.float16, 3e-2)):
        inputs = [x.astype(dtype) for x in (query, key, value)]
        output, lse = fv.attention(*inputs, return_lse=True)
        assert output.dtype == dtype
        assert lse.shape == (2, 3, 33)
        np.testing.assert_allclose(output, wanted, rtol=0, atol=tolerance)
        got = fv.attention_weights(*inputs[:2])
        np.testing.assert_allclose(got, weights, rtol=0, atol=tolerance)

    parts = (slice(0, 20), slice(20, 65))
    halves = [fv.attention(query, key[..., p, :], value[..., p, :], return_lse=True) for p in parts]
    merged, _ = fv.merge([half[0] for half in halves], [half[1] for half in halves])
    np.testing.assert_allclose(merged, wanted, rtol=0, atol=1e-13)
    index = fv.hard_attention(query, key, value, select="argmax").index
    np.testing.assert_array_equal(index, weights.argmax(axis=-1))
    drawn = fv.hard_attention(query, key, value, rng=0)
    np.testing.assert_array_equal(
        drawn.output, np.take_along_axis(value, drawn.index[..., None], axis=-2)
    )
    assert fv.multinoulli(np.array([[0.0, 2.0, 0.0]] * 4), rng=0).tolist() == [1] * 4
    centers = np.full((2, 3, 33), 7.0)
    near = fv.local_attention(query, key, value, half_width=0.5, centers=centers, sigma=None)
    np.testing.assert_array_equal(near, np.broadcast_to(value[..., 7:8, :], near.shape))

    assert command(["demo", "alignment", "--no-picture"]) == 0  # the examples are installed too
    fv.show_config()
    print(f"smoke: passed with NumPy {np.__version__}")


if __name__ == "__main__":
    main()

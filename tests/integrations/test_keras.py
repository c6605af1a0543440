"""foveate.keras: Keras' operation and layers by foveate, with each backend, and the way back."""

from __future__ import annotations

import importlib.util

import pytest
from processes import output_of

pytest.importorskip("keras")

pytestmark = [pytest.mark.any_isa, pytest.mark.python, pytest.mark.slow]

CODE = """
import os
os.environ["KERAS_BACKEND"] = {backend!r}
import doctest, warnings
warnings.simplefilter("ignore")  # of Keras and torch
import keras, numpy as np, pytest, foveate.keras
from keras.src.backend import nn

before, calls = nn.dot_product_attention, []
ours = getattr(foveate.keras, {name!r})
def counted(*given, **named):
    calls.append(1)
    return ours(*given, **named)
foveate.keras.{name} = counted

rng = np.random.default_rng(0)
def normal(*shape): return rng.standard_normal(shape).astype(np.float32)
def same(call, here=True):
    theirs = keras.ops.convert_to_numpy(call())
    del calls[:]
    with foveate.keras.activated():
        np.testing.assert_allclose(keras.ops.convert_to_numpy(call()), theirs, rtol=1e-5, atol=1e-5)
    assert bool(calls) is here  # or it was left to Keras
    assert nn.dot_product_attention is before

q, k, v = normal(2, 9, 4, 8), normal(2, 11, 2, 8), normal(2, 11, 2, 8)
for given in (
    {{}}, dict(is_causal=True), dict(scale=0.3), dict(bias=normal(1, 4, 9, 11)),
    dict(mask=normal(2, 1, 9, 11) > -1), dict(mask=normal(2, 4, 1, 11) > -1),
    dict(mask=normal(2, 1, 1, 11) > -1, is_causal=True), dict(flash_attention=False),
):
    call = lambda: keras.ops.dot_product_attention(q, k, v, **given)
    same(call, here=given.get("flash_attention") is not False)
x = normal(2, 9, 32)
for layer in (keras.layers.MultiHeadAttention(4, 8), keras.layers.GroupQueryAttention(8, 4, 2)):
    same(lambda: layer(x, x, use_causal_mask=True))

inputs = keras.Input((9, 32))
attended = keras.layers.MultiHeadAttention(4, 8)(inputs, inputs)
model = keras.Model(inputs, keras.layers.Dense(1)(attended))
start = model.get_weights()
def trained():
    model.set_weights(start)
    model.compile("sgd", "mse")
    model.fit(x, np.ones((2, 9, 1)), epochs=2, verbose=0)
    return np.concatenate([w.ravel() for w in model.get_weights()])
same(trained)

with foveate.keras.activated(), foveate.keras.activated():
    taken = nn.dot_product_attention
    nn.dot_product_attention = None
    with pytest.raises(RuntimeError, match="deactivate: got None in Keras"):
        foveate.keras.deactivate()
    nn.dot_product_attention = taken
foveate.keras.deactivate()  # nothing to do
assert nn.dot_product_attention is before
foveate.keras.{name} = ours
print(doctest.testmod(foveate.keras).failed)
"""


@pytest.mark.parametrize(("backend", "name"), [("jax", "_by_jax"), ("torch", "_by_torch")])
def test_operation_layers_and_training(backend, name):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"no {backend}")
    assert output_of(CODE.format(backend=backend, name=name)).split() == ["0"]

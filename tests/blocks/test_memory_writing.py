"""Memory.write: against the reference, and what is promised."""

from __future__ import annotations

from typing import Any

import foveate as fv
import numpy as np
import pytest
from block_checks import hold
from foveate import reference
from memory_checks import LEADS, operands
from strategies import LAYOUTS, normal
from tolerances import wider

# --- writing --------------------------------------------------------------------------------------


def check_write(*arrays: np.ndarray, erase: Any, add: Any, **keywords: Any) -> fv.Memory:
    query, keys, values = arrays
    memory = fv.Memory(keys, values)
    before = [x.tobytes() for x in arrays]
    memory.write(query, erase=erase, add=add, **keywords)
    assert before == [x.tobytes() for x in arrays], "an input was modified"
    assert memory.values.dtype == values.dtype
    assert memory.keys is keys
    exact, plain = reference.Memory(wider(keys), wider(values)), reference.Memory(keys, values)
    exact.write(wider(query), erase=wider(erase), add=wider(add), **keywords)
    plain.write(query, erase=erase, add=add, **keywords)
    hold(memory.values, exact.values, plain.values, values.dtype, "values")
    return memory


@pytest.mark.parametrize("queries", [0, 1, 5, 16, 17, 40])
def test_write(queries, dtype):
    """More queries than one block of weights, too."""
    query, keys, values = operands(queries, sizes=(6, 4), dtype=dtype)
    erase = np.random.default_rng(0).random((2, queries, 4)).astype(dtype)
    add = normal(8, (2, queries, 4), dtype)
    check_write(query, keys, values, erase=erase, add=add, sharpness=3.0)


WRITABLE = [x for x in LEADS if x[0] in (x[2], (), (1,)) and x[1] in (x[2], ())]


@pytest.mark.parametrize("leads", WRITABLE, ids=str)
def test_write_broadcasts(leads):
    arrays = operands(leads=leads)
    check_write(*arrays, erase=np.float32(0.5), add=np.arange(6.0))
    check_write(*arrays, erase=np.full((5, 1), 0.25), add=np.ones((5, 6), int))


@pytest.mark.parametrize("score", ["dot", fv.Gaussian(0.7)], ids=str)
def test_write_by_another_score(score):
    check_write(*operands(), erase=0.5, add=1.0, score=score)


def test_the_order_of_writers_does_not_matter():
    query, keys, values = operands(dtype=np.float64)
    erase, add = np.random.default_rng(0).random((2, 2, 5, 6))
    made = []
    for order in (slice(None), slice(None, None, -1)):
        memory = fv.Memory(keys, values)
        memory.write(query[:, order], erase=erase[:, order], add=add[:, order])
        made.append(memory.values)
    np.testing.assert_allclose(made[0], made[1], rtol=1e-14, atol=1e-15)  # the order of sums


def test_what_is_written_sharply_is_read():
    memory = fv.Memory(np.eye(8), np.ones((8, 3)))
    value = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    memory.write(np.eye(8)[[2, 5]], erase=1.0, add=value, sharpness=1e4)
    np.testing.assert_array_equal(memory.read(np.eye(8)[[2, 5]], sharpness=1e4), value)
    np.testing.assert_array_equal(memory.values[[0, 1, 3, 4, 6, 7]], np.ones((6, 3)))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout):
    arrays = operands()
    query, keys, values = (LAYOUTS[layout](x) for x in arrays)
    memory, plain = fv.Memory(keys, values), fv.Memory(*arrays[1:])
    np.testing.assert_allclose(memory.read(query), plain.read(arrays[0]), rtol=1e-5, atol=1e-6)
    for each, q in ((memory, query), (plain, arrays[0])):
        each.write(q, erase=0.5, add=1.0)
    # lengths of rows are sums, which another layout may add in another order
    np.testing.assert_allclose(memory.values, plain.values, rtol=1e-5, atol=1e-6)

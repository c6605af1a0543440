"""Numbers as people type them: lists, integers, mixed dtypes, sizes of several axes, buffers."""

from __future__ import annotations

import array
import ctypes
from typing import Any

import foveate as fv
import numpy as np
import pytest
from foveate import reference
from strategies import BFLOAT16, normal

pytestmark = pytest.mark.python

LISTS: dict[str, Any] = {
    "query": [[1, 0], [2, -1]],
    "key": [[4, 0], [0, 4], [1, 1]],
    "value": [[10], [20], [5]],
}
FLOATS = {name: np.array(x, np.float64) for name, x in LISTS.items()}


def forms(x: list[Any]) -> list[Any]:
    """A list, a tuple, and arrays of integers."""
    kinds = (np.int64, np.int32, np.int8, ">i4")
    return [x, tuple(map(tuple, x)), [np.array(row) for row in x], *(np.array(x, k) for k in kinds)]


@pytest.mark.parametrize("form", range(7))
def test_attention_of_integers_is_of_float64(form):
    given = {name: forms(x)[form] for name, x in LISTS.items()}
    half = {"half_width": 1}
    for name, keywords in (
        ("attention", {}),
        ("attention_vjp", {}),
        ("hard_attention", {"rng": 1}),
        ("local_attention", half),
        ("hierarchical_attention", {"segments": (np.array([0, 0, 1]))}),
    ):
        got, want = (getattr(fv, name)(**x, **keywords) for x in (given, FLOATS))
        got, want = (x[0] if isinstance(x, tuple) else x for x in (got, want))
        assert got.dtype == np.float64
        np.testing.assert_array_equal(got, want)
    weights = fv.attention_weights(given["query"], given["key"], score="gaussian")
    np.testing.assert_array_equal(
        weights, fv.attention_weights(FLOATS["query"], FLOATS["key"], score="gaussian")
    )
    gradients = fv.attention_vjp(**given)[1](np.ones((2, 1)))
    assert gradients.query.dtype == np.float64
    if form != 1:
        np.testing.assert_array_equal(reference.attention(**given), reference.attention(**FLOATS))


def test_a_mixture_stays_refused():
    narrow = {name: x.astype(np.float32) for name, x in FLOATS.items()}
    for name in narrow:
        for other in (LISTS[name], FLOATS[name], np.array(LISTS[name])):
            with pytest.raises(TypeError, match=rf"{name}.*float64.*integers are float64"):
                fv.attention(**{**narrow, name: other})
        with pytest.raises(TypeError, match=f"{name}: got dtype bool"):
            fv.attention(**{**FLOATS, name: FLOATS[name] > 0})
    many = np.broadcast_to(np.arange(2), (2**40, 2))  # is not expanded
    with pytest.raises(MemoryError, match="query"):
        fv.attention(many, [[1, 0]], [[1]])


def test_memory_of_lists():
    memory = fv.Memory([[1, 0], [0, 1]], [[10], [20]])
    assert memory.keys.dtype == memory.values.dtype == np.float64
    want = reference.Memory([[1, 0], [0, 1]], [[10], [20]])
    # two exponentials and their sum: some ulp of 20
    near = {"rtol": 4e-16, "atol": 0}
    np.testing.assert_allclose(memory.read([[3, 0]]), want.read([[3, 0]]), **near)
    memory.write([[0, 1]], erase=1, add=[[7]])
    want.write([[0, 1]], erase=1, add=[[7]])
    np.testing.assert_allclose(memory.values, want.values, **near)


@pytest.mark.parametrize("kind", [list, tuple, np.int64, np.uint8, np.int16])
def test_draws_from_integers(kind):
    weights = [[1, 0, 3], [2, 2, 2]]
    p = np.array(weights, kind) if isinstance(kind, type) and issubclass(kind, np.generic) else (
        kind(map(kind, weights))
    )  # fmt: skip
    exact = np.array(weights, np.float64)
    for function in (fv, reference):
        np.testing.assert_array_equal(
            function.multinoulli(p, 50, rng=1), fv.multinoulli(exact, 50, rng=1)
        )
        np.testing.assert_array_equal(
            function.multinomial([20, 30], p, rng=1), fv.multinomial([20, 30], exact, rng=1)
        )
    counts = [[1, 0, 2], [3, 0, 1]]
    got = fv.multinomial_logpmf(kind(counts) if kind in (list, tuple) else counts, p)
    np.testing.assert_array_equal(got, fv.multinomial_logpmf(np.array(counts), exact))


@pytest.mark.parametrize("size", [(), (4,), (2, 3), (0, 2), [2, 3], (np.int64(2), 1, 3)])
def test_sizes_of_several_axes(size):
    """The draws of one number of draws, in the shape that was asked for."""
    shape, count = tuple(size), int(np.prod(size))
    p, n = np.array([[1.0, 2.0, 3.0], [3.0, 0.0, 1.0]]), np.array([5, 7])
    drawn = fv.multinoulli(p, size, rng=3)
    assert drawn.shape == (2, *shape)
    np.testing.assert_array_equal(drawn.reshape(2, count), fv.multinoulli(p, count, rng=3))
    np.testing.assert_array_equal(drawn, reference.multinoulli(p, size, rng=3))
    counts = fv.multinomial(n, p, size, rng=3)
    assert counts.shape == (2, *shape, 3)
    np.testing.assert_array_equal(counts, reference.multinomial(n, p, size, rng=3))
    np.testing.assert_array_equal(counts.sum(axis=-1), np.broadcast_to(
        n.reshape(2, *(1,) * len(shape)), (2, *shape)))  # fmt: skip

    q, k, v = (normal(at, (5, 4), np.float64) for at in range(3))
    got, pull = fv.hard_attention_vjp(q, k, v, size=size, rng=3)
    want, pull_want = reference.hard_attention_vjp(q, k, v, size=size, rng=3)
    assert got.output.shape == (5, *shape, 4)
    assert got.log_prob.shape == got.index.shape == (5, *shape)
    np.testing.assert_array_equal(got.index, want.index)
    flat = fv.hard_attention(q, k, v, size=count, rng=3)
    np.testing.assert_array_equal(flat.output.reshape(got.output.shape), got.output)
    d_output, advantage = normal(4, got.output.shape, float), normal(5, got.index.shape, float)
    found, exact = pull(d_output, advantage), pull_want(d_output, advantage)
    for name in ("query", "key", "value"):  # sums of 30 terms: some ulp each
        np.testing.assert_allclose(getattr(found, name), getattr(exact, name), rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("size", "error"),
    [
        ((2, -1), ValueError),
        (-1, ValueError),
        ((2.0, 1), TypeError),
        ((True,), TypeError),
        ("2", TypeError),
        ((2**40, 2**40), MemoryError),
        (2**62, MemoryError),
        (10**400, MemoryError),
    ],
    ids=str,
)
def test_sizes_that_are_refused(size, error):
    q = np.ones((2, 3))
    for call in (
        lambda: fv.multinoulli(np.ones(3), size),
        lambda: fv.multinomial(2, np.ones(3), size),
        lambda: fv.hard_attention(q, q, q, size=size),
        lambda: fv.hard_attention_vjp(q, q, q, size=size),
    ):
        with pytest.raises(error, match=r"^size"):
            call()


@pytest.mark.parametrize("x", [np.float16, np.float32, np.float64, BFLOAT16, int, list])
@pytest.mark.parametrize("y", [np.float32, np.float64, int])
@pytest.mark.parametrize("kernel", ["gaussian", "epanechnikov", "constant"])
def test_kernel_regression_takes_the_wider(x, y, kernel):
    """As if all had been given so; gradients come back in the dtype of each."""

    def typed(kind: Any, numbers: list[float]) -> Any:
        return numbers if kind is list else np.array(numbers, kind)

    at, known, seen = typed(x, [0, 1, 3]), typed(y, [0, 1, 2, 4]), typed(np.float32, [3, 5, 9, 1])
    own = {
        name: np.dtype(np.float64) if np.asarray(z).dtype.kind == "i" else np.asarray(z).dtype
        for name, z in (("x", at), ("x_train", known), ("y_train", seen))
    }
    widest = np.result_type(*own.values())
    given = {"x": at, "x_train": known, "y_train": seen}
    alike = {name: np.asarray(z).astype(widest) for name, z in given.items()}
    output, pullback = fv.kernel_regression_vjp(**given, kernel=kernel, w=0.7)
    want, pull = fv.kernel_regression_vjp(**alike, kernel=kernel, w=0.7)
    assert output.dtype == want.dtype == widest
    np.testing.assert_array_equal(output, want)
    np.testing.assert_array_equal(
        fv.kernel_regression(**given, kernel=kernel, w=0.7),
        fv.kernel_regression(**alike, kernel=kernel, w=0.7),
    )
    assert reference.kernel_regression(**given, kernel=kernel, w=0.7).dtype == widest
    d_output = np.ones(3, widest)
    found, exact = pullback(d_output), pull(d_output)
    for name, dtype in own.items():
        assert getattr(found, name).dtype == dtype
        np.testing.assert_array_equal(getattr(found, name), getattr(exact, name).astype(dtype))


def test_kernel_regression_of_dtypes_without_a_common_one():
    with pytest.raises(TypeError, match=r"^x, x_train, y_train: got dtypes float16, bfloat16"):
        fv.kernel_regression(np.ones(2, np.float16), np.ones(3, BFLOAT16), np.ones(3, np.float16))


@pytest.mark.parametrize(
    "kind", [ctypes.c_float, ctypes.c_double, ctypes.c_int, ctypes.c_long, ctypes.c_ubyte]
)
def test_arrays_of_ctypes(kind):
    """Their buffers say the byte order, "<f", where NumPy's own arrays say "the native one"."""
    made = [((kind * 3) * 4)(*((kind * 3)(i, j, i + j) for i in range(4))) for j in range(3)]
    plain = [np.array(x) for x in made]
    floats = [x.astype(np.float64) if x.dtype.kind in "iu" else x for x in plain]
    got = fv.attention(*made)
    np.testing.assert_array_equal(got, fv.attention(*floats))
    assert got.dtype == floats[0].dtype
    lengths = (ctypes.c_long * 1)(2)
    ids = (ctypes.c_long * 4)(0, 0, 1, 1)
    mask = ((ctypes.c_bool * 4) * 4)(*((ctypes.c_bool * 4)(True, i > 0, True) for i in range(4)))
    bias = (ctypes.c_double * 4)(0.0, 1.0, -np.inf, 2.0)
    for keywords in (
        {"key_lengths": lengths},
        {"segments": ids},
        {"mask": mask},
        {"mask": bias},
        {"sink": (ctypes.c_float * 1)(0.5)},
    ):
        numpys = {name: np.array(x) for name, x in keywords.items()}
        np.testing.assert_array_equal(
            fv.attention(*made, **keywords), fv.attention(*floats, **numpys)
        )


@pytest.mark.parametrize("order", "<>=")
def test_either_byte_order_by_name(order):
    """A dtype that names the byte order is as good as any other."""
    x = normal(0, (4, 3), np.float32)
    same = x.astype(np.dtype(f"{order}f4"))
    labeled = same.view(np.dtype([("a", same.dtype)])).view(np.dtype(f"{order}f4"))
    np.testing.assert_array_equal(fv.attention(labeled, labeled, labeled), fv.attention(x, x, x))


def test_array_module():
    rows = array.array("d", [1.0, 2.0, 3.0])
    np.testing.assert_array_equal(
        fv.kernel_regression(rows, rows, rows), fv.kernel_regression(*[np.array(rows)] * 3)
    )


# --- lists, in every function that takes arrays ---------------------------------------------------

A = [[1.0, 2.0], [3.0, 4.0]]
W = [[1, 0], [0.5, 1]]  # ints among floats
PROJECTIONS: dict[str, Any] = {"wq": W, "wk": W, "wv": W}
OF_LISTS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "attention": ((A, A, A), {"mask": [[True, False], [True, True]], "sink": 0.5}),
    "attention_jvp": ((A, A, A, A, None, A), {"mask": [[0.0, -1.0], [0.0, 0.0]]}),
    "attention_vjp": ((A, A, A), {"mask": [[0.0, -1.0], [0.0, 0.0]]}),
    "attention_weights": ((A, A), {"key_lengths": 1}),
    "attention_statistics": ((A, A), {"key_lengths": 1}),
    "hard_attention": ((A, A, A), {"rng": 0}),
    "hard_attention_vjp": ((A, A, A), {"rng": 0}),
    "hierarchical_attention": ((A, A, A), {"segments": [0, 1]}),
    "hierarchical_attention_vjp": ((A, A, A), {"segments": [0, 1]}),
    "kernel_regression": (([0.5], [0, 1], [1.0, 3.0]), {"sample_weight": [1, 2]}),
    "kernel_regression_fit": (([0.5], [0, 1, 3], [1.0, 3.0, 2.0]), {"noise": 1}),
    "kernel_regression_vjp": ((A, A, [1.0, 3.0]), {"w": [1.0, 2.0]}),
    "kernel_density": (([0.5], [0, 1]), {"sample_weight": [1, 2], "log": True}),
    "kernel_density_vjp": ((A, A), {"w": [1.0, 2.0], "sample_weight": [1, 2]}),
    "leave_one_out_advantage": (([[1.0, 3.0]],), {}),
    "local_attention": ((A, A, A), {"half_width": 1, "centers": [0.0, 0.5]}),
    "local_attention_vjp": ((A, A, A), {"half_width": 1, "centers": [0.0, 0.5]}),
    "merge": (([A, W], [[0.0, 1.0], [1.0, 2.0]]), {}),
    "multi_head_attention": ((A, A), {**PROJECTIONS, "wo": W, "bq": [0.0, 1.0], "num_heads": 2}),
    "multi_head_attention_vjp": ((A,), {**PROJECTIONS, "wo": W, "bo": [0, 1], "num_heads": 1}),
    "multinomial": ((3, [0.5, 0.5]), {"rng": 0}),
    "multinomial_logpmf": ((np.array([1, 1]), [0.5, 0.5]), {}),
    "multinoulli": ((A,), {"rng": 0}),
    "predict_centers": ((A, W, [1, 2], 2), {}),
    "predict_centers_vjp": ((A, W, [1, 2], 2), {}),
    "quantize": ((A,), {}),
    "self_attention": ((A,), PROJECTIONS),
    "self_attention_vjp": ((A,), PROJECTIONS),
}


def floats_of(x: Any) -> Any:
    """The same as arrays: what is a list in a call, and in a call's tuple or dict."""
    if isinstance(x, list):
        array = np.array(x)
        return array if array.dtype == bool else array.astype(float)
    if isinstance(x, (tuple, dict)):
        pairs = x.items() if isinstance(x, dict) else enumerate(x)
        made = {k: np.array(v) if k == "segments" else floats_of(v) for k, v in pairs}
        return made if isinstance(x, dict) else tuple(made.values())
    return x


def same(got: Any, want: Any) -> None:
    if isinstance(want, tuple):
        for one, other in zip(got, want, strict=True):
            if not callable(other):
                same(one, other)
        return
    if isinstance(want, fv.Quantized):
        got, want = got.dequantize(), want.dequantize()
    assert np.asarray(got).dtype == np.asarray(want).dtype
    np.testing.assert_array_equal(got, want)


def test_every_function_of_arrays_has_a_call_with_lists():
    others = {"num_threads", "set_num_threads", "get_num_threads", "show_config", "get_include"}
    others |= {"set_threading", "get_threading", "get_cmake_dir"}
    functions = {name for name in fv.__all__ if isinstance(getattr(fv, name), type(floats_of))}
    assert functions - others == set(OF_LISTS)


@pytest.mark.parametrize(
    ("package", "name"),
    [(package, name) for package in (fv, reference) for name in OF_LISTS if hasattr(package, name)],
)
def test_lists_are_arrays_of_float64(package, name):
    function, (given, keywords) = getattr(package, name), OF_LISTS[name]
    got = function(*given, **keywords)
    want = function(*floats_of(given), **floats_of(keywords))
    same(got, want)
    if not name.endswith("_vjp"):
        mixed = (floats_of(given)[0], *given[1:])  # arrays of float64 beside lists
        same(function(*mixed, **keywords), want)
        return
    output = getattr(want[0], "output", want[0])
    d = np.arange(output.size).reshape(output.shape)
    lists, arrays = got[1](d.tolist()), want[1](d.astype(float))
    for field in (x for x in dir(arrays) if not x.startswith("_")):
        if isinstance(getattr(arrays, field), np.ndarray):
            same(getattr(lists, field), getattr(arrays, field))


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        (fv.Additive, {"v": [1, 2], "wq": W, "wk": W, "b": [0.5, 0.0]}),
        (fv.Concat, {"v": [1, 2], "w": W + W}),
        (fv.Bilinear, {"w": W}),
        (fv.Location, {"w": (1, 2)}),
        (fv.Gaussian, {"w": [1, 2]}),
    ],
)
def test_parameters_of_scores_are_lists(kind, parameters):
    arrays = {name: np.array(x, float) for name, x in parameters.items()}
    assert kind(**parameters) == kind(**arrays)
    got = fv.attention_vjp(A, A, A, score=kind(**parameters))[1](A).score
    want = fv.attention_vjp(*[np.array(A)] * 3, score=kind(**arrays))[1](np.array(A)).score
    assert got == want


def test_a_memory_is_read_and_written_by_lists():
    memory, other = fv.Memory(A, A), fv.Memory(np.array(A), np.array(A))
    same(memory.read([[1.0, 0.0]]), other.read(np.array([[1.0, 0.0]])))
    pull, want = (x.read_vjp([[1.0, 0.0]])[1] for x in (memory, other))
    same(pull([[1, 0]]).keys, want(np.array([[1.0, 0.0]])).keys)


def test_what_lists_are_refused_for_says_how():
    """A list is of float64 beside whatever it stands: a narrower dtype is said by its name."""
    narrow = np.array(A, np.float32)
    with pytest.raises(TypeError, match=r"integers are float64; np\.asarray\(x, dtype\)"):
        fv.attention(A, narrow, narrow)
    fv.attention(np.asarray(A, np.float32), narrow, narrow)
    with pytest.raises(TypeError, match=r"^wq: got float64, .*np\.asarray\(wq, 'float32'\)$"):
        fv.self_attention(narrow, W, W, W)
    with pytest.raises(TypeError, match=r"float32: np\.asarray\(d_output, 'float32'\)$"):
        fv.attention_vjp(narrow, narrow, narrow)[1](A)
    for kind, error, bad in (
        ("a list that makes no array, wanted rows of one length", ValueError, [[1.0], [1.0, 2.0]]),
        ("dtype <U1, wanted float16", TypeError, [["a"]]),
        ("dtype object, wanted float16", TypeError, [[None]]),
        ("dtype bool, wanted float16", TypeError, [[True]]),
        ("dtype complex128, wanted float16", TypeError, [[1j]]),
    ):
        with pytest.raises(error, match=f"^query: got {kind}"):
            fv.attention(bad, A, A)
        with pytest.raises(error, match=f"^w: got {kind}"):
            fv.Bilinear(bad)
        with pytest.raises(error, match=f"^d_output: got {kind}"):
            fv.attention_vjp(A, A, A)[1](bad)

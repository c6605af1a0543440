"""Wrong input is refused with an error that names the argument, before anything is written."""

from __future__ import annotations

import time

import foveate as fv
import numpy as np
import pytest
from strategies import BFLOAT16, normal, plain_name, problem

pytestmark = pytest.mark.python

Q, K, V = problem(4, 6, lead=(2,), size=8, value_size=5)
SQUARE = problem(6, 6, lead=(2,), size=8, value_size=5)


def ones(*shape: int, dtype: object = np.float32) -> np.ndarray:
    return np.ones(shape, dtype)


# --- keywords: the name in the message, and the keywords ------------------------------------------

WRONG_TYPES = [
    ("score", {"score": 3}),
    ("score", {"score": None}),
    ("score", {"score": fv.Dot}),
    ("score", {"score": np.dot}),
    ("score", {"score": fv.Gaussian}),
    ("mask", {"mask": ones(4, 6, dtype=np.int64)}),
    ("mask", {"mask": ones(4, 6, dtype=np.uint8)}),
    ("mask", {"mask": ones(4, 6, dtype=np.complex64)}),
    ("mask", {"mask": np.full((4, 6), "x")}),
    ("mask", {"mask": "causal"}),
    ("causal", {"causal": "yes"}),
    ("causal", {"causal": 1, "offset": 0}),
    ("causal", {"causal": None}),
    ("window", {"window": 1.5, "offset": 0}),
    ("window", {"window": "3", "offset": 0}),
    ("window", {"window": True, "offset": 0}),
    ("window", {"window": (1, 2.0), "offset": 0}),
    ("offset", {"causal": True, "offset": 1.0}),
    ("offset", {"causal": True, "offset": ones(2)}),
    ("offset", {"causal": True, "offset": True}),
    ("key_lengths", {"key_lengths": 2.0}),
    ("key_lengths", {"key_lengths": ones(2)}),
    ("key_lengths", {"key_lengths": ones(2, dtype=bool)}),
    ("key_lengths", {"key_lengths": "all"}),
    ("segments", {"segments": (ones(4), ones(6))}),
    ("segments", {"segments": (0, 1)}),
    ("segments", {"segments": (ones(4, dtype=bool), ones(6, dtype=bool))}),
    ("softcap", {"softcap": "5"}),
    ("softcap", {"softcap": ones(2)}),
    ("softcap", {"softcap": 1j}),
    ("sink", {"sink": "0"}),
    ("sink", {"sink": 1j}),
    ("sink", {"sink": ones(2, dtype=np.complex128)}),
    ("sink", {"sink": ones(2, dtype=bool)}),
    ("out", {"out": [[0.0]]}),
    ("out", {"out": np.zeros((2, 4, 5))}),
    ("out", {"out": np.zeros((2, 4, 5), np.float16)}),
    ("out", {"out": np.zeros((2, 4, 5), int)}),
    ("out", {"out": memoryview(ones(2, 4, 5))}),
]

WRONG_VALUES = [
    ("score", {"score": "softmax"}),
    ("score", {"score": ""}),
    ("score", {"score": "additive"}),
    ("mask", {"mask": ones(5, 6, dtype=bool)}),
    ("mask", {"mask": ones(3, 4, 6, dtype=bool)}),
    ("mask", {"mask": ones(1, 3, 4, 6, dtype=bool)}),
    ("mask", {"mask": ones(0, dtype=bool)}),
    ("mask", {"mask": [[True], [True, False]]}),
    ("offset", {"causal": True}),
    ("offset", {"window": 3}),
    ("offset", {"window": (None, None)}),
    ("offset", {"causal": True, "offset": "start"}),
    ("offset", {"causal": True, "offset": ones(3, dtype=int)}),
    ("offset", {"causal": True, "offset": ones(2, 3, dtype=int)}),
    ("window", {"window": -1, "offset": 0}),
    ("window", {"window": (2, -3), "offset": 0}),
    ("window", {"window": (1, 2, 3), "offset": 0}),
    ("window", {"window": (), "offset": 0}),
    ("key_lengths", {"key_lengths": 7}),
    ("key_lengths", {"key_lengths": -1}),
    ("key_lengths", {"key_lengths": [3, 7]}),
    ("key_lengths", {"key_lengths": [-1, 3]}),
    ("key_lengths", {"key_lengths": [1, 2, 3]}),
    ("key_lengths", {"key_lengths": [[1], [2, 3]]}),
    ("key_lengths", {"key_lengths": ones(2, 3, dtype=int)}),
    ("segments", {"segments": np.zeros(4, int)}),
    ("segments", {"segments": (np.zeros(4, int),)}),
    ("segments", {"segments": (np.zeros(4, int),) * 3}),
    ("segments", {"segments": (np.zeros(5, int), np.zeros(6, int))}),
    ("segments", {"segments": (np.zeros(4, int), np.zeros(5, int))}),
    ("segments", {"segments": (np.zeros((3, 4), int), np.zeros(6, int))}),
    ("softcap", {"softcap": -1.0}),
    ("softcap", {"softcap": np.nan}),
    ("softcap", {"softcap": np.inf}),
    ("sink", {"sink": ones(3)}),
    ("sink", {"sink": [[1.0], [2.0, 3.0]]}),
    ("sink", {"sink": ones(2, 3)}),
    ("out", {"out": ones(2, 4, 4)}),
    ("out", {"out": ones(4, 5)}),
    ("out", {"out": ones(1, 2, 4, 5)}),
    ("out", {"out": np.broadcast_to(ones(4, 5), (2, 4, 5))}),
]


def label(case: object) -> str | None:
    """The keywords of a case, arrays by dtype and shape."""
    if not isinstance(case, dict):
        return None

    def short(x: object) -> str:
        if isinstance(x, tuple):
            return f"({' '.join(short(y) for y in x)})"
        if isinstance(x, np.ndarray):
            return f"{x.dtype}{x.shape}"
        return x if isinstance(x, str) else type(x).__name__ + (str(x) if len(str(x)) < 9 else "")

    return " ".join(f"{name}={short(x)}" for name, x in case.items())


@pytest.mark.parametrize(("name", "keywords"), WRONG_TYPES, ids=label)
def test_wrong_types(name, keywords):
    with pytest.raises(TypeError, match=name):
        fv.attention(Q, K, V, **keywords)


@pytest.mark.parametrize(("name", "keywords"), WRONG_VALUES, ids=label)
def test_wrong_values(name, keywords):
    with pytest.raises(ValueError, match=name):
        fv.attention(Q, K, V, **keywords)


@pytest.mark.parametrize(
    ("name", "keywords", "error"),
    [(*case, TypeError) for case in WRONG_TYPES if case[0] != "out"]
    + [(*case, ValueError) for case in WRONG_VALUES if case[0] != "out"],
    ids=label,
)
def test_the_weights_refuse_the_same(name, keywords, error):
    with pytest.raises(error, match=name):
        fv.attention_weights(Q, K, **keywords)


def test_the_refusal_of_causal_says_both_ways_out():
    with pytest.raises(ValueError, match="offset") as caught:
        fv.attention(Q, K, V, causal=True)
    assert "offset=0" in str(caught.value)
    assert '"end"' in str(caught.value)


def test_messages_say_what_came():
    for keywords, came in (
        ({"score": "softmax"}, "softmax"),
        ({"mask": ones(4, 6, dtype=np.int64)}, "int64"),
        ({"key_lengths": [3, 77]}, "77"),
        ({"softcap": -1.5}, "-1.5"),
        ({"window": -9, "offset": 0}, "-9"),
        ({"out": ones(2, 4, 4)}, r"\(2, 4, 4\)"),
    ):
        with pytest.raises((TypeError, ValueError), match=came):
            fv.attention(Q, K, V, **keywords)


def test_a_read_only_out():
    out = ones(2, 4, 5)
    out.flags.writeable = False
    with pytest.raises(ValueError, match="out"):
        fv.attention(Q, K, V, out=out)


def test_a_refused_call_writes_nothing():
    out = np.full((2, 4, 5), 7, np.float32)
    for keywords in ({"key_lengths": [1, 9]}, {"softcap": -1.0}, {"mask": ones(5, 6, dtype=bool)}):
        with pytest.raises(ValueError):
            fv.attention(Q, K, V, out=out, **keywords)
    assert (out == 7).all()


def test_unknown_keywords_and_positions():
    with pytest.raises(TypeError):
        fv.attention(Q, K, V, casual=True)
    with pytest.raises(TypeError):
        fv.attention(Q, K, V, "dot")
    with pytest.raises(TypeError):
        fv.attention(Q, K)


# --- query, key and value -------------------------------------------------------------------------

SHAPES = [
    ("query", (8,), (6, 8), (6, 5)),
    ("query", (), (6, 8), (6, 5)),
    ("key", (4, 8), (8,), (6, 5)),
    ("value", (4, 8), (6, 8), (6,)),
    ("key", (4, 8), (6, 7), (6, 5)),
    ("key", (4, 8), (8, 6), (6, 5)),
    ("value", (4, 8), (6, 8), (5, 6)),
    ("key", (2, 4, 8), (3, 6, 8), (2, 6, 5)),
    ("value", (2, 4, 8), (2, 6, 8), (3, 6, 5)),
    ("key", (2, 3, 4, 8), (2, 6, 8), (6, 5)),
    ("key", (0, 4, 8), (2, 6, 8), (6, 5)),
]


@pytest.mark.parametrize(("name", "of_query", "of_key", "of_value"), SHAPES, ids=str)
def test_wrong_shapes(name, of_query, of_key, of_value):
    with pytest.raises(ValueError, match=name):
        fv.attention(ones(*of_query), ones(*of_key), ones(*of_value))


@pytest.mark.parametrize("name", ["query", "key", "value"])
@pytest.mark.parametrize(
    "kind", [np.int8, np.int64, np.uint16, bool, np.complex64, np.complex128, object, "U3", "M8[s]"]
)
def test_dtypes_that_are_not_taken(name, kind):
    arrays = {"query": Q, "key": K, "value": V}
    arrays[name] = arrays[name].astype(int).astype(kind)
    with pytest.raises(TypeError, match=name):
        fv.attention(**arrays)
    alike = [x.astype(int).astype(kind) for x in (Q, K, V)]
    if np.dtype(kind).kind in "iu":  # are float64
        exact = fv.attention(*(x.astype(np.float64) for x in alike))
        np.testing.assert_array_equal(fv.attention(*alike), exact)
        return
    with pytest.raises(TypeError, match="query"):
        fv.attention(*alike)


def test_long_double_is_not_narrowed():
    with pytest.raises(TypeError, match="query"):
        fv.attention(*(x.astype(np.longdouble) for x in (Q, K, V)))


FLOATS = [np.dtype(np.float16), BFLOAT16, np.dtype(np.float32), np.dtype(np.float64)]


@pytest.mark.parametrize("one", FLOATS, ids=str)
@pytest.mark.parametrize("other", FLOATS, ids=str)
def test_mixtures_are_refused(one, other):
    if one == other:
        return
    q, k, v = (x.astype(one) for x in (Q, K, V))
    with pytest.raises(TypeError, match="query"):
        fv.attention(q.astype(other), k, v)
    with pytest.raises(TypeError, match="key"):
        fv.attention(q, k.astype(other), v)
    with pytest.raises(TypeError, match="value"):
        fv.attention(q, k, v.astype(other))
    with pytest.raises(TypeError, match="key"):
        fv.attention_weights(q, k.astype(other))


@pytest.mark.parametrize("name", ["query", "key", "value"])
@pytest.mark.parametrize("junk", [None, 3.0, "array", object(), {}], ids=plain_name)
def test_what_is_no_array(name, junk):
    arrays = {"query": Q, "key": K, "value": V, name: junk}
    with pytest.raises((TypeError, ValueError), match=name):
        fv.attention(**arrays)


def test_too_many_leading_axes():
    """NumPy has 64 axes at most; that many are taken, or refused, and never a crash."""
    most = 64 if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else 32
    x = ones(*(1,) * most)
    assert fv.attention(x, x, x).shape == x.shape


# --- scores ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [fv.ScaledDot, fv.Cosine])
def test_scale_is_a_finite_number(kind):
    for junk in ("1", [1.0], 1j):
        with pytest.raises(TypeError, match="scale"):
            kind(scale=junk)
    for junk in (np.nan, np.inf):
        with pytest.raises(ValueError, match="scale"):
            kind(scale=junk)


@pytest.mark.parametrize(
    ("w", "error"),
    [
        (ones(8), ValueError),
        (ones(2, 8, 8), ValueError),
        (ones(8, 7), ValueError),
        (ones(7, 8), ValueError),
        (ones(8, 8, dtype=int), TypeError),
        (ones(8, 8, dtype=complex), TypeError),
        (ones(8, 8, dtype=np.float64), TypeError),
        ("w", TypeError),
        (None, TypeError),
    ],
    ids=lambda x: str(getattr(x, "shape", x)),
)
def test_bilinear_matrix(w, error):
    """It fits the sizes, and casts safely to the dtype of the computation."""
    with pytest.raises(error, match="w"):
        fv.attention(Q, K, V, score=fv.Bilinear(w))


def additive(**changed: object) -> fv.Additive:
    """An additive score for Q and K with 3 hidden numbers, except what is changed."""
    fitting = {"v": ones(3), "wq": ones(8, 3), "wk": ones(8, 3), "b": ones(3)}
    return fv.Additive(**fitting | changed)


def concat(**changed: object) -> fv.Concat:
    return fv.Concat(**{"v": ones(3), "w": ones(16, 3), "b": ones(3)} | changed)


def location(**changed: object) -> fv.Location:
    return fv.Location(**{"w": ones(8)} | changed)


HIDDEN = (additive, concat)

# What makes the score, and the parameters that it refuses by themselves.
WRONG_PARAMETERS = [
    *(
        (make, name, junk, TypeError)
        for make, names in (
            (additive, ("v", "wq", "wk", "b")),
            (concat, ("v", "w", "b")),
            (location, ("w",)),
            (fv.Gaussian, ("w",)),
        )
        for name in names
        for junk in ("x", ["1", "2", "3"], ones(3, dtype=int), ones(3, dtype=complex))
    ),
    *((make, "v", None, TypeError) for make in HIDDEN),
    *((make, "v", ones(*shape), ValueError) for make in HIDDEN for shape in ((), (3, 1))),
    *((make, "b", ones(*shape), ValueError) for make in HIDDEN for shape in ((), (2,))),
    *((additive, "wq", ones(*shape), ValueError) for shape in ((3,), (8, 4), (1, 8, 3))),
    *((additive, "wk", ones(*shape), ValueError) for shape in ((3,), (8, 4), (1, 8, 3))),
    *((concat, "w", ones(*shape), ValueError) for shape in ((3,), (16, 4), (1, 16, 3))),
    *((location, "w", ones(*shape), ValueError) for shape in ((), (8, 1))),
    *((location, "b", junk, TypeError) for junk in (None, "1", 1j, True, ones(2))),
    *((location, "b", junk, ValueError) for junk in (np.nan, np.inf)),
    *((fv.Gaussian, "w", junk, TypeError) for junk in (None, True, 1j)),
    *((fv.Gaussian, "w", junk, ValueError) for junk in (np.nan, -np.inf, ones(2, 4))),
    *((fv.Gaussian, "w", np.array([1.0, junk]), ValueError) for junk in (np.nan, np.inf)),
    *((make, "activation", None, TypeError) for make in (*HIDDEN, location)),
    *((make, "activation", np.tanh, TypeError) for make in (*HIDDEN, location)),
    *((make, "activation", ["tanh"], TypeError) for make in (*HIDDEN, location)),
    *((make, "activation", "gelu", ValueError) for make in (*HIDDEN, location)),
    *((make, "activation", "", ValueError) for make in (*HIDDEN, location)),
]


@pytest.mark.parametrize(("make", "name", "junk", "error"), WRONG_PARAMETERS, ids=plain_name)
def test_parameters_that_no_input_fits(make, name, junk, error):
    with pytest.raises(error, match=rf"^{name}: got .*wanted "):
        make(**{name: junk})


# Parameters that are well by themselves, but not with Q and K.
MISFITS = [
    ("wq", additive(wq=ones(7, 3)), ValueError),
    ("wk", additive(wk=ones(9, 3)), ValueError),
    ("w", concat(w=ones(15, 3)), ValueError),
    ("w", concat(w=ones(8, 3)), ValueError),
    ("w", location(w=ones(7)), ValueError),
    ("w", fv.Gaussian(ones(7)), ValueError),
    ("w", fv.Gaussian(ones(1)), ValueError),
    ("w", fv.Gaussian(1e39), ValueError),
    ("v", additive(v=ones(3, dtype=np.float64)), TypeError),
    ("wk", additive(wk=ones(8, 3, dtype=np.float64)), TypeError),
    ("b", additive(b=ones(3, dtype=np.float64)), TypeError),
    ("v", concat(v=ones(3, dtype=np.float64)), TypeError),
    ("w", location(w=ones(8, dtype=np.float64)), TypeError),
    ("w", fv.Gaussian(ones(8, dtype=np.float64)), TypeError),
]


@pytest.mark.parametrize(
    ("name", "score", "error"), MISFITS, ids=lambda x: x if isinstance(x, str) else None
)
def test_parameters_that_do_not_fit_the_input(name, score, error):
    out = np.full((2, 4, 5), 7, np.float32)
    with pytest.raises(error, match=rf"^{name}: got .*wanted "):
        fv.attention(Q, K, V, score=score, out=out)
    assert (out == 7).all()
    with pytest.raises(error, match=rf"^{name}: got .*wanted "):
        fv.attention_weights(Q, K, score=score)


def test_gaussian_of_different_sizes():
    with pytest.raises(ValueError, match="key"):
        fv.attention(Q, K[..., :7], V, score=fv.Gaussian())
    with pytest.raises(ValueError, match="key"):
        fv.attention(Q, K[..., :7], V, score=fv.Gaussian(ones(8)))


@pytest.mark.parametrize(
    "out",
    [ones(2, 4, 4), ones(4, 5), np.zeros((2, 4, 5)), [[0.0]], np.broadcast_to(ones(5), (2, 4, 5))],
    ids=lambda x: str(getattr(x, "shape", x)),
)
def test_the_out_of_a_location_score(out):
    """It is computed for one query; what it is written into is checked all the same."""
    with pytest.raises((TypeError, ValueError), match="out"):
        fv.attention(Q, K, V, score=location(), out=out)
    read_only = ones(2, 4, 6)
    read_only.flags.writeable = False
    with pytest.raises(ValueError, match="out"):
        fv.attention_weights(Q, K, score=location(), out=read_only)


def test_scores_are_frozen():
    for score in (fv.Dot(), fv.ScaledDot(), fv.Cosine(), fv.Gaussian(), additive()):
        with pytest.raises(AttributeError):
            score.scale = 2.0
    assert fv.ScaledDot(0.5) == fv.ScaledDot(scale=0.5) != fv.ScaledDot()


# --- too large ------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [2**40, 2**55])
def test_too_large_is_refused_before_any_work(length):
    """Broadcast inputs of one element, whose output or score matrix no machine holds."""
    one = normal(0, (1, 1), np.float32)
    long = np.broadcast_to(one, (length, 1))
    with pytest.raises(MemoryError):
        fv.attention_weights(long, long)
    wide = np.broadcast_to(one, (1, length))
    with pytest.raises(MemoryError):
        fv.attention(np.broadcast_to(one, (2**22, 1)), one, wide)
    with pytest.raises(MemoryError):
        fv.attention(long, one, np.broadcast_to(one, (1, 2**22)), score=location(w=ones(1)))


@pytest.mark.parametrize("score", ["scaled_dot", "cosine", location(w=ones(1))], ids=plain_name)
def test_repeated_queries_are_refused_before_one_is_answered(score):
    """2^31 queries that are one, over as many keys: a row alone would be 8 GB, and minutes."""
    long = np.broadcast_to(normal(0, (1, 1), np.float32), (2**31, 1))
    began = time.process_time()
    with pytest.raises(MemoryError, match=r"^query, key"):
        fv.attention_weights(long, long, score=score)
    wide = np.broadcast_to(normal(0, (1, 1), np.float32), (2**31, 2**20))
    with pytest.raises(MemoryError, match=r"^query, key, value"):
        fv.attention(long, long, wide, score=score)
    assert time.process_time() - began < 1


def test_what_repeats_is_looked_at_once():
    """Lengths, offsets and centers of 2^40 leading indices are one number."""
    began = time.process_time()
    for function, keywords in (
        (fv.attention, {"key_lengths": np.broadcast_to(np.int64(3), 2**40)}),
        (fv.attention, {"causal": True, "offset": np.broadcast_to(np.int64(3), 2**40)}),
        (
            fv.local_attention,
            {"half_width": 2, "centers": np.broadcast_to(np.float64(3), (2**40, 4))},
        ),
    ):
        with pytest.raises((MemoryError, ValueError)):
            function(Q[0], K[0], V[0], **keywords)
    assert time.process_time() - began < 1


# --- threads --------------------------------------------------------------------------------------


@pytest.mark.parametrize("set_them", [fv.set_num_threads, fv.num_threads])
def test_number_of_threads(set_them):
    for junk in ("2", 1.0, None, True):
        with pytest.raises(TypeError, match="n"):
            set_them(junk)
    for junk in (-1, 2**40):
        with pytest.raises(ValueError, match="n"):
            set_them(junk)

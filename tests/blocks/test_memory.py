"""Memory: read and read_vjp against the reference, what is promised, and wrong input."""

from __future__ import annotations

import inspect
import random
import zipfile
from typing import Any

import foveate as fv
import numpy as np
import pytest
from block_checks import hold, huge
from foveate import reference
from gradient_checks import differences, parts
from memory_checks import LEADS, operands
from strategies import normal, score_of
from tolerances import wider


def check_read(*arrays: np.ndarray, **keywords: Any) -> None:
    """Hold what is read, and its gradients, against the reference one precision wider."""
    query, keys, values = arrays
    dtype = query.dtype
    before = [x.tobytes() for x in arrays]
    memory = fv.Memory(keys, values)
    output, pullback = memory.read_vjp(query, **keywords)
    assert output.dtype == dtype
    alone = memory.read(query, **keywords)
    are_alike = isinstance(keywords.get("score"), fv.Location) or query.shape[-1] == 0
    if not are_alike:  # attention computes one query for all of them
        np.testing.assert_array_equal(output, alone)
    d_output = normal(9, output.shape, dtype)
    found = pullback(d_output)
    assert before == [x.tobytes() for x in arrays], "an input was modified"

    exact_memory = reference.Memory(wider(keys), wider(values))
    exact, pull_exact = exact_memory.read_vjp(wider(query), **keywords)
    plain_memory = reference.Memory(keys, values)
    plain, pull_plain = plain_memory.read_vjp(query, **keywords)
    np.testing.assert_array_equal(plain, plain_memory.read(query, **keywords))
    hold(output, exact, plain, dtype, "output")
    hold(alone, exact, plain, dtype, "output alone")
    got, want, usual = (
        parts(x) for x in (found, pull_exact(wider(d_output)), pull_plain(d_output))
    )
    assert got.keys() == want.keys() == usual.keys()
    assert got.keys() >= {"query", "keys", "values"}
    of_query = np.sum(np.abs(want["query"]))
    for name, x in got.items():
        if name in ("query", "keys", "values"):
            assert x.dtype == dtype
        # a number is a sum over queries of query . d_query, or the like
        like = np.maximum(np.abs(want[name]), of_query) if x.ndim == 0 else None
        hold(x, want[name], usual[name], dtype, name, like)


# --- the reference --------------------------------------------------------------------------------


@pytest.mark.any_isa  # (it is NumPy alone)
@pytest.mark.parametrize("hops", [1, 2, 3])
@pytest.mark.parametrize("score", [None, fv.ScaledDot(0.7), "dot", fv.Gaussian(0.8)], ids=str)
@pytest.mark.parametrize("leads", [((2,), (2,), (2,)), ((), (), (2,)), ((2,), (), ())])
def test_the_reference_against_differences(hops, score, leads):
    """The error of a central difference: step^2 for the curvature, eps / step for the rounding."""
    arrays = dict(
        zip(
            ("query", "keys", "values"),
            operands(3, 4, (3, 3), leads, np.float64),
            strict=True,
        )
    )
    keywords: Any = {"hops": hops, "score": score, "sharpness": 1.5 if score is None else 1.0}

    def read(query: Any, keys: Any, values: Any, **keywords: Any) -> Any:
        return reference.Memory(keys, values).read(query, **keywords)

    output, pullback = reference.Memory(arrays["keys"], arrays["values"]).read_vjp(
        arrays["query"], **keywords
    )
    d_output = normal(4, output.shape, np.float64)
    found = pullback(d_output)
    for name, x in arrays.items():
        numeric = differences(
            lambda changed, name=name: float(
                np.sum(read(**{**arrays, name: changed}, **keywords) * d_output)
            ),
            x,
        )
        np.testing.assert_allclose(getattr(found, name), numeric, rtol=1e-5, atol=1e-7)

    def of_number(x: np.ndarray) -> float:
        made = keywords | (
            {"sharpness": float(x)} if score is None else {"score": type(score)(float(x))}
        )
        return float(np.sum(read(**arrays, **made) * d_output))

    if score is None:
        assert found.score is None
        got, number = found.sharpness, 1.5
    elif isinstance(score, str):
        assert found.score is found.sharpness is None
        return
    else:
        assert found.sharpness is None
        name = "w" if isinstance(score, fv.Gaussian) else "scale"
        got, number = getattr(found.score, name), getattr(score, name)
    numeric = differences(of_number, np.array(number))
    np.testing.assert_allclose(got, numeric, rtol=1e-5, atol=1e-7)


def test_the_reference_takes_the_same_keywords():
    for name in ("__init__", "read", "read_vjp", "write"):
        fast = inspect.signature(getattr(fv.Memory, name)).parameters
        plain = inspect.signature(getattr(reference.Memory, name)).parameters
        assert list(fast) == list(plain)
        assert [x.default for x in fast.values()] == [x.default for x in plain.values()]


# --- reading --------------------------------------------------------------------------------------


@pytest.mark.parametrize("hops", [1, 2, 3])
@pytest.mark.parametrize("sharpness", [1.0, 4.0, 0.0, -1.0])
def test_read(hops, sharpness, dtype):
    check_read(*operands(dtype=dtype), hops=hops, sharpness=sharpness)


@pytest.mark.parametrize("name", ["additive tanh", "concat tanh", "location tanh", "gaussian"])
@pytest.mark.parametrize("hops", [1, 4])
def test_scores(name, hops, dtype):
    """The gradients of a score's parameters are sums over hops, rounded once."""
    check_read(*operands(dtype=dtype), hops=hops, score=score_of(name, 6, dtype))


@pytest.mark.parametrize("leads", LEADS, ids=str)
@pytest.mark.parametrize("hops", [1, 2])
def test_leading_axes_broadcast(leads, hops):
    check_read(*operands(leads=leads), hops=hops)


@pytest.mark.parametrize(
    ("queries", "rows", "sizes"),
    [(0, 5, (4, 3)), (5, 0, (4, 3)), (5, 6, (0, 3)), (5, 6, (4, 0)), (1, 1, (1, 1))],
)
def test_shapes(queries, rows, sizes, dtype):
    check_read(*operands(queries, rows, sizes, dtype=dtype))


def test_values_of_another_size():
    check_read(*operands(sizes=(6, 9)))


@pytest.mark.parametrize("select", ["argmax", "sample"])
@pytest.mark.parametrize("hops", [1, 3])
def test_hard(select, hops, dtype):
    """The same keys as the reference chooses; sums of hops are rounded once."""
    query, keys, values = operands(dtype=dtype)
    keywords: Any = {"select": select, "hops": hops, "rng": 7, "sharpness": 3.0}
    output = fv.Memory(keys, values).read(query, **keywords)
    np.testing.assert_array_equal(output, reference.Memory(keys, values).read(query, **keywords))
    rows = {row.tobytes() for row in values.reshape(-1, 6)}
    assert {row.tobytes() for row in output.reshape(-1, 6)} <= rows


def test_each_hop_draws_anew():
    """One seed: the first hop is that of a single one, and the second is not the same draws."""
    query = np.zeros((1000, 1))
    memory = fv.Memory(np.zeros((2, 1)), np.array([[1.0], [2.0]]))
    one, two = (memory.read(query, select="sample", hops=hops, rng=3) for hops in (1, 2))
    np.testing.assert_array_equal(
        one, fv.hard_attention(query, memory.keys, memory.values, score="cosine", rng=3).output
    )
    # equal by chance in half of them; 0 to 1 of 1000 if the draws were shared or opposite
    assert 400 < np.sum(one == two) < 600
    generator = np.random.default_rng(3)
    np.testing.assert_array_equal(one, memory.read(query, select="sample", rng=generator))
    assert (one != memory.read(query, select="sample", rng=generator)).any()


def test_a_memory_alone_and_in_company(dtype):
    query, keys, values = operands(leads=((3,),) * 3, dtype=dtype)
    memory = fv.Memory(keys, values)
    output, pullback = memory.read_vjp(query, hops=2, sharpness=3.0)
    whole = pullback(output)
    memory.write(query, erase=0.5, add=1.0)
    for n in range(3):
        own = fv.Memory(keys[n], values[n])
        alone, pull = own.read_vjp(query[n], hops=2, sharpness=3.0)
        assert alone.tobytes() == output[n].tobytes()
        for a, b in zip(pull(alone)[:3], whole[:3], strict=True):
            assert a.tobytes() == b[n].tobytes()
        own.write(query[n], erase=0.5, add=1.0)
        assert own.values.tobytes() == memory.values[n].tobytes()


def test_what_is_too_large():
    memory = fv.Memory(huge(), huge())
    for call in (memory.read, memory.read_vjp):
        with pytest.raises(MemoryError):
            call(huge(), hops=2)
    with pytest.raises(MemoryError):
        memory.write(huge(), erase=0.5, add=1.0)


def test_each_wrt():
    query, keys, values = operands()
    memory = fv.Memory(keys, values)
    for hops in (1, 2):
        for score, number in ((None, "sharpness"), (fv.ScaledDot(0.5), "score")):
            output, pullback = memory.read_vjp(query, hops=hops, score=score)
            whole = parts(pullback(output))
            fields = ("query", "keys", "values", "sharpness", "score")
            for name in fields:
                _, pullback = memory.read_vjp(query, hops=hops, score=score, wrt=name)
                one = parts(pullback(output))
                is_there = name not in ("sharpness", "score") or name == number
                assert one.keys() == {x for x in whole if x.split(".")[0] == name}
                assert len(one) == is_there
                for field, x in one.items():
                    np.testing.assert_array_equal(x, whole[field])


def test_a_pullback_after_a_write_is_that_of_what_was_read():
    query, keys, values = operands()
    memory = fv.Memory(keys, values)
    output, pullback = memory.read_vjp(query, hops=2)
    before = pullback(output)
    memory.write(query, erase=1.0, add=9.0)
    for a, b in zip(before, pullback(output), strict=True):
        np.testing.assert_array_equal(a, b) if a is not None else None


# --- wrong input ----------------------------------------------------------------------------------


def test_bad_memories():
    _, keys, values = operands()
    for error, match, k, v in (
        (ValueError, r"values: got shape \(2, 29, 6\), wanted 30 rows", keys, values[:, 1:]),
        (ValueError, r"keys: got shape \(6,\), wanted two axes", keys[0, 0], values),
        (ValueError, r"values: got leading axes \(3,\), wanted", keys, np.ones((3, 30, 6), "f")),
        (TypeError, "keys, values: got dtypes", keys, values.astype(np.float64)),
        (TypeError, "values: got dtype complex64", keys, values.astype(np.complex64)),
    ):
        with pytest.raises(error, match=match):
            fv.Memory(k, v)


def test_bad_input():
    query, keys, values = operands(sizes=(6, 4))
    memory = fv.Memory(keys, values)

    def refused(function: Any, error: type[Exception], match: str, **changed: Any) -> None:
        with pytest.raises(error, match=match):
            function(**{"query": query, **changed})

    def write(**keywords: Any) -> None:
        memory.write(**{"erase": 0.5, "add": 1.0, **keywords})

    for function in (memory.read, memory.read_vjp, write):
        refused(function, TypeError, "query, keys: got dtypes", query=query.astype(np.float64))
        refused(function, ValueError, r"query: got shape \(6,\), wanted two", query=query[0, 0])
        refused(function, ValueError, "query: got shape .*, wanted 6 columns", query=query[..., 1:])
        refused(function, ValueError, r"query: got leading axes \(3,\), wanted",
                query=np.ones((3, 5, 6), "f"))  # fmt: skip
        refused(function, ValueError, "sharpness: got nan, wanted a finite", sharpness=np.nan)
        refused(function, TypeError, "sharpness: got str", sharpness="sharp")
        refused(function, ValueError, "sharpness: got 2.0 with the score 'dot'",
                sharpness=2.0, score="dot")  # fmt: skip
        refused(function, ValueError, "score: got 'dots'", score="dots")
    for function in (memory.read, memory.read_vjp):
        refused(function, ValueError, "hops: got 0, wanted one or more", hops=0)
        refused(function, TypeError, "hops: got float", hops=1.0)
        refused(function, ValueError, "hops: got 2 with values of 4 columns, wanted .* 6", hops=2)
    refused(memory.read, ValueError, "select: got 'hard', wanted one of", select="hard")
    refused(memory.read, TypeError, "rng: got the bool", select="sample", rng=True)
    refused(memory.read_vjp, ValueError, "wrt: got 'key'", wrt="key")
    refused(write, ValueError, "erase: got values outside", erase=1.5)
    refused(write, ValueError, "erase: got values outside", erase=np.nan)
    refused(write, TypeError, "add: got dtype complex", add=np.ones(4, complex))
    refused(
        write, ValueError, r"add: got shape \(5, 5\), wanted .* \(2, 5, 4\)", add=np.ones((5, 5))
    )
    refused(write, ValueError, r"erase: got shape \(1, 2, 5, 4\)", erase=np.ones((1, 2, 5, 4)))
    shared = fv.Memory(keys[0], values[0])
    with pytest.raises(ValueError, match=r"query: got leading axes \(2,\) with those of the keys"):
        shared.write(query, erase=0.5, add=1.0)
    np.testing.assert_array_equal(memory.values, values)  # as it was
    output, pullback = memory.read_vjp(query)
    with pytest.raises(ValueError, match="d_output: got shape"):
        pullback(output[0])


@pytest.mark.filterwarnings("ignore:Reading:UserWarning")  # NumPy's, of a header like Python 2's
@pytest.mark.filterwarnings("ignore::SyntaxWarning")  # Python's, of the text in a header
@pytest.mark.parametrize("part", ["keys.npy", "values.npy", "dtype.npy"])
def test_mangled_headers(tmp_path, part):
    """The header of a part is text of Python's: brackets that do not close, odd literals."""
    fv.Memory(np.arange(12.0).reshape(4, 3), np.ones((4, 2))).save(tmp_path / "whole")
    with zipfile.ZipFile(tmp_path / "whole") as whole:
        parts = {name: whole.read(name) for name in whole.namelist()}
    rng = random.Random(7)
    path, refused = tmp_path / "mangled", 0
    for _ in range(300):
        content = bytearray(parts[part])
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(min(len(content), 128))
            change = rng.randrange(3)
            if change == 0:
                content[at] = rng.randrange(256)
            elif change == 1:
                del content[at]
            else:
                content.insert(at, rng.choice(b"()[]{}'\"\\\n,#0:L"))
        with zipfile.ZipFile(path, "w") as mangled:
            for name, x in parts.items():
                mangled.writestr(name, bytes(content) if name == part else x)
        try:
            fv.Memory.load(path)
        except ValueError as error:
            assert str(error).startswith("path: got "), error  # noqa: PT017  (of many, some load)
            refused += 1
        except MemoryError:
            refused += 1
    assert refused > 200

"""Wrong input to foveate.torch: refused by name, with what came and what was wanted."""

from __future__ import annotations

from typing import Any

import foveate as fv
import numpy as np
import pytest
from torch_checks import ft, torch

Q, K, V = torch.zeros(2, 3, 4), torch.zeros(2, 5, 4), torch.zeros(2, 5, 6)
NAMES = ("query", "key", "value")
CALLS: dict[str, Any] = {
    "attention": ft.attention,
    "hard": ft.hard_attention,
    "local": lambda *x, **more: ft.local_attention(*x, half_width=2, **more),
}


@pytest.mark.parametrize("place", range(3), ids=NAMES)
@pytest.mark.parametrize("call", CALLS)
def test_what_is_no_tensor_on_the_cpu(call, place):
    name = NAMES[place]
    wrong = {
        "ndarray": (np.zeros((2, 5, 4), np.float32), f"{name}: got ndarray, wanted a tensor"),
        "list": ([[0.0]], f"{name}: got list, wanted a tensor"),
        "None": (None, f"{name}: got NoneType, wanted a tensor"),
        "meta": (torch.empty(2, 5, 4, device="meta"), f"{name}: got a tensor on meta, wanted"),
        "sparse": (torch.eye(4).to_sparse(), f"{name}: .*sparse_coo, wanted torch.strided"),
        "ints": (torch.ones(2, 5, 4).long(), f"{name}: got dtype torch.int64, wanted"),
        "bools": (torch.ones(2, 5, 4).bool(), f"{name}: got dtype torch.bool, wanted"),
        "complex": (torch.ones(2, 5, 4).cfloat(), f"{name}: got dtype torch.complex64"),
    }
    for x, match in wrong.values():
        inputs: list[Any] = [Q, K, V]
        inputs[place] = x
        with pytest.raises(TypeError, match=match):
            CALLS[call](*inputs)


@pytest.mark.parametrize("place", range(3), ids=NAMES)
@pytest.mark.parametrize("call", CALLS)
def test_mixed_dtypes(call, place):
    for other in (torch.float64, torch.float16, torch.bfloat16):
        inputs = [Q, K, V]
        inputs[place] = inputs[place].to(other)
        with pytest.raises(TypeError, match=f"got dtypes .*{other}.*wanted one dtype for all"):
            CALLS[call](*inputs)
    with torch.autocast("cpu"), pytest.raises(TypeError, match="wanted one dtype for all"):
        CALLS[call](Q.double(), K, V)


SHAPES: dict[str, Any] = {
    "one axis of query": ("query", (4,), (5, 4), (5, 6)),
    "one axis of key": ("key", (3, 4), (4,), (5, 6)),
    "one axis of value": ("value", (3, 4), (5, 4), (6,)),
    "no axis": ("query", (), (5, 4), (5, 6)),
    "columns": (r"key: got shape \(5, 3\), wanted a last axis of 4", (3, 4), (5, 3), (5, 6)),
    "rows": (r"value: got shape \(4, 6\), wanted 5 rows", (3, 4), (5, 4), (4, 6)),
    "leading axes": (
        r"query, key, value: .*\(2, 3, 4\), \(3, 5, 4\).*broadcast", (2, 3, 4), (3, 5, 4), (5, 6)
    ),
}  # fmt: skip


@pytest.mark.parametrize("learns", [False, True], ids=["alone", "with gradients"])
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", SHAPES)
def test_shapes(name, call, learns):
    match, *shapes = SHAPES[name]
    with pytest.raises(ValueError, match=match):
        CALLS[call](*(torch.zeros(shape, requires_grad=learns) for shape in shapes))


REACH: dict[str, Any] = {
    "mask of ints": (TypeError, "mask: got dtype torch.int64", {"mask": torch.ones(3, 5).long()}),
    "mask of arrays": (TypeError, "mask: got ndarray", {"mask": np.ones((3, 5), bool)}),
    "mask on meta": (TypeError, "mask: .*meta", {"mask": torch.ones(3, 5, device="meta")}),
    "mask, shape": (ValueError, r"mask: got shape \(3, 4\)", {"mask": torch.ones(3, 4)}),
    "mask, axes": (ValueError, r"mask: got shape \(3, 3, 5\)", {"mask": torch.ones(3, 3, 5)}),
    "causal": (TypeError, "causal: got 1, wanted a bool", {"causal": 1}),
    "causal alone": (ValueError, 'offset: got none with 3 queries.*"end"', {"causal": True}),
    "window alone": (ValueError, "offset: got none", {"window": 2}),
    "window < 0": (ValueError, "window: got -1", {"window": -1, "offset": 0}),
    "window of 3": (ValueError, "window", {"window": (1, 2, 3), "offset": 0}),
    "window of floats": (TypeError, "window: got float", {"window": 1.5, "offset": 0}),
    "offset": (ValueError, "offset: got 'begin', wanted", {"causal": True, "offset": "begin"}),
    "offset of floats": (TypeError, "offset: got dtype torch.float32", {"offset": torch.ones(2)}),
    "offset a float": (TypeError, "offset: got float, wanted an int", {"offset": 1.5}),
    "offset a bool": (TypeError, "offset: got bool, wanted an int", {"offset": True}),
    "offset an array": (TypeError, "offset: got ndarray", {"offset": np.array([1, 2])}),
    "offset, shape": (ValueError, r"offset: got shape \(3,\)", {"offset": torch.tensor([1, 2, 3])}),
    "offset, range": (ValueError, "offset: got 1180591.*int64 holds", {"offset": 2**70}),
    "lengths > Lk": (ValueError, "key_lengths: got 6, wanted.*5", {"key_lengths": 6}),
    "lengths < 0": (ValueError, "key_lengths: got -1", {"key_lengths": torch.tensor([1, -1])}),
    "lengths of floats": (TypeError, "key_lengths", {"key_lengths": torch.ones(2)}),
    "lengths on meta": (
        TypeError, "key_lengths: .*meta", {"key_lengths": torch.ones(2, device="meta").long()}
    ),
    "segments": (ValueError, "segments: got a tuple of 3", {"segments": (torch.ones(3),) * 3}),
    "segments alone": (ValueError, "segments: .*a pair", {"segments": torch.ones(3).long()}),
    "segments of floats": (TypeError, "segments", {"segments": (torch.ones(3), torch.ones(5))}),
    "segments an int": (TypeError, "segments: got int", {"segments": 3}),
    "segments, shape": (
        ValueError, r"key_segments: got shape \(4,\)",
        {"segments": (torch.ones(3).long(), torch.ones(4).long())},
    ),
    "softcap < 0": (ValueError, "softcap: got -1", {"softcap": -1.0}),
    "softcap of NaN": (ValueError, "softcap: got nan", {"softcap": float("nan")}),
    "softcap a tensor": (TypeError, "softcap: got torch.Tensor", {"softcap": torch.ones(())}),
    "score": (ValueError, "score: got 'euclid', wanted one of.*scaled_dot", {"score": "euclid"}),
    "score a number": (TypeError, "score: got 3, wanted", {"score": 3}),
    "score a class": (TypeError, r"score: .*write Cosine\(\)", {"score": ft.Cosine}),
}  # fmt: skip
ONLY_SOFT: dict[str, Any] = {
    "sink, shape": (ValueError, r"sink: got shape \(3,\)", {"sink": torch.ones(3)}),
    "sink of bools": (TypeError, "sink: got dtype torch.bool", {"sink": torch.ones(2).bool()}),
    "sink a string": (TypeError, "sink: got str, wanted a real number", {"sink": "1"}),
    "sink an array": (TypeError, "sink: got numpy.ndarray", {"sink": np.ones(2)}),
    "dropout of 1": (ValueError, r"dropout: got 1.0, wanted .*\[0, 1\)", {"dropout": 1.0}),
    "dropout < 0": (ValueError, "dropout: got -0.5", {"dropout": -0.5}),
    "dropout of NaN": (ValueError, "dropout: got nan", {"dropout": float("nan")}),
    "dropout a string": (TypeError, "dropout: got str", {"dropout": "0.5"}),
    "dropout a tensor": (TypeError, "dropout: got torch.Tensor", {"dropout": torch.tensor(0.5)}),
    "generator": (TypeError, "generator: got 3, wanted", {"dropout": 0.5, "generator": 3}),
    "generator of NumPy": (
        TypeError, "generator: .*torch.Generator",
        {"dropout": 0.5, "generator": np.random.default_rng(0)},
    ),
}  # fmt: skip
ONLY_HARD: dict[str, Any] = {
    "select": (ValueError, "select: got 'all', wanted one of", {"select": "all"}),
    "size of argmax": (ValueError, "size: got 3 with select", {"select": "argmax", "size": 3}),
    "size < 0": (ValueError, "size: got -1", {"size": -1}),
    "size a float": (TypeError, "size: got float, wanted an int", {"size": 1.5}),
    "generator": (TypeError, "generator: got 3, wanted", {"generator": 3}),
}


@pytest.mark.parametrize("learns", [False, True], ids=["alone", "with gradients"])
@pytest.mark.parametrize("name", [*REACH, *ONLY_SOFT])
def test_keywords_of_attention(name, learns):
    error, match, keywords = (REACH | ONLY_SOFT)[name]
    with pytest.raises(error, match=match):
        ft.attention(Q.clone().requires_grad_(learns), K, V, **keywords)


@pytest.mark.parametrize("name", [*REACH, *ONLY_HARD])
def test_keywords_of_hard_attention(name):
    error, match, keywords = (REACH | ONLY_HARD)[name]
    with pytest.raises(error, match=match):
        ft.hard_attention(Q, K, V, **keywords)


LOCAL: dict[str, Any] = {
    "half_width": (ValueError, "half_width: got -1", {"half_width": -1}),
    "half_width of NaN": (ValueError, "half_width: got nan", {"half_width": float("nan")}),
    "half_width a tensor": (TypeError, "half_width", {"half_width": torch.ones(())}),
    "centers a list": (TypeError, "centers: got list, wanted a tensor", {"centers": [1.0]}),
    "centers an array": (TypeError, "centers: got ndarray", {"centers": np.ones(3)}),
    "centers of bools": (TypeError, "centers: got dtype torch.bool", {"centers": Q.bool()[0, 0]}),
    "centers, shape": (ValueError, r"centers: got shape \(4,\)", {"centers": torch.ones(4)}),
    "one center": (ValueError, r"centers: got shape \(\)", {"centers": torch.ones(())}),
    "centers of NaN": (ValueError, "centers: got nan", {"centers": torch.full((3,), torch.nan)}),
    "sigma": (ValueError, "sigma: got 'whole'", {"sigma": "whole"}),
    "sigma of 0": (ValueError, "sigma: got 0", {"sigma": 0.0}),
    "sigma < 0": (ValueError, "sigma: got -1", {"sigma": torch.tensor(-1.0)}),
    "sigma of NaN": (ValueError, "sigma: got nan", {"sigma": torch.tensor(torch.nan)}),
    "two sigmas": (ValueError, r"sigma: got shape \(2,\), wanted \(\)", {"sigma": torch.ones(2)}),
    "sigma of ints": (TypeError, "sigma: got dtype torch.int64", {"sigma": torch.tensor(1)}),
    "lengths": (ValueError, "key_lengths: got 6", {"key_lengths": 6}),
    "lengths of floats": (TypeError, "key_lengths", {"key_lengths": torch.ones(2)}),
    "softcap": (ValueError, "softcap: got -1", {"softcap": -1.0}),
    "score": (ValueError, "score: got 'euclid'", {"score": "euclid"}),
}


@pytest.mark.parametrize("name", LOCAL)
def test_keywords_of_local_attention(name):
    error, match, keywords = LOCAL[name]
    with pytest.raises(error, match=match):
        ft.local_attention(Q, K, V, **{"half_width": 2, **keywords})


# --- parameters of scores -------------------------------------------------------------------------

D, H = torch.zeros(4), torch.zeros(7)
WH = torch.zeros(4, 7)
SCORES: dict[str, Any] = {
    "bilinear, float64": (TypeError, "w: .*float64 with a query of torch.float32",
                          lambda: ft.Bilinear(torch.eye(4).double())),
    "bilinear, str": (TypeError, "w: got str, wanted an array", lambda: ft.Bilinear("w")),
    "bilinear, ints": (TypeError, "w: got dtype torch.int64",
                       lambda: ft.Bilinear(torch.eye(4).long())),
    "bilinear, shape": (ValueError, r"w: got shape \(4, 5\), wanted \(4, 4\)",
                        lambda: ft.Bilinear(torch.zeros(4, 5))),
    "bilinear, axes": (ValueError, "w: got shape", lambda: ft.Bilinear(torch.zeros(2, 4, 4))),
    "bilinear, meta": (TypeError, "w: .*meta", lambda: ft.Bilinear(torch.eye(4, device="meta"))),
    "additive, v": (TypeError, "v: .*float64 with", lambda: ft.Additive(D.double())),
    "additive, float64 array": (TypeError, "v: .*float64 with", lambda: ft.Additive(np.zeros(4))),
    "additive, axes of v": (ValueError, "v: got shape", lambda: ft.Additive(WH)),
    "additive, wq": (TypeError, "wq: .*float64", lambda: ft.Additive(H, WH.double(), WH)),
    "additive, wk": (ValueError, r"wk: got shape \(5, 7\), wanted \(4, 7\)",
                     lambda: ft.Additive(H, WH, torch.zeros(5, 7))),
    "additive, H": (ValueError, r"wq: got shape \(4, 7\), wanted \(4, 4\)",
                    lambda: ft.Additive(D, WH, WH)),
    "additive, b": (ValueError, r"b: got shape \(4,\), wanted \(7,\)",
                    lambda: ft.Additive(H, WH, WH, D)),
    "additive, float64 b": (TypeError, "b: .*float64", lambda: ft.Additive(H, WH, WH, H.double())),
    "not projected": (ValueError, "query: .*without wq it is projected already",
                      lambda: ft.Additive(H)),
    "key not projected": (ValueError, "key: .*without wk it is projected",
                          lambda: ft.Additive(H, WH)),
    "identity, not projected": (ValueError, "query: .*projected already",
                                lambda: ft.Additive(H, activation="identity")),
    "activation": (ValueError, "activation: got 'gelu', wanted",
                   lambda: ft.Additive(D, activation="gelu")),
    "activation a number": (TypeError, "activation: got 1", lambda: ft.Additive(D, activation=1)),
    "concat, rows": (ValueError, r"w: got shape \(9, 7\), wanted \(8, 7\)",
                     lambda: ft.Concat(H, torch.zeros(9, 7))),
    "concat, float64": (TypeError, "w: .*float64",
                        lambda: ft.Concat(H, torch.zeros(8, 7).double())),
    "concat, activation": (ValueError, "activation",
                           lambda: ft.Concat(H, torch.zeros(8, 7), None, "elu")),
    "location": (ValueError, r"w: got shape \(7,\), wanted \(4,\)", lambda: ft.Location(H)),
    "location, float64": (TypeError, "w: .*float64", lambda: ft.Location(D.double())),
    "location, b": (ValueError, r"b: got shape \(4,\), wanted \(\)", lambda: ft.Location(D, D)),
    "location, b a string": (TypeError, "b: got str", lambda: ft.Location(D, "1")),
    "location, activation": (ValueError, "activation", lambda: ft.Location(D, activation="elu")),
    "gaussian": (ValueError, r"w: got shape \(7,\), wanted \(4,\)", lambda: ft.Gaussian(H)),
    "gaussian, float64": (TypeError, "w: .*float64", lambda: ft.Gaussian(D.double())),
    "gaussian, float64 array": (TypeError, "w: .*float64", lambda: ft.Gaussian(np.zeros(4))),
    "gaussian of NaN": (ValueError, "w: got nan", lambda: ft.Gaussian(float("nan"))),
    "gaussian of NaNs": (ValueError, "w: got NaN or inf", lambda: ft.Gaussian(D + torch.nan)),
    "gaussian, meta": (TypeError, "w: .*meta", lambda: ft.Gaussian(torch.ones((), device="meta"))),
    "cosine": (TypeError, "scale: got str, wanted a real number", lambda: ft.Cosine("1")),
    "cosine of inf": (ValueError, "scale: got inf", lambda: ft.Cosine(float("inf"))),
    "cosine, shape": (ValueError, r"scale: got shape \(4,\), wanted \(\)", lambda: ft.Cosine(D)),
    "NumPy's float64": (TypeError, "w: .*float64 with a query of", lambda: fv.Bilinear(np.eye(4))),
    "NumPy's shape": (ValueError, "w: got shape", lambda: fv.Bilinear(np.eye(5, dtype=np.float32))),
}  # fmt: skip


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("call", CALLS)
def test_scores(call, name):
    error, match, make = SCORES[name]
    with pytest.raises(error, match=match):
        CALLS[call](Q, K, V, score=make())


# --- centers and kernel regression ----------------------------------------------------------------

CENTERS: dict[str, Any] = {
    "query": (TypeError, "query: got ndarray", (np.zeros((3, 4)), WH, H, 5)),
    "axes of query": (ValueError, "query: got shape", (D, WH, H, 5)),
    "w": (ValueError, r"w: got shape \(7,\), wanted \(4, H\)", (Q, H, H, 5)),
    "rows of w": (ValueError, r"w: got shape \(7, 4\)", (Q, WH.T, D, 5)),
    "float64 w": (TypeError, "w: .*float64", (Q, WH.double(), H, 5)),
    "v": (ValueError, r"v: got shape \(4,\), wanted \(7,\)", (Q, WH, D, 5)),
    "v an array": (TypeError, "v: got ndarray", (Q, WH, np.zeros(7), 5)),
    "length < 0": (ValueError, "length: got -1", (Q, WH, H, -1)),
    "length of NaN": (ValueError, "length: got nan", (Q, WH, H, float("nan"))),
    "length a string": (TypeError, "length: got str", (Q, WH, H, "5")),
    "length, shape": (ValueError, r"length: got shape \(3,\)", (Q, WH, H, torch.ones(3).long())),
    "length, axes": (ValueError, "length: got shape", (Q, WH, H, torch.ones(2, 3).long())),
    "length of floats": (TypeError, "length: got dtype", (Q, WH, H, torch.ones(2))),
}


@pytest.mark.parametrize("name", CENTERS)
def test_predicted_centers(name):
    error, match, arguments = CENTERS[name]
    with pytest.raises(error, match=match):
        ft.predict_centers(*arguments)


X, Y = torch.zeros(3), torch.zeros(5)
REGRESSION: dict[str, Any] = {
    "x": (TypeError, "x: got ndarray", (np.zeros(3), Y, Y), {}),
    "x_train": (TypeError, "x_train: got list", (X, [1.0], Y), {}),
    "y_train": (TypeError, "y_train: got dtype torch.int64", (X, Y, Y.long()), {}),
    "meta": (TypeError, "x: .*meta", (X.to("meta"), Y, Y), {}),
    "no axis": (ValueError, r"x: got shape \(\)", (X[0], Y, Y), {}),
    "rows": (ValueError, r"y_train: got shape \(3,\), wanted \(5,\)", (X, Y, X), {}),
    "columns": (ValueError, "x_train: got shape", (torch.zeros(3, 2), torch.zeros(5, 3), Y), {}),
    "w < 0": (ValueError, "w: got -1", (X, Y, Y), {"w": -1.0}),
    "w of NaN": (ValueError, "w: got nan", (X, Y, Y), {"w": torch.tensor(torch.nan)}),
    "w a string": (TypeError, "w: got str", (X, Y, Y), {"w": "1"}),
    "w an array": (TypeError, "w: got numpy.ndarray", (X, Y, Y), {"w": np.ones(2)}),
    "w, shape": (ValueError, r"w: got shape \(3,\)", (X, Y, Y), {"w": torch.ones(3)}),
    "w of bools": (TypeError, "w: got dtype torch.bool", (X, Y, Y), {"w": torch.tensor(True)}),
    "w, meta": (TypeError, "w: .*meta", (X, Y, Y), {"w": torch.ones((), device="meta")}),
    "kernel": (ValueError, "kernel: got 'cubic', wanted one of", (X, Y, Y), {"kernel": "cubic"}),
    "kernel a number": (TypeError, "kernel: got 3, wanted one of", (X, Y, Y), {"kernel": 3}),
    "leave_one_out": (ValueError, "leave_one_out: got 3 rows", (X, Y, Y), {"leave_one_out": True}),
    "leave_one_out, 1": (TypeError, "leave_one_out: got 1", (X, X, X), {"leave_one_out": 1}),
    "weights": (TypeError, "sample_weight: got ndarray", (X, Y, Y), {"sample_weight": np.ones(5)}),
    "weights < 0": (ValueError, "sample_weight: got -1", (X, Y, Y), {"sample_weight": Y - 1}),
    "weights of 0": (ValueError, "sample_weight: got only zeros", (X, Y, Y), {"sample_weight": Y}),
    "weights, shape": (ValueError, "sample_weight: got shape", (X, Y, Y), {"sample_weight": X + 1}),
    "fill_value": (TypeError, "fill_value: got str", (X, Y, Y), {"fill_value": "0"}),
}  # fmt: skip


@pytest.mark.parametrize("learns", [False, True], ids=["alone", "with gradients"])
@pytest.mark.parametrize("name", REGRESSION)
def test_kernel_regression(name, learns):
    error, match, arguments, keywords = REGRESSION[name]
    if learns and isinstance(arguments[0], torch.Tensor):
        arguments = (arguments[0].clone().requires_grad_(), *arguments[1:])
    with pytest.raises(error, match=match):
        ft.kernel_regression(*arguments, **keywords)


def test_without_torch(monkeypatch):
    """The import says what to install."""
    import importlib
    import sys

    kept = {x: y for x, y in sys.modules.items() if x.split(".")[:2] == ["foveate", "torch"]}
    for name in kept:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"foveate.torch needs torch.*pip install"):
        importlib.import_module("foveate.torch")

"""Defects that are planted, one after the other, each of which the fuzzer is to find.

    python tests/fuzz --planted

They stand in the place of the functions of foveate, and are of the kinds that were met: a tail, a
dropped sink, a row that nobody writes, bits that depend on the number of threads ...
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import foveate as fv
import numpy as np

from fuzz.case import Case
from fuzz.functions import function_of
from fuzz.worker import run, seed_of

CASES = 4000  # within so many cases of the function


def _tail(real: Callable[..., Any]) -> Callable[..., Any]:
    def attention(query: Any, key: Any, value: Any, **keywords: Any) -> Any:
        found = real(query, key, value, **keywords)
        output = found[0] if isinstance(found, tuple) else found
        if output.shape[-1] % 16 == 1 and output.shape[-1] > 16:
            output[..., -1] = output[..., -2]
        return found

    return attention


def _sink(real: Callable[..., Any]) -> Callable[..., Any]:
    def attention(*arrays: Any, **keywords: Any) -> Any:
        if keywords.get("causal"):
            keywords.pop("sink", None)
        return real(*arrays, **keywords)

    return attention


def _row(real: Callable[..., Any]) -> Callable[..., Any]:
    def attention(*arrays: Any, **keywords: Any) -> Any:
        found = real(*arrays, **keywords)
        output = found[0] if isinstance(found, tuple) else found
        if "window" in keywords and output.ndim == 3 and output.shape[0] > 2 and output.size:
            output[2, -1] = 1.5e16
        return found

    return attention


def _window(real: Callable[..., Any]) -> Callable[..., Any]:
    def attention(*arrays: Any, **keywords: Any) -> Any:
        if isinstance(keywords.get("window"), tuple) and keywords["window"][0] == 17:
            keywords["window"] = (16, keywords["window"][1])
        return real(*arrays, **keywords)

    return attention


def _threads(real: Callable[..., Any]) -> Callable[..., Any]:
    def attention(*arrays: Any, **keywords: Any) -> Any:
        found = real(*arrays, **keywords)
        output = found[0] if isinstance(found, tuple) else found
        if fv.get_num_threads() == 3:
            output[...] = (
                np.nextafter(output, output.dtype.type(0)) if output.dtype.kind == "f" else output
            )
        return found

    return attention


def _input(real: Callable[..., Any]) -> Callable[..., Any]:
    def attention(query: Any, key: Any, value: Any, **keywords: Any) -> Any:
        found = real(query, key, value, **keywords)
        if "mask" in keywords and value.flags.writeable and value.size:
            value[..., -1, -1] = 0
        return found

    return attention


def _around(real: Callable[..., Any]) -> Callable[..., Any]:
    def attention(*arrays: Any, **keywords: Any) -> Any:
        found, out = real(*arrays, **keywords), keywords.get("out")
        if out is not None and out.size and out.shape[-1] > 1 and out.strides[-1] > out.itemsize:
            ctypes.memset(out.ctypes.data + out.itemsize, 0, 1)  # behind the first element
        return found

    return attention


def _key(real: Callable[..., Any]) -> Callable[..., Any]:
    def attention_vjp(*arrays: Any, **keywords: Any) -> Any:
        output, pull = real(*arrays, **keywords)

        def pullback(*signals: Any) -> Any:
            found = pull(*signals)
            if found.key is not None and found.key.shape[-2] > 16 and found.key.size:
                found.key[..., 16, :] *= 1.01
            return found

        return output, pullback

    return attention_vjp


def _choice(real: Callable[..., Any]) -> Callable[..., Any]:
    def hard_attention(*arrays: Any, **keywords: Any) -> Any:
        found = real(*arrays, **keywords)
        if found.index.size and keywords["select"] == "argmax" and "key_lengths" in keywords:
            found.index[...] = np.maximum(found.index - 1, -1)
        return found

    return hard_attention


def _draw(real: Callable[..., Any]) -> Callable[..., Any]:
    def multinoulli(p: Any, size: Any = None, **keywords: Any) -> Any:
        found = np.asarray(real(p, size, **keywords))
        return np.minimum(found, 127)

    return multinoulli


PLANTED: dict[str, tuple[str, Callable[..., Any]]] = {
    "a tail of columns": ("attention", _tail),
    "a sink that is dropped": ("attention", _sink),
    "a row that nobody writes": ("attention", _row),
    "a window that is too narrow": ("attention", _window),
    "bits that depend on threads": ("attention", _threads),
    "an input that is changed": ("attention", _input),
    "writing between elements": ("attention", _around),
    "a gradient of one key": ("attention_vjp", _key),
    "an index that is one less": ("hard_attention", _choice),
    "draws that are cut": ("multinoulli", _draw),
}


@contextmanager
def planted(name: str) -> Iterator[str]:
    """With a defect in the place of a function of foveate; gives the name of the function."""
    function, make = PLANTED[name]
    real = getattr(fv, function)
    setattr(fv, function, make(real))
    try:
        yield function
    finally:
        setattr(fv, function, real)


def found_after(name: str) -> int | None:
    """After how many cases of the function a planted defect is found."""
    with planted(name) as function:
        number = tried = 0
        while tried < CASES:
            number += 1
            seed = seed_of(11, number)
            case = Case(seed)
            if function_of(case) != function:
                continue
            tried += 1
            if run(case, function) is not None:
                return tried
    return None


def find_all() -> int:
    """Find every defect; how many are not found."""
    missed = 0
    for name, (function, _) in PLANTED.items():
        tried = found_after(name)
        missed += tried is None
        told = f"not found in {CASES}" if tried is None else f"found after {tried}"
        print(f"{name}, in {function}: {told} cases", flush=True)
    return missed

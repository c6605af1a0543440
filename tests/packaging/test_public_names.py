"""Public things say where they stand: in a public module, whatever file they are in."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pickle
import pickletools
import pkgutil
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import foveate as fv
import numpy as np
import pytest
from processes import output_of
from score_samples import FULLEST

pytestmark = pytest.mark.python

# The second of each pair is what it needs; of several that export one thing, the first has it.
MODULES = {
    "foveate": None,
    "foveate.scores": None,
    "foveate.rules": None,
    "foveate.reference": None,
    "foveate.typing": None,
    "foveate.torch": "torch",
    "foveate.flash_attn": "torch",
    "foveate.transformers": "transformers",
    "foveate.sklearn": "sklearn",
    "foveate.scipy": "scipy",
    "foveate.statsmodels": "scipy",
    "foveate.jax": "jax",
    "foveate.dask": "dask",
    "foveate.keras": "keras",
    "foveate.numba": "numba",
    "foveate.plot": "matplotlib",
    "foveate.onnx": "onnx",
}
W, V = np.ones((2, 3)), np.ones(3)
PICKLED: dict[str, Any] = {
    **FULLEST,
    "Alibi": fv.Alibi([0.5]),
    "RelativeBias": fv.RelativeBias([0.0, 1.0], rule="t5", bidirectional=False),
    "RelativeBias2d": fv.RelativeBias2d(np.ones((1, 3)), (1, 2)),
    "BlockMask": fv.BlockMask([[True]], 4),
    "Edges": fv.Edges([0, 2, 3], [1, 0, 2], [0.5, 1.0, 2.0]),
    "Intervals": fv.Intervals([0, 1], 2),
    "AttentionStatistics": fv.attention_statistics(W, W),
    "RegressionFit": fv.RegressionFit(W, W, W),
    "HardAttention": fv.hard_attention(W, W, W, rng=0),
    "Gradients": fv.attention_vjp(W, W, W)[1](W),
    "MovingAverageBaseline": fv.MovingAverageBaseline(),
    "Memory": fv.Memory(W, W),
    "KVCache": fv.KVCache(2, head_size=3),
    "Neighborhood": fv.Neighborhood((1, 2), 1),
    "Packed": fv.Packed([0, 2, 5]),
    "Paged": fv.Paged(np.ones((1, 2, 3)), [[0]]),
    "Quantized": fv.quantize(W),
}
PICKLED |= {
    name: getattr(fv, name)(*(W,) * len(getattr(fv, name)._fields))
    for name in fv.__all__
    if name.endswith("Gradients") and name != "Gradients"
}


def named(name: str) -> Any:
    if MODULES[name]:
        pytest.importorskip(MODULES[name])
        if name == "foveate.plot":
            importlib.import_module("matplotlib").use("agg")
    return importlib.import_module(name)


def snapshot() -> dict[str, set[str]]:
    """The public names of each module, as public_names.txt has them."""
    found: dict[str, set[str]] = {name: set() for name in MODULES}
    for line in (Path(__file__).parent / "public_names.txt").read_text().split():
        module, _, name = line.rpartition(".")
        found[module].add(name)
    return found


@pytest.mark.parametrize("name", MODULES)
def test_public_names_change_on_purpose(name):
    """A name that comes or goes is written down in public_names.txt, where a reader sees it."""
    assert set(named(name).__all__) == snapshot()[name]


def test_modules_of_the_package_are_imported_where_they_are_asked_for():
    code = """
        import sys
        import foveate as fv
        names = ("reference", "typing")
        print([f"foveate.{name}" in sys.modules for name in names], set(names) <= set(dir(fv)))
        print([getattr(fv, name).__name__ for name in names])
        from foveate import reference
        print(reference is fv.reference, hasattr(fv, "nothing"))
    """
    assert output_of(code).splitlines() == [
        "[False, False] True",
        "['foveate.reference', 'foveate.typing']",
        "True False",
    ]


def test_there_is_a_version():
    assert fv.__version__


def defined_here(module: Any) -> Iterator[tuple[str, Any]]:
    """What a module exports of its own: classes and functions of this package, and not modules."""
    for name in module.__all__:
        thing = getattr(module, name)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            home = thing.__module__
            if home.startswith("foveate") and (home != "foveate" or module is fv):
                yield name, thing


@pytest.mark.parametrize("name", MODULES)
def test_public_things_say_that_they_are_public(name):
    module = named(name)
    found = dict(defined_here(module))
    assert found
    for own, thing in found.items():
        assert (thing.__module__, thing.__qualname__) == (name, own)
        if isinstance(thing, type):
            members = [getattr(x, "__func__", x) for x in vars(thing).values()]
            for member in filter(inspect.isfunction, members):
                assert "._" not in member.__module__, member
        assert pickle.loads(pickle.dumps(thing)) is thing


def test_no_public_module_is_left_out():
    """All modules of the package whose names do not begin with "_" are here."""
    found = {x.name for x in pkgutil.iter_modules(fv.__path__) if not x.name.startswith("_")}
    found -= {"cython_attention"}  # compiled: it has no names of its own to give
    assert {f"foveate.{x}" for x in found} == set(MODULES) - {"foveate"}


@pytest.mark.parametrize("name", PICKLED)
def test_pickles_hold_public_names(name):
    thing = PICKLED[name]
    written = pickle.dumps(thing)
    again = pickle.loads(written)
    assert type(again) is type(thing)
    assert type(thing) is getattr(fv, name)
    for one, other in zip(parts(thing), parts(again), strict=True):
        np.testing.assert_array_equal(one, other)
    strings = [x for _, x, _ in pickletools.genops(written) if isinstance(x, str)]
    assert "foveate" in strings
    assert not any("foveate._" in x for x in strings)


def parts(thing: Any) -> list[Any]:
    if isinstance(thing, fv.KVCache):
        return list(thing.__getstate__().values())
    if dataclasses.is_dataclass(thing):
        return [getattr(thing, field.name) for field in dataclasses.fields(thing)]
    return list(thing) if isinstance(thing, tuple) else list(vars(thing).values())


def test_every_class_is_pickled_here():
    classes = {name for name in fv.__all__ if isinstance(getattr(fv, name), type)}
    assert classes - {"num_threads"} == set(PICKLED)


@pytest.mark.parametrize("name", PICKLED)
def test_annotations_are_found_where_a_class_says_it_is(name):
    typing.get_type_hints(getattr(fv, name))


def test_messages_name_the_call_that_makes_a_score():
    x = np.ones((1, 2))
    for kind, call in ((fv.Dot, r"Dot\(\)"), (fv.Additive, r"Additive\(v\)")):
        wanted = rf"^score: got <class 'foveate\.{kind.__name__}'>, .*; write {call}$"
        with pytest.raises(TypeError, match=wanted):
            fv.attention(x, x, x, score=kind)
    with pytest.raises(TypeError, match=r"or a score object$"):
        fv.attention(x, x, x, score=int)

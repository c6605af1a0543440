"""Whole blocks, memories and predicted centers, held against the reference one precision wider."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import foveate as fv
import numpy as np
from foveate import reference
from foveate.reference._rows import sum_to
from gradient_checks import FLOOR_ULP, parts
from strategies import BFLOAT16
from tolerances import FLOORS, RATIO, eps, wider

from fuzz.case import Case
from fuzz.formulas import of_dtype, same, within, worst
from fuzz.gradients import wrt_of
from fuzz.memory import Laid, lay, true
from fuzz.problem import DTYPES, LEADS, Problem, add_reach, compute, one_mask, own_lead, score_of

LENGTHS = [1, 2, 3, 4, 5, 7, 8, 16, 17, 0, 33]
WIDTHS = [1, 2, 3, 4, 5, 8, 0, 16, 17]


class Block:
    """Array arguments by name in any layout, and a reach, for a block and for the reference."""

    def __init__(self, case: Case, dtype: Any) -> None:
        self.case, self.dtype = case, dtype
        self.laid: dict[str, Laid] = {}
        self.clean: dict[str, np.ndarray] = {}
        self.keywords: dict[str, Any] = {}
        self.formula: dict[str, Any] = {}
        self.problem: Problem | None = None

    def array(self, name: str, *shape: int, like: int | None = None, dtype: Any = None) -> None:
        """Normal numbers; of a weight so large that rows keep their size."""
        x = self.case.normal(name, shape) / max(1 if like is None else like, 1) ** 0.5
        if self.case.chance(f"{name} whole", 0.15):
            x = np.round(2 * x) / 2
        self.laid[name] = lay(self.case, name, x.astype(self.dtype if dtype is None else dtype))
        self.clean[name] = true(self.laid[name].view)

    def reach(self, lead: tuple[int, ...], queries: int, keys: int) -> None:
        """A reach, which the reference gets as one mask."""
        seen = np.ones((*lead, queries, keys), bool)
        own = np.zeros((*lead, queries), bool)
        stand_in = [np.zeros((1, 1), self.dtype)] * 3
        self.problem = problem = Problem([], stand_in, lead, seen, {}, {}, None, own)
        add_reach(self.case, problem)
        one_mask(problem)
        self.keywords |= problem.keywords
        self.formula |= problem.formula

    def views(self) -> dict[str, np.ndarray]:
        return {name: laid.view for name, laid in self.laid.items()}

    def check_inputs(self) -> None:
        for name, laid in (self.laid | (self.problem.laid if self.problem else {})).items():
            if laid.is_changed():
                self.case.fail(f"{name}: an input was changed")

    def size(self, *signals: np.ndarray) -> float:
        """How large the sums of a gradient may be before terms cancel, roughly."""
        largest = max((float(np.max(np.abs(x.astype(float)), initial=0)) for x in
                       self.clean.values()), default=0.0)  # fmt: skip
        return sum(float(np.abs(x.astype(float)).sum()) for x in signals) * (1 + largest) ** 2


def hold(
    case: Case,
    what: str,
    got: Any,
    exact: Any,
    plain: Any,
    dtype: Any,
    size: float,
    logits: float = 0.0,
) -> None:
    """By twice the worst error of the plain formulas, and FLOOR_ULP of the size, as block_checks.

    `size` is that of sums before terms cancel. `logits` is how large those are that have weight: in
    base 2 a bias is rounded, and its sum with a score, by half an ulp of itself each.
    """
    got, exact, plain = np.asarray(got), np.asarray(exact), np.asarray(plain)
    with np.errstate(all="ignore"):
        finite = np.abs(exact)[np.isfinite(exact)]
        ulps = (FLOOR_ULP + logits) * eps(compute(dtype)) + FLOORS[dtype].rounded_weights
        floor = ulps * max(float(np.max(finite, initial=0)), size)
        stored = got.dtype if got.dtype == BFLOAT16 else np.result_type(got.dtype)
        smallest = 6e-8 if stored == np.float16 else 1e-37
        error = RATIO * worst(plain, exact) + floor + eps(stored) * np.abs(exact) + smallest
    within(case, what, got, exact, error)


def size_of_biases(problem: Problem) -> float:
    """How large the biases are beside which a row still has weights: the least of its own."""
    if problem.bias is None:
        return 0.0
    size = np.where(problem.seen, np.abs(problem.bias.astype(np.float64)), np.inf)
    least = size.min(axis=-1, initial=np.inf)
    return float(np.max(least, initial=0, where=np.isfinite(least)).clip(0, 1e30))


def check(
    block: Block,
    name: str,
    shape: tuple[int, ...],
    wrt: tuple[str, ...] | None,
    expected: list[int],
) -> None:
    """A block and its pullback, by every instruction set."""
    case, dtype = block.case, block.dtype
    d_output = lay(case, "d_output", case.normal("d_output", shape).astype(dtype))
    d = true(d_output.view)
    with np.errstate(all="ignore"):
        wide = {at: wider(x) for at, x in block.clean.items()}
        of = getattr(reference, f"{name}_vjp")
        exact, pull = of(**wide, **block.formula)
        plain, pull_plain = of(**block.clean, **block.formula)
        exact_gradients, plain_gradients = parts(pull(wider(d))), parts(pull_plain(d))
    problem = block.problem
    if problem is not None:
        for gradients in (exact_gradients, plain_gradients):
            if problem.bias is None:
                gradients.pop("mask", None)
            elif "mask" in gradients:
                gradients["mask"] = sum_to(gradients["mask"], problem.bias.shape)
    names = {at for at in exact_gradients if wrt is None or at.split(".")[0] in wrt}
    size, logits = block.size(d), 0.0 if problem is None else size_of_biases(problem)
    with np.errstate(all="ignore"):  # an output may be what is left where projections cancel
        whole, _ = of(**{at: np.abs(x) for at, x in wide.items()}, **block.formula)
    largest = max(float(np.max(np.abs(x), initial=0, where=np.isfinite(x))) for x in (exact, whole))
    first: dict[str, Any] = {}
    for isa, threads in case.variants():
        case.under(isa, threads)
        got = case.call(name, **block.views(), **block.keywords, expected=expected)
        of_dtype(case, "output", got, dtype)
        hold(case, "output", got, exact, plain, dtype, largest, logits)
        more = {} if wrt is None else {"wrt": wrt}
        output, pull = case.call(
            f"{name}_vjp", **block.views(), **block.keywords, **more, expected=expected
        )
        of_dtype(case, "output of vjp", output, dtype)
        hold(case, "output of vjp", output, exact, plain, dtype, largest, logits)
        found = parts(case.run("pullback", pull, d_output.view, expected=expected))
        if found.keys() != names:
            case.fail(f"gradients: got {sorted(found)}, wanted {sorted(names)}")
        for at, x in found.items():
            hold(case, at, x, exact_gradients[at], plain_gradients[at], dtype, size, logits)
        if isa in first:
            for at, x in found.items():
                same(case, f"{at}, other threads", first[isa][at], x)
        first[isa] = found
        block.check_inputs()


def multi_head_attention(case: Case) -> None:
    dtype = case.pick("dtype", DTYPES)
    block = Block(case, dtype)
    lead = case.pick("lead", LEADS)
    of_x, of_memory = own_lead(case, "x", lead), own_lead(case, "memory", lead)
    queries, keys = case.pick("Lq", LENGTHS), case.pick("Lk", LENGTHS)
    heads = case.pick("heads", [1, 2, 4, 3])
    kv_heads = case.pick("kv heads", [n for n in (1, 2, 3, 4) if heads % n == 0])
    width, of_head, of_value = (case.pick(x, WIDTHS) for x in ("E", "D", "Dv"))
    other = width
    block.array("x", *of_x, queries, width)
    if case.chance("with memory", 0.5):
        other = case.pick("Em", WIDTHS)
        block.array("memory", *of_memory, keys, other)
    else:
        of_memory, keys = of_x, queries
    lead = np.broadcast_shapes(of_x, of_memory)
    weights = dtype if dtype.itemsize > 2 else np.dtype(np.float32)
    shapes = {
        "q": (width, heads * of_head),
        "k": (other, kv_heads * of_head),
        "v": (other, kv_heads * of_value),
        "o": (heads * of_value, case.pick("Eo", WIDTHS)),
    }
    for at, shape in shapes.items():
        block.array(f"w{at}", *shape, like=shape[0], dtype=weights)
        if case.chance(f"b{at}", 0.4):
            block.array(f"b{at}", shape[1], dtype=weights)
    block.reach(lead, queries, keys)
    score = score_of(case, of_head, dtype)
    for keywords in (block.keywords, block.formula):
        keywords |= {"num_heads": heads, "num_kv_heads": kv_heads, "score": score}
    if case.chance("sink", 0.2):
        sink = case.normal("sink", (heads,))
        block.keywords["sink"] = block.formula["sink"] = sink
    columns = shapes["o"][1]
    wrt = wrt_of(case, fv.MultiHeadGradients._fields)
    shape = (*lead, queries, columns)
    check(block, "multi_head_attention", shape, wrt, _bytes(block, shape))


def _bytes(block: Block, shape: tuple[int, ...]) -> list[int]:
    sizes = [int(np.prod(shape)), *(x.size for x in block.clean.values())]
    return [size * item for size in sizes for item in {4, 8, block.dtype.itemsize}]


def self_attention(case: Case) -> None:
    dtype = case.pick("dtype", DTYPES)
    block = Block(case, dtype)
    lead = case.pick("lead", LEADS)
    length = case.pick("L", LENGTHS)
    width, of_head, of_value = (case.pick(x, WIDTHS) for x in ("E", "D", "Dv"))
    block.array("x", *lead, length, width)
    for at, columns in (("wq", of_head), ("wk", of_head), ("wv", of_value)):
        block.array(at, width, columns, like=width)
    block.reach(lead, length, length)
    block.keywords["score"] = block.formula["score"] = score_of(case, of_head, dtype)
    if case.chance("sink", 0.2):
        block.keywords["sink"] = block.formula["sink"] = -0.5
    wrt = wrt_of(case, fv.SelfGradients._fields)
    shape = (*lead, length, of_value)
    check(block, "self_attention", shape, wrt, _bytes(block, shape))


def hierarchical_attention(case: Case) -> None:
    dtype = case.pick("dtype", DTYPES)
    block = Block(case, dtype)
    lead = case.pick("lead", LEADS)
    own = [own_lead(case, name, lead) for name in ("query", "key", "value", "segments")]
    lead = np.broadcast_shapes(*own[:3])
    queries, keys = case.pick("Lq", LENGTHS), case.pick("Lk", LENGTHS)
    size, value_size = case.pick("D", WIDTHS), case.pick("Dv", WIDTHS)
    block.array("query", *own[0], queries, size)
    block.array("key", *own[1], keys, size)
    block.array("value", *own[2], keys, value_size)
    try:
        of_segments = own[3] if np.broadcast_shapes(own[3], lead) == lead else ()
    except ValueError:
        of_segments = ()
    ids = case.integers(
        "segments", 0, case.pick("segments", [1, 2, 3, 6, 20]), (*of_segments, keys)
    )
    ids = np.sort(ids, axis=-1) if case.chance("sorted", 0.5) else ids
    laid = lay(case, "segments", ids.astype(case.pick("dtype of segments", [np.int64, np.int32])))
    keywords: dict[str, Any] = {"score": score_of(case, size, dtype)}
    if case.chance("upper score", 0.3):
        keywords["upper_score"] = case.pick("upper", ["dot", "cosine", "scaled_dot"])
    if case.chance("key_lengths", 0.3):
        keywords["key_lengths"] = case.integers("key_lengths", 0, keys + 1, lead)
    block.keywords |= keywords | {"segments": laid.view}
    block.formula |= keywords | {"segments": true(laid.view).astype(np.int64)}
    wrt = wrt_of(case, fv.HierarchicalGradients._fields)
    shape = (*lead, queries, value_size)
    check(block, "hierarchical_attention", shape, wrt, _bytes(block, shape))


def predict_centers(case: Case) -> None:
    dtype = case.pick("dtype", DTYPES)
    block = Block(case, dtype)
    lead = case.pick("lead", LEADS)
    size, hidden = case.pick("D", WIDTHS), case.pick("hidden", WIDTHS)
    queries = case.pick("Lq", LENGTHS)
    wide = compute(dtype)
    block.array("query", *lead, queries, size)
    block.array("w", size, hidden, like=size, dtype=wide)
    block.array("v", hidden, dtype=wide)
    length: Any = case.pick("length", [10, 1, 0, 1000, 2.5])
    if case.chance("lengths", 0.4):
        length = case.integers("lengths", 0, 50, own_lead(case, "length", lead))
    arrays = {at: wider(x) for at, x in block.clean.items()}
    exact, pull = reference.predict_centers_vjp(**arrays, length=length)
    plain, pull_plain = reference.predict_centers_vjp(**block.clean, length=length)
    d = case.normal("d_centers", (*lead, queries)).astype(wide)
    exact_gradients, plain_gradients = parts(pull(wider(d))), parts(pull_plain(d))
    size_of = block.size(d * float(np.max(length, initial=0)))
    largest = float(np.max(np.abs(exact), initial=0)) + float(np.max(length, initial=0))
    isa, threads = case.variants()[0]
    case.under(isa, threads)
    got = case.call("predict_centers", **block.views(), length=length)
    of_dtype(case, "centers", got, wide)
    hold(case, "centers", got, exact, plain, dtype, largest)
    output, pull = case.call("predict_centers_vjp", **block.views(), length=length)
    hold(case, "centers of vjp", output, exact, plain, dtype, largest)
    for at, x in parts(case.run("pullback", pull, d)).items():
        hold(case, at, x, exact_gradients[at], plain_gradients[at], dtype, size_of)
    block.check_inputs()


def memory(case: Case) -> None:
    """Read, its gradients, write, save and load."""
    dtype = case.pick("dtype", DTYPES)
    block = Block(case, dtype)
    lead = case.pick("lead", LEADS)
    own = [own_lead(case, name, lead) for name in ("query", "keys", "values")]
    queries, rows = case.pick("Lq", LENGTHS), case.pick("N", LENGTHS)
    size = case.pick("D", WIDTHS)
    hops = case.pick("hops", [1, 1, 2, 3])
    value_size = case.pick("Dv", WIDTHS) if hops == 1 else size
    block.array("query", *own[0], queries, size)
    block.array("keys", *own[1], rows, size)
    block.array("values", *own[2], rows, value_size)
    keywords: dict[str, Any] = {}
    if case.chance("score", 0.4):
        keywords["score"] = score_of(case, size, dtype)
    else:
        keywords["sharpness"] = case.pick("sharpness", [1.0, 3.0, 0.1, -2.0])
    kept, clean = block.views(), block.clean
    store = fv.Memory(kept["keys"], kept["values"])
    exact_store = reference.Memory(wider(clean["keys"]), wider(clean["values"]))
    plain_store = reference.Memory(clean["keys"], clean["values"])
    query, q, expected = kept["query"], clean["query"], _bytes(block, kept["query"].shape)
    with np.errstate(all="ignore"):
        exact, pull = exact_store.read_vjp(wider(q), hops=hops, **keywords)
        plain, pull_plain = plain_store.read_vjp(q, hops=hops, **keywords)
    d = case.normal("d_output", exact.shape).astype(dtype)
    with np.errstate(all="ignore"):
        exact_gradients, plain_gradients = parts(pull(wider(d))), parts(pull_plain(d))
    size_of = block.size(d) * max(1.0, abs(keywords.get("sharpness", 1.0)))
    lengths = (
        np.linalg.norm(clean["keys"].astype(float), axis=-1),
        np.linalg.norm(q.astype(float), axis=-1),
    )
    size_of /= min(1.0, *(float(np.min(x, initial=1, where=x > 0)) for x in lengths))
    largest = float(np.max(np.abs(exact), initial=0, where=np.isfinite(exact)))
    for isa, threads in case.variants()[:3]:
        case.under(isa, threads)
        got = case.run("read", store.read, query, hops=hops, expected=expected, **keywords)
        of_dtype(case, "read", got, dtype)
        hold(case, "read", got, exact, plain, dtype, largest)
        output, pull = case.run(
            "read_vjp", store.read_vjp, query, hops=hops, expected=expected, **keywords
        )
        hold(case, "read of vjp", output, exact, plain, dtype, largest)
        for at, x in parts(case.run("pullback", pull, d, expected=expected)).items():
            hold(case, at, x, exact_gradients[at], plain_gradients[at], dtype, size_of)
        for select in ("argmax", "sample"):
            more = {"rng": 1} if select == "sample" else {}
            chosen = case.run("read", store.read, query, select=select, **more, **keywords)
            of_dtype(case, select, chosen, dtype)
        block.check_inputs()
    if case.chance("write", 0.5) and np.broadcast_shapes(own[0], own[2]) == own[2] and (
        np.broadcast_shapes(own[1], own[2]) == own[2]
    ):  # fmt: skip
        _write(case, block, store, exact_store, plain_store, keywords)
    if case.chance("file", 0.02):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "memory.npz"
            store.save(path)
            again = fv.Memory.load(path)
        same(case, "keys that were saved", store.keys, again.keys)
        same(case, "values that were saved", store.values, again.values)


def _write(case: Case, block: Block, store: Any, exact: Any, plain: Any, keywords: Any) -> None:
    query, q, dtype = block.views()["query"], block.clean["query"], block.dtype
    shape = (*block.clean["values"].shape[:-2], q.shape[-2], block.clean["values"].shape[-1])
    erase = case.uniform("erase", shape).astype(dtype).clip(0, 1)
    add = case.normal("add", shape).astype(dtype)
    with np.errstate(all="ignore"):
        exact.write(wider(q), erase=wider(erase), add=wider(add), **keywords)
        plain.write(q, erase=erase, add=add, **keywords)
    case.run("write", store.write, query, erase=erase, add=add, **keywords)
    size = max(1.0, q.shape[-2]) * max(1.0, float(np.max(np.abs(add.astype(float)), initial=0)))
    hold(case, "values", store.values, exact.values, plain.values, dtype, size)
    block.check_inputs()

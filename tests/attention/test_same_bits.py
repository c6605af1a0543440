"""The same bits for any number of threads, for a leading index in any company, and across ISAs."""

from __future__ import annotations

import foveate as fv
import numpy as np
import pytest
from across_isas import answers
from strategies import LAYOUTS, WITH_PARAMETERS, Site, normal, problem, score_of

pytestmark = pytest.mark.threads

CASES = {
    "prefill": (150, 333, {}),
    "square": (300, 300, {"causal": True}),
    "window": (600, 600, {"window": (40, 3)}),
    "short": (16, 16, {}),
    "decode": (1, 7000, {}),
    "decode of four": (4, 4500, {"causal": True, "offset": "end"}),
    "sink and softcap": (70, 200, {"sink": 1.0, "softcap": 4.0}),
    "segments": (200, 200, {"segments": np.arange(200) // 30}),
}


def bits(*arrays, **keywords) -> bytes:
    output, lse = fv.attention(*arrays, return_lse=True, **keywords)
    return output.tobytes() + lse.tobytes()


@pytest.mark.parametrize(("queries", "keys", "keywords"), CASES.values(), ids=CASES)
@pytest.mark.parametrize("lead", [(), (3, 5)], ids=["one head", "15 heads"])
def test_over_threads(queries, keys, keywords, lead, dtype):
    arrays = problem(queries, keys, lead=lead, size=32, dtype=dtype)
    with fv.num_threads(1):
        one = bits(*arrays, **keywords)
        weights = fv.attention_weights(*arrays[:2], **keywords).tobytes()
    for threads in (2, 3, 5):
        with fv.num_threads(threads):
            assert bits(*arrays, **keywords) == one
            assert fv.attention_weights(*arrays[:2], **keywords).tobytes() == weights


def test_from_one_call_to_the_next(dtype):
    arrays = problem(100, 3000, lead=(4,), dtype=dtype)
    first = bits(*arrays)
    for _ in range(5):
        assert bits(*arrays) == first


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["dot", "cosine", "bilinear", *WITH_PARAMETERS])
def test_each_score_in_any_layout_and_company(name, layout, dtype):
    """NumPy and BLAS sum in an order that depends on strides, and these on who else is there."""
    size, lay = 24, LAYOUTS[layout]
    q, k, v = problem(37, 50, lead=(2, 5), size=size, dtype=dtype)
    score = fv.Bilinear(normal(9, (size, size), np.float16)) if name == "bilinear" else name
    if name in WITH_PARAMETERS:
        score = score_of(name, size, dtype)

    def answers(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> list[np.ndarray]:
        output, pullback = fv.attention_vjp(q, k, v, score=score)
        got = pullback(np.ones_like(output))
        return [fv.attention_weights(q, k, score=score), output, got.query, got.key, got.value]

    together = answers(lay(q), lay(k), lay(v))
    some = [lay(x)[:, 1:3] for x in (q, k, v)]
    for lead in ((0, 0), (0, 2), (1, 4)):
        alone = answers(*(np.ascontiguousarray(x[lead]) for x in (q, k, v)))
        for a, b in zip(together, alone, strict=True):
            assert a[lead].tobytes() == b.tobytes()
        if lead[1] != 2:
            continue
        for a, b in zip(answers(*some), alone, strict=True):
            assert a[0, 1].tobytes() == b.tobytes()


COMPANY = {
    "lengths": {"key_lengths": np.array([333, 1, 150])},
    "offsets": {"causal": True, "offset": np.array([50, 183, -20])},
    "end": {"causal": True, "offset": "end", "key_lengths": np.array([200, 333, 0])},
    "window": {"window": (60, 9), "offset": np.array([0, 183, 90])},
    "sink": {"sink": np.array([0.0, -3.0, 9.0])},
    "cosine": {"score": "cosine"},
    "bilinear": {"score": fv.Bilinear(normal(9, (32, 32), np.float16))},
    "nothing": {},
}


@pytest.mark.parametrize("keywords", COMPANY.values(), ids=COMPANY)
@pytest.mark.parametrize("queries", [150, 1])
def test_a_leading_index_alone_and_in_a_batch(queries, keywords, dtype):
    """Whatever the other indices hold, and whatever their lengths and offsets are."""
    q, k, v = problem(queries, 333, lead=(3,), size=32, dtype=dtype)
    v[1] *= 100
    output, lse = fv.attention(q, k, v, return_lse=True, **keywords)
    for n in range(3):
        own = {name: x[n] if isinstance(x, np.ndarray) else x for name, x in keywords.items()}
        alone, alone_lse = fv.attention(q[n], k[n], v[n], return_lse=True, **own)
        assert output[n].tobytes() == alone.tobytes()
        assert lse[n].tobytes() == alone_lse.tobytes()
    weights = fv.attention_weights(q, k, **keywords)
    for n in range(3):
        own = {name: x[n] if isinstance(x, np.ndarray) else x for name, x in keywords.items()}
        assert weights[n].tobytes() == fv.attention_weights(q[n], k[n], **own).tobytes()


GROUPS = {
    "lengths of batches": lambda at: {"key_lengths": at.rng.integers(0, at.keys + 1, (2, 1, 1))},
    "lengths of heads": lambda at: {"key_lengths": at.rng.integers(0, at.keys + 1, (2, 3, 4))},
    "windows of heads": lambda at: {
        "window": (300, 2),
        "offset": at.rng.integers(0, at.keys, (2, 3, 4)),
    },
    "masks of heads": lambda at: {
        "mask": at.rng.random((2, 3, 4, at.queries, at.keys)) < at.rng.random((2, 3, 4, 1, 1))
    },
    "biases of heads": lambda at: {
        "mask": at.rng.standard_normal((2, 3, 4, 1, at.keys)).astype(np.float32)
    },
    "sinks of heads": lambda at: {"sink": at.rng.standard_normal((2, 3, 4))},
}


@pytest.mark.parametrize(("queries", "keys"), [(1, 5000), (2, 700), (4, 300), (8, 2100), (65, 131)])
@pytest.mark.parametrize("reach", GROUPS.values(), ids=GROUPS)
def test_a_head_alone_and_in_its_group(queries, keys, reach, dtype):
    """Heads that share a key head are handled together; the bits do not tell."""
    q = normal(0, (2, 3, 4, queries, 32), dtype)
    k, v = (normal(n, (2, 3, 1, keys, 32), dtype) for n in (1, 2))
    keywords = reach(Site(np.random.default_rng(0), (2, 3, 4), queries, keys))
    output, lse = fv.attention(q, k, v, return_lse=True, **keywords)
    for batch, head, member in np.ndindex(2, 3, 4):
        own = {
            name: np.broadcast_to(x, (2, 3, 4, *x.shape[3:]))[batch, head, member]
            if isinstance(x, np.ndarray)
            else x
            for name, x in keywords.items()
        }
        alone, alone_lse = fv.attention(
            q[batch, head, member], k[batch, head, 0], v[batch, head, 0], return_lse=True, **own
        )
        assert output[batch, head, member].tobytes() == alone.tobytes()
        assert lse[batch, head, member].tobytes() == alone_lse.tobytes()


@pytest.mark.parametrize("columns", [1, 2, 3])
def test_few_columns_of_values_in_a_group(columns, dtype):
    """Their sums run over every fourth key: from the same one, whatever the group looks at."""
    offset = np.array([0, 3, 100, 7])
    q, k, v = (
        normal(0, (4, 65, 8), dtype),
        normal(1, (900, 8), dtype),
        normal(2, (900, columns), dtype),
    )
    output = fv.attention(q, k, v, window=(400, 2), offset=offset)
    for n in range(4):
        alone = fv.attention(q[n], k, v, window=(400, 2), offset=offset[n])
        assert output[n].tobytes() == alone.tobytes()


REACHES_BESIDE_SEGMENTS = {
    "alone": {},
    "causal": {"causal": True, "offset": 300},
    "window": {"window": 20, "offset": 200},
    "lengths": {"key_lengths": 430},
    "mask": {"mask": np.random.default_rng(5).random(500) < 0.7},
    "dropout": {"dropout": 0.3, "rng": 1},
}


@pytest.mark.parametrize("queries", [2, 40, 90])
@pytest.mark.parametrize("reach", REACHES_BESIDE_SEGMENTS.values(), ids=REACHES_BESIDE_SEGMENTS)
def test_segments_in_order_beside_others(queries, reach, dtype):
    """Ids that never fall are looked up, others are compared: one leading index decides for all."""
    rng = np.random.default_rng(0)
    of_queries, of_keys = rng.integers(0, 20, (2, 20, queries)), rng.integers(0, 20, (2, 1, 500))
    of_keys[0].sort()
    for columns in (1, 16):
        q, k, v = (
            normal(n, shape, dtype)
            for n, shape in enumerate(((2, 20, queries, 8), (2, 1, 500, 8), (2, 1, 500, columns)))
        )
        whole = everything(q, k, v, segments=(of_queries, of_keys), **reach)
        alone = everything(q[0], k[0], v[0], segments=(of_queries[0], of_keys[0]), **reach)
        for name, x in alone.items():
            assert whole[name][0].tobytes() == x.tobytes(), name


def everything(q, k, v, **keywords) -> dict[str, np.ndarray]:
    """Of the same reach: answers, gradients, weights, and draws."""
    output, lse = fv.attention(q, k, v, return_lse=True, **keywords)
    gradients = fv.attention_vjp(q, k, v, **keywords)[1](output)
    found = {"output": output, "lse": lse, **dict(zip(("dq", "dk", "dv"), gradients, strict=False))}
    if "dropout" not in keywords:
        drawn = fv.hard_attention(q, k, v, rng=1, **keywords)
        found |= {"weights": fv.attention_weights(q, k, **keywords), **drawn._asdict()}
    return found


def test_batch_size_does_not_choose_the_way(dtype):
    """1, 2 and 40 of the same problem: more tasks than threads, or fewer."""
    for queries, keys in ((1, 4500), (50, 300)):
        q, k, v = problem(queries, keys, lead=(), dtype=dtype)
        one = fv.attention(q, k, v).tobytes()
        for batch in (2, 40):
            many = fv.attention(*(np.broadcast_to(x, (batch, *x.shape)) for x in (q, k, v)))
            assert all(x.tobytes() == one for x in many)


# --- across ISAs ----------------------------------------------------------------------------------

ACROSS = """
import hashlib, json, sys
sys.path[:0] = json.loads(sys.argv[1])
import foveate as fv, numpy as np
from strategies import problem
digests = {}
for dtype in ("float32", "float64"):
    for case in (
        (150, 333, {}),
        (300, 300, {"causal": True}),
        (20, 5000, {"softcap": 3.0}),
        (40, 500, {"dropout": 0.3, "rng": 1}),
    ):
        arrays = problem(*case[:2], size=48, dtype=dtype)
        output, lse = fv.attention(*arrays, return_lse=True, **case[2])
        digests[f"{dtype} {case}"] = hashlib.sha256(output.tobytes() + lse.tobytes()).hexdigest()
print(json.dumps(digests))
"""


def test_avx2_and_avx512():
    """Both have fused multiply-adds and do the same chain of them for each element.

    Not so for 1 to 4 queries, where a score is summed over the lanes of a vector, whose number
    differs; and not for bfloat16, whose products AVX-512 has an instruction for.
    """
    avx2, avx512 = answers(ACROSS, ("avx2", "avx512"))
    assert avx2 == avx512

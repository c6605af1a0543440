"""The operator Attention of ONNX: against its node tests and the function that defines it."""

from __future__ import annotations

import doctest
import importlib
import re
import sys

import foveate as fv
import numpy as np
import pytest
from foveate._runtime.install import install
from numpy.testing import assert_allclose, assert_array_equal
from strategies import BFLOAT16
from tolerances import RATIO, eps

onnx = pytest.importorskip(
    "onnx", minversion="1.23", reason="earlier node tests want NaN where no key is seen"
)

import foveate.onnx  # noqa: E402
from foveate.onnx import Attention  # noqa: E402
from onnx.backend.test.case import node  # noqa: E402
from onnx.backend.test.case.node import attention as _attention  # noqa: E402, F401 (makes the cases)
from onnx.backend.test.runner import Runner  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

pytestmark = [pytest.mark.any_isa, pytest.mark.python]

CASES = [
    case
    for case in node._NodeTestCases
    if any(step.op_type == "Attention" for step in case.model.graph.node)
]
INPUTS = ("Q", "K", "V", "attn_mask", "past_key", "past_value", "nonpad_kv_seqlen")
OUTPUTS = ("Y", "present_key", "present_value", "qk_matmul_output")


def test_there_are_node_tests_of_every_opset():
    assert {case.model.opset_import[0].version for case in CASES} == {23, 24, 25}
    assert len(CASES) >= 93  # as in 1.23


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_node_tests_of_onnx(case):
    evaluator = ReferenceEvaluator(case.model, new_ops=[Attention])
    assert [type(step) for step in evaluator.rt_nodes_] == [Attention]
    names = [x.name for x in case.model.graph.input]
    for inputs, wanted in case.data_sets:
        got = evaluator.run(None, dict(zip(names, inputs, strict=True)))
        Runner.assert_similar_outputs(wanted, got, case.rtol, case.atol)


# --- against the function that defines the operator -----------------------------------------------


def evaluate(*inputs, outputs=OUTPUTS[:1], opset=25, expanded=False, **attributes):
    """One node on these inputs, of which some may be None; or its function body, step by step."""
    given = {name: x for name, x in zip(INPUTS, inputs, strict=False) if x is not None}
    names = [name if name in given else "" for name in INPUTS[: len(inputs)]]
    steps = [onnx.helper.make_node("Attention", names, outputs, **attributes)]

    def kind(x, shape):
        return onnx.helper.make_tensor_type_proto(
            onnx.helper.np_dtype_to_tensor_dtype(x.dtype), shape
        )

    kinds = {name: kind(x, x.shape) for name, x in given.items()}
    opsets = [onnx.helper.make_opsetid("", opset)]
    if expanded:
        types = [kinds.get(name, onnx.TypeProto()) for name in names]
        (((steps, opsets),), _) = node.function_testcase_helper(steps[0], types, "", opsets)
    value = onnx.helper.make_value_info
    of_outputs = {name: kind(inputs[0], [None] * 4) for name in outputs if name}
    graph = onnx.helper.make_graph(
        steps,
        "one",
        list(map(value, *zip(*kinds.items(), strict=True))),
        list(map(value, *zip(*of_outputs.items(), strict=True))),
    )
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    operators = [] if expanded else [Attention]
    return ReferenceEvaluator(model, new_ops=operators).run(None, given)


def numbers(*shape, dtype=np.float64, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


# name -> (inputs after Q, K, V; attributes): 2 batches, 4 query heads on 2, 3 queries, 5 keys
QUERY, KEY, VALUE = numbers(2, 4, 3, 8), numbers(2, 2, 5, 8, seed=1), numbers(2, 2, 5, 6, seed=2)
PAST = (numbers(2, 2, 4, 8, seed=3), numbers(2, 2, 4, 6, seed=4))
UNSEEN = np.where(np.arange(15).reshape(3, 5) // 5 == 1, -np.inf, numbers(3, 5))
USES = {
    "plain": ((), {}),
    "scale": ((), {"scale": 0.25}),
    "causal": ((), {"is_causal": 1}),
    "window": ((), {"left_window_size": 1, "right_window_size": 0}),
    "left": ((), {"left_window_size": 1}),
    "float mask with a row of -inf": ((UNSEEN,), {}),
    "float mask, causal": ((numbers(2, 1, 3, 5),), {"is_causal": 1}),
    "bool mask of the query heads": ((numbers(4, 3, 5) > 0,), {"is_causal": 1}),
    "short mask": ((numbers(3, 4) > -1,), {}),
    "short mask of one column": ((numbers(3, 1),), {}),
    "past": ((None, *PAST), {}),
    "past, causal": ((numbers(3, 9), *PAST), {"is_causal": 1}),
    "past, window": ((None, *PAST), {"left_window_size": 2, "right_window_size": 1}),
    "valid keys": ((None, None, None, np.array([5, 0])), {}),
    "valid keys, causal": ((None, None, None, np.array([4, 2])), {"is_causal": 1}),
    "valid keys, window": ((None, None, None, np.array([5, 3])), {"left_window_size": 1}),
}


@pytest.mark.parametrize("mode", range(4))
@pytest.mark.parametrize("softcap", [0.0, 0.5])
@pytest.mark.parametrize("use", USES)
def test_the_function_body_agrees(use, softcap, mode):
    more, attributes = USES[use]
    attributes = {**attributes, "softcap": softcap, "qk_matmul_output_mode": mode}
    # Outputs of the caches do not go together with valid keys.
    outputs = OUTPUTS if use.startswith("past") else ("Y", "", "", "qk_matmul_output")
    inputs = (QUERY, KEY, VALUE, *more)
    got = evaluate(*inputs, outputs=outputs, **attributes)
    with np.errstate(invalid="ignore"):  # the body makes NaN of rows of -inf, and takes it out
        wanted = evaluate(*inputs, outputs=outputs, expanded=True, **attributes)
    assert len(got) == len(wanted) == sum(map(bool, outputs))
    for ours, theirs in zip(got, wanted, strict=True):
        # float64 both, but the body's constants (softcap, scale) are float32: 2^-24 of a score,
        # whose size is below 16 here.
        assert_allclose(ours, theirs, rtol=0, atol=16 * 2.0**-24)


@pytest.mark.parametrize("opset", [23, 24, 25])
def test_three_axes_are_four(opset):
    def folded(x):
        return x.swapaxes(1, 2).reshape(x.shape[0], x.shape[2], -1)

    four = evaluate(QUERY, KEY, VALUE, None, *PAST, outputs=OUTPUTS, opset=opset)
    three = evaluate(
        *map(folded, (QUERY, KEY, VALUE)),
        None,
        *PAST,
        outputs=OUTPUTS,
        opset=opset,
        q_num_heads=4,
        kv_num_heads=2,
    )
    assert_array_equal(three[0], folded(four[0]))
    for ours, wanted in zip(three[1:], four[1:], strict=True):
        assert_array_equal(ours, wanted)


# --- where the operator leaves it open ------------------------------------------------------------


def test_keys_that_are_not_seen_spoil_nothing():
    key, value = KEY.copy(), VALUE.copy()
    key[:, :, 3:], value[:, :, 3:] = np.nan, np.inf
    lengths = np.array([3, 2])
    reach = (None, None, None, lengths)
    (got,) = evaluate(QUERY, key, value, *reach)
    (wanted,) = evaluate(QUERY, KEY, VALUE, *reach)
    assert_array_equal(got, wanted)


def test_sums_are_in_float32(dtype):
    """Of 16-bit inputs too, whatever the precision of the softmax: as `foveate.attention`."""
    q, k, v = (x.astype(dtype) for x in (QUERY, KEY, VALUE))
    wanted = fv.attention(q.reshape(2, 2, 2, 3, 8), k[:, :, None], v[:, :, None])
    for precision in ({}, {"softmax_precision": onnx.TensorProto.FLOAT16}):
        (got,) = evaluate(q, k, v, **precision)
        assert got.dtype == dtype
        assert_array_equal(got, wanted.reshape(2, 4, 3, 6))


def test_a_softmax_in_double(dtype):
    q, k, v = (x.astype(dtype) for x in (QUERY, KEY, VALUE))
    got = evaluate(
        *(q, k, v),
        outputs=("Y", "", "", "qk_matmul_output"),
        softmax_precision=onnx.TensorProto.DOUBLE,
        qk_matmul_output_mode=3,
    )
    wide = [x.astype(np.float64) for x in (q.reshape(2, 2, 2, 3, 8), k[:, :, None], v[:, :, None])]
    weights = fv.attention_weights(*wide[:2]).reshape(2, 4, 3, 5)
    assert [x.dtype for x in got] == [dtype, dtype]
    assert_array_equal(got[0], fv.attention(*wide).reshape(2, 4, 3, 6).astype(dtype))
    assert_array_equal(got[1], weights.astype(dtype))


@pytest.mark.parametrize("of_values", [np.float16, np.float32, np.float64, BFLOAT16])
def test_values_of_another_type(dtype, of_values):
    """The operator has a type of its own for them; the output has that of the queries."""
    q, k, v = QUERY.astype(dtype), KEY.astype(dtype), VALUE.astype(of_values)
    got = evaluate(q, k, v, outputs=OUTPUTS[:3])
    assert [x.dtype for x in got] == [dtype, dtype, of_values]
    exact = (x.astype(np.float64) for x in (q.reshape(2, 2, 2, 3, 8), k[:, :, None]))
    wanted = fv.attention(*exact, v.astype(np.float64)[:, :, None]).reshape(2, 4, 3, 6)
    # Computed in the wider of the two: one rounding to the narrower, and the plain error of it.
    assert_allclose(
        got[0].astype(np.float64),
        wanted,
        rtol=0,
        atol=RATIO * max(eps(dtype), eps(np.dtype(of_values))) * np.abs(VALUE).max(),
    )


@pytest.mark.parametrize("empty", ["batch", "queries", "values"])
def test_empty_inputs(empty):
    q, k, v = QUERY, KEY, VALUE
    if empty == "batch":
        q, k, v = q[:0], k[:0], v[:0]
    elif empty == "queries":
        q = q[:, :, :0]
    else:
        v = v[..., :0]
    got = evaluate(q, k, v, outputs=("Y", "", "", "qk_matmul_output"))
    assert got[0].shape == (*q.shape[:3], v.shape[3])
    assert got[1].shape == (*q.shape[:3], 5)


def test_no_keys():
    (got,) = evaluate(QUERY, KEY[:, :, :0], VALUE[:, :, :0])
    assert_array_equal(got, np.zeros((2, 4, 3, 6)))


def test_scores_are_made_only_where_they_are_asked_for(monkeypatch):
    monkeypatch.setattr(foveate.onnx, "_scores", None)
    evaluate(QUERY, KEY, VALUE, qk_matmul_output_mode=3)
    evaluate(QUERY, KEY, VALUE, outputs=("Y", "present_key", "present_value", ""))
    with pytest.raises(TypeError):
        evaluate(QUERY, KEY, VALUE, outputs=OUTPUTS)


# --- what is refused ------------------------------------------------------------------------------

FLAT = QUERY.swapaxes(1, 2).reshape(2, 3, 32)


@pytest.mark.parametrize(
    ("name", "inputs", "attributes"),
    [
        ("Q", (QUERY[0, 0], KEY, VALUE), {}),
        ("Q", (FLAT, FLAT, FLAT), {"q_num_heads": 5, "kv_num_heads": 4}),
        ("q_num_heads", (FLAT, FLAT, FLAT), {"kv_num_heads": 4}),
        ("kv_num_heads", (FLAT, FLAT, FLAT), {"q_num_heads": 4}),
        ("kv_num_heads", (QUERY, KEY, VALUE), {"kv_num_heads": 4}),
        ("Q, K, V", (FLAT, KEY, VALUE), {"q_num_heads": 4}),
        ("K", (QUERY, KEY.astype("f"), VALUE), {}),
        ("K", (QUERY, KEY[:1], VALUE[:1]), {}),
        ("K", (QUERY, KEY[..., :4], VALUE), {}),
        ("K", (QUERY[:, :3], KEY, VALUE), {}),
        ("V", (QUERY, KEY, VALUE[:, :1]), {}),
        ("V", (QUERY, KEY, VALUE[:, :, :2]), {}),
        ("attn_mask", (QUERY, KEY, VALUE, np.ones((3, 5), int)), {}),
        ("attn_mask", (QUERY, KEY, VALUE, np.ones((3, 6))), {}),
        ("attn_mask", (QUERY, KEY, VALUE, np.ones((2, 3, 5))), {}),
        ("past_key, past_value", (QUERY, KEY, VALUE, None, PAST[0]), {}),
        ("past_key", (QUERY, KEY, VALUE, None, PAST[0].astype("f"), PAST[1]), {}),
        ("past_key", (QUERY, KEY, VALUE, None, PAST[0][:, :1], PAST[1]), {}),
        ("past_value", (QUERY, KEY, VALUE, None, PAST[0], PAST[0]), {}),
        ("past_value", (QUERY, KEY, VALUE, None, PAST[0], PAST[1][:, :, :3]), {}),
        ("nonpad_kv_seqlen", (QUERY, KEY, VALUE, None, *PAST, np.array([5, 5])), {}),
        ("nonpad_kv_seqlen", (QUERY, KEY, VALUE, None, None, None, np.array([5])), {}),
        ("nonpad_kv_seqlen", (QUERY, KEY, VALUE, None, None, None, np.array([5, 6])), {}),
        ("nonpad_kv_seqlen", (QUERY, KEY, VALUE, None, None, None, np.array([5.0, 5.0])), {}),
        ("left_window_size", (QUERY, KEY, VALUE), {"left_window_size": -2}),
        ("right_window_size", (QUERY, KEY, VALUE), {"right_window_size": -2}),
        ("softcap", (QUERY, KEY, VALUE), {"softcap": -1.0}),
        ("softmax_precision", (QUERY, KEY, VALUE), {"softmax_precision": 7}),
        ("qk_matmul_output_mode", (QUERY, KEY, VALUE), {"qk_matmul_output_mode": 4}),
    ],
)
def test_bad_input_is_refused_by_name(name, inputs, attributes):
    with pytest.raises((ValueError, TypeError)) as refused:
        evaluate(*inputs, outputs=("Y", "", "", "qk_matmul_output"), **attributes)
    # The evaluator puts a TypeError of its own over ours.
    assert str(refused.value.__cause__ or refused.value).startswith(f"{name}: got")


def test_without_onnx_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.delitem(sys.modules, "foveate.onnx")
    with pytest.raises(ImportError, match=re.escape(install("onnx"))):
        importlib.import_module("foveate.onnx")


def test_examples_run():
    with np.printoptions(legacy=False):
        assert doctest.testmod(sys.modules["foveate.onnx"]).failed == 0

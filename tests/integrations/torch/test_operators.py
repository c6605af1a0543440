"""The registered operators: opcheck, torch.compile, torch.export, tensors without memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import foveate as fv
import numpy as np
import pytest
from strategies import normal, problem
from torch_checks import array, ft, leaf, tensor, torch

operators = torch.ops.foveate

# --- opcheck --------------------------------------------------------------------------------------


def operands(dtype: Any = np.float32, learn: bool = True, size: int = 4) -> list[Any]:
    make = leaf if learn else tensor
    return [make(x) for x in problem(3, 5, lead=(2,), size=size, value_size=6, dtype=dtype)]


# The arguments of the operators behind query, key and value, in their order.
AFTER: dict[str, Any] = {
    "scale": None, "family": "inner", "factors": None, "mask": None, "left": None, "right": None,
    "offset": None, "key_lengths": None, "query_segments": None, "key_segments": None,
    "low": None, "high": None, "centers": None, "half_width": None, "leave_one_out": False,
    "offset_at_end": False, "softcap": None, "sink": None, "sigma": None, "dropout": 0.0,
    "seed": None, "link": None, "link_parameter": 0.0, "slope": 0.0, "weighing": None,
    "one_order": False,
    "intervals": None,
    "blocks": None, "block_queries": None, "block_keys": None, "neighborhood": None,
    "edge_begins": None, "edge_keys": None, "edge_bias": None, "table": None,
    "query_places": None, "key_places": None,
}  # fmt: skip
SEED = torch.tensor([3, -4])
REACH = {
    "left": 2, "right": 1, "offset": torch.tensor([0, 1]), "key_lengths": torch.tensor([5, 0]),
    "query_segments": torch.tensor([0, 0, 1]), "key_segments": torch.tensor([0, 0, 1, 1, 1]),
    "low": torch.tensor([0, 2, -1]), "high": torch.tensor([4, 2, 9]), "softcap": 3.0,
}  # fmt: skip
STATED: dict[str, Any] = {
    "plain": lambda: {},
    "scale": lambda: {"scale": 0.3},
    "bool mask": lambda: {"mask": torch.ones(3, 5, dtype=torch.bool)},
    "float mask": lambda: {"mask": leaf(normal(1, (2, 1, 5), np.float32)), "offset_at_end": True},
    "reach, sink": lambda: {**REACH, "sink": leaf(normal(2, (2,), np.float64))},
    "tanh": lambda: {"scale": 1.0, "family": "tanh", "factors": leaf(normal(3, (4,), np.float32))},
    "leaky relu": lambda: {"scale": 1.0, "family": "leaky_relu", "slope": 0.2,
                           "factors": leaf(normal(3, (4,), np.float32))},
    "sigmoid": lambda: {"weighing": "sigmoid"},
    "entmax": lambda: {"weighing": "entmax15", "softcap": 3.0},
    "gaussian": lambda: {"scale": 1.0, "family": "distance", "factors": leaf(np.array(0.5))},
    "dropout": lambda: {"dropout": 0.3, "seed": SEED},
    "link": lambda: {"link": "power", "link_parameter": 2.0, "softcap": 3.0},
    "several intervals": lambda: {
        "low": torch.tensor([[0, 3], [1, 4], [2, 2]]), "intervals": 2,
        "high": torch.tensor([[1, 4], [2, 9], [1, 0]]),
        "mask": leaf(normal(1, (2, 1, 5), np.float32))},
    "blocks": lambda: {"blocks": torch.tensor([[[True, False]], [[True, True]]]),
                       "block_queries": 4, "block_keys": 3},
    "local": lambda: {"centers": leaf(np.array([0.5, 2.2, 4.1])), "half_width": 1.5,
                      "sigma": leaf(np.array(0.9))},
}  # fmt: skip


def opcheck(operator: Any, arguments: Any) -> None:
    """All of its tests: the schema, autograd, the fake kernel, AOTAutograd with any shapes."""
    found = torch.library.opcheck(operator.default, tuple(arguments))
    assert len(found) == 4
    assert set(found.values()) == {"SUCCESS"}


HEADS_OF_ROWS = [tensor(normal(n, (2, 5, 3, 4), np.float32)).transpose(1, 2) for n in range(3)]
PLAIN: dict[str, Any] = {
    "values of another size": (*operands(learn=False), 0.3),
    "heads of rows": (*HEADS_OF_ROWS, None, None, True),
    "half a head": (*HEADS_OF_ROWS[:2], HEADS_OF_ROWS[2][..., :3]),
    "shared keys": (HEADS_OF_ROWS[0], *(x[:, :1] for x in HEADS_OF_ROWS[1:])),
    "grouped heads": [tensor(normal(n, (2, 2, heads, rows, 4), np.float32))
                      for n, (heads, rows) in enumerate([(3, 1), (1, 5), (1, 5)])],
    "a mask of more axes": (*operands(learn=False), None, torch.ones(3, 2, 3, 5).tril()),
    "16 bits": (*operands(np.float16, learn=False), None, torch.ones(3, 5).tril() > 0),
}  # fmt: skip


@pytest.mark.parametrize("name", PLAIN)
def test_plain_is_attention_and_the_same_in_python(name):
    query, key, value, *rest = PLAIN[name]
    scale, mask, causal = (*rest, None, None, False)[:3] if len(rest) < 3 else rest
    ours = operators.attention_plain(query, key, value, scale, mask, causal)
    reach = {"mask": mask, "right": 0 if causal else None}
    (other,) = operators.attention_inference(query, key, value, scale, **reach)
    python = ft._soft._plain(query, key, value, scale, mask, causal)  # where torch is too old
    for same in (other, python):
        assert torch.equal(ours, same)
        assert ours.stride() == same.stride()


def test_plain_leaves_refusals_to_python():
    query, key, value = operands(learn=False)
    with pytest.raises(RuntimeError, match="key"):
        operators.attention_plain(query, key[..., :3], value)
    with pytest.raises(ValueError, match=r"^key: got"):
        ft.attention(query, key[..., :3], value)


# torch looks at the gradients of what may be no leaf
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
class TestOpcheck:
    @pytest.mark.parametrize("name", STATED)
    def test_attention(self, name):
        opcheck(operators.attention, (*operands(), *(AFTER | STATED[name]()).values()))

    def test_attention_of_16_bits(self):
        for dtype in (np.float16, fv._inputs.arrays.bfloat16("")):
            opcheck(operators.attention, operands(dtype))

    def test_attention_of_other_leading_axes(self):
        q, k, v = operands()
        opcheck(operators.attention, (q, k[:1], v[:1]))
        opcheck(operators.attention, (q[0], k, v[:1]))
        opcheck(operators.attention, (q[:, :0], k, v))

    def test_attention_of_views(self):
        heads = [leaf(normal(n, (2, 5, 3, 4), np.float32)).transpose(1, 2) for n in range(3)]
        opcheck(operators.attention, heads)
        opcheck(operators.attention, (*heads[:2], heads[2][..., :3]))

    @pytest.mark.parametrize("with_lse", [False, True])
    @pytest.mark.parametrize("name", ["plain", "scale", "reach, sink", "gaussian", "dropout"])
    def test_inference(self, name, with_lse):
        after = {x: y.detach() if isinstance(y, torch.Tensor) else y
                 for x, y in (AFTER | STATED[name]()).items()}  # fmt: skip
        opcheck(operators.attention_inference, (*operands(learn=False), *after.values(), with_lse))

    @pytest.mark.parametrize("name", PLAIN)
    def test_plain(self, name):
        opcheck(operators.attention_plain, PLAIN[name])

    @pytest.mark.parametrize("name", ["plain", "reach, sink", "tanh", "dropout", "local"])
    def test_attention_backward(self, name):
        after = {x: y.detach() if isinstance(y, torch.Tensor) else y
                 for x, y in (AFTER | STATED[name]()).items()}  # fmt: skip
        stated = (*operands(learn=False), *after.values())
        output, lse, _ = operators.attention(*stated)
        wanted = [True] * 3 + [after[x] is not None for x in ("factors", "mask", "sink")] + [
            name == "local"] * 2 + [False] * 2  # fmt: skip
        for d_lse in (None, torch.ones_like(lse[..., 0])):
            given = (torch.ones_like(output), d_lse, output, lse, wanted)
            opcheck(operators.attention_backward, (*given, *stated))

    @pytest.mark.parametrize("name", ["plain", "float mask", "reach, sink", "dropout", "local"])
    def test_tangents(self, name):
        after = {x: y.detach() if isinstance(y, torch.Tensor) else y
                 for x, y in (AFTER | STATED[name]()).items()}  # fmt: skip
        stated = (*operands(learn=False), *after.values())
        output, lse, _ = operators.attention(*stated)
        own = (*stated[:3], after["mask"], after["sink"])
        moving = [None if x is None else x.detach().cos() for x in own]
        t_output, t_lse, _ = operators.attention_jvp(output, lse, *moving, *stated)
        opcheck(operators.attention_jvp, (output, lse, *moving, *stated))
        wanted = [True] * 3 + [False] + [x is not None for x in own[3:]] + [False] * 4
        for d_lse in (None, torch.ones_like(lse[..., 0])):
            given = (torch.ones_like(output), d_lse, output, lse, t_output, t_lse)
            for moves in ((None, None), (t_output, d_lse)):
                opcheck(
                    operators.attention_backward_jvp, (*given, *moves, *moving, wanted, *stated)
                )

    def test_tangents_of_16_bits(self):
        stated = operands(np.float16, learn=False)
        output, lse, whole = operators.attention(*stated)
        moving = [*stated, None, None]
        t_output, t_lse, t_whole = operators.attention_jvp(whole, lse, *moving, *stated)
        assert (t_output.dtype, t_whole.dtype) == (torch.float16, torch.float32)
        opcheck(operators.attention_jvp, (whole, lse, *moving, *stated))
        wanted = [True] * 3 + [False] * 7
        given = (output, None, whole, lse, t_whole, t_lse, output, None)
        opcheck(operators.attention_backward_jvp, (*given, *moving, wanted, *stated))

    @pytest.mark.parametrize("name", ["plain", "bool mask", "float mask", "tanh"])
    def test_hard_attention(self, name):
        after = AFTER | STATED[name]()
        opcheck(operators.hard_attention, (*operands(), *after.values()))
        opcheck(
            operators.hard_attention,
            (*operands(), *(after | {"seed": SEED}).values(), 3, "sample"),
        )
        stated = (AFTER | {"seed": SEED}).values()
        opcheck(operators.hard_attention, (*operands(np.float16), *stated, 1, "distinct"))

    def test_hard_attention_backward(self):
        q, k, v = operands(learn=False)
        output, index, log_prob = operators.hard_attention(q, k, v)
        for given in ((output, log_prob), (output, None), (None, log_prob)):
            wanted = [True] * 3 + [False] * 4
            opcheck(operators.hard_attention_backward, (*given, index, wanted, q, k, v))

    @pytest.mark.parametrize("kernel", ["gaussian", "triangular"])
    def test_kernel_regression(self, kernel):
        x, x_train, y = (leaf(normal(n, (6,), np.float32)) for n in range(3))
        rest = (kernel, True, torch.ones(6), 0.0)
        opcheck(operators.kernel_regression, (x, x_train, y, leaf(np.array(0.5)), *rest))
        rows = [leaf(normal(n, (6, 2), np.float32)) for n in range(3)]
        opcheck(operators.kernel_regression, (*rows, leaf(np.array([0.5, 2.0])), *rest))
        plain = [z.detach() for z in (x, x_train, y)]
        given = (torch.ones(6), [True] * 4, *plain, torch.tensor(0.5), *rest)
        opcheck(operators.kernel_regression_backward, given)


def test_keywords_of_the_operator():
    q, k, v = operands(learn=False)
    whole = operators.attention(q, k, v, softcap=2.0, right=0, offset_at_end=True)
    wanted = ft.attention(q, k, v, softcap=2.0, causal=True, offset="end")
    np.testing.assert_array_equal(array(whole[0]), array(wanted))


def test_what_an_output_was_before_it_was_rounded_has_no_gradient():
    for dtype in (np.float16, np.float32):
        output, lse, before = operators.attention(*operands(dtype))
        assert [x.requires_grad for x in (output, lse, before)] == [True, True, False]


# --- tensors without memory -----------------------------------------------------------------------


def test_without_memory():
    """What comes out of tensors of the device "meta"; several devices are none."""
    q, k, v = (x.to("meta") for x in operands(learn=False))
    output, lse, _ = operators.attention(q, k, v)
    assert (output.device.type, output.shape, lse.shape) == ("meta", (2, 3, 6), (2, 3, 3))
    assert operators.attention_inference(q, k, v)[0].is_meta
    assert all(x.is_meta for x in operators.hard_attention(q, k, v))
    real = operands(learn=False)
    with pytest.raises(TypeError, match="on each of"):
        operators.attention(*real[:2], v)
    with pytest.raises(TypeError, match="on each of"):
        operators.attention_inference(*real, mask=torch.zeros(3, 5, device="meta"))


def test_shapes_that_do_not_fit_without_memory():
    q, k, v = (x.to("meta") for x in operands(learn=False))
    with pytest.raises(ValueError, match="leading axes that broadcast together"):
        operators.attention(q, torch.cat([k, k[:1]]), v)


# --- torch.compile --------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    """No test leaves compiled code to the next."""
    yield
    torch.compiler.reset()


def both(function: Any, inputs: Any, **options: Any) -> None:
    """Hold a function that is compiled as a whole against itself: its answers and gradients."""
    compiled = torch.compile(function, fullgraph=True, **options)
    found = []
    for one in (function, compiled):
        own = [x.detach().clone().requires_grad_(x.requires_grad) for x in inputs]
        torch.manual_seed(1)
        answer = one(*own)
        answers = answer if isinstance(answer, tuple) else (answer,)
        learn = [x for x in answers if x.requires_grad]
        d = [tensor(normal(n, x.shape, np.float32)).to(x.dtype) for n, x in enumerate(learn)]
        grads = ()
        if learn:
            of = [x for x in own if x.requires_grad]
            grads = torch.autograd.grad(learn, of, d, allow_unused=True)
        found.append([x for x in (*answers, *grads) if x is not None])
    assert len(found[0]) == len(found[1])
    for x, y in zip(*found, strict=True):
        assert x.stride() == y.stride() or x.numel() == 0
        # the projections by another library, whose sums are of a few terms
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-6)


def learned(*arrays: Any) -> list[Any]:
    return [leaf(np.asarray(x, np.float32)) for x in arrays]


QKV = problem(3, 5, lead=(2,), size=4, value_size=6)
W, V, B = normal(7, (4, 6), np.float32) / 2, normal(8, (6,), np.float32), np.float32(0.3)
FV = fv.Additive(V, W, W)  # made before: only its use is compiled
BILINEAR, GAUSSIAN = fv.Bilinear(normal(9, (4, 4), np.float32)), fv.Gaussian(0.5)
HEADS = [normal(n, (2, heads, 5, 4), np.float32) for n, heads in enumerate((4, 2, 2))]
SCORES: dict[str, Any] = {
    "additive": (lambda q, k, v, h, w, b: ft.attention(q, k, v, score=ft.Additive(h, w, w, b)),
                 (V, W, V)),
    "identity": (lambda q, k, v, h, w: ft.attention(
        q, k, v, score=ft.Additive(h, w, w, activation="identity"), softcap=2.0), (V, W)),
    "concat": (lambda q, k, v, h, w: ft.attention(
        q, k, v, score=ft.Concat(h, torch.cat([w, w]), None, "relu")), (V, W)),
    "bilinear": (lambda q, k, v, w: ft.attention(q, k, v, score=ft.Bilinear(w @ w.T)), (W,)),
    "cosine": (lambda q, k, v, s: ft.attention(q, k, v, score=ft.Cosine(s)), (B,)),
    "location": (lambda q, k, v, w, b: ft.attention(q, k, v, score=ft.Location(w[:, 0], b)),
                 (W, B)),
    "gaussian": (lambda q, k, v, w: ft.attention(q, k, v, score=ft.Gaussian(w[:, 0])), (W,)),
    "a score with arrays": (lambda q, k, v: ft.attention(q, k, v, score=FV), ()),
    "another with arrays": (lambda q, k, v: ft.attention(q, k, v, score=BILINEAR), ()),
    "a score with a number": (lambda q, k, v: ft.attention(q, k, v, score=GAUSSIAN), ()),
}  # fmt: skip
USES: dict[str, Any] = {
    "plain": (lambda q, k, v: ft.attention(q, k, v), ()),
    "reach": (lambda q, k, v: ft.attention(
        q, k, v, causal=True, offset="end", window=(3, 0), key_lengths=torch.tensor([5, 4]),
        segments=(torch.tensor([0, 0, 1]), torch.tensor([0, 0, 0, 1, 1])), softcap=2.0, sink=0.5,
        return_lse=True), ()),
    "numbers": (lambda q, k, v: ft.attention(q, k, v, causal=True, offset=1, key_lengths=4), ()),
    "mask, sink": (lambda q, k, v, m, s: ft.attention(q, k, v, mask=m, sink=s),
                   (normal(3, (3, 5), np.float32), normal(4, (2,), np.float32))),
    "dropout": (lambda q, k, v: ft.attention(q, k, v, dropout=0.5), ()),
    "hard": (lambda q, k, v: tuple(ft.hard_attention(q, k, v, size=3, causal=True, offset=1)), ()),
    "argmax": (lambda q, k, v: tuple(ft.hard_attention(q, k, v, select="argmax")), ()),
    "top": (lambda q, k, v: tuple(ft.hard_attention(q, k, v, select="top", size=3)), ()),
    "local-m": (lambda q, k, v: ft.local_attention(q, k, v, half_width=1.5, sigma=2.0), ()),
    "local-p": (lambda q, k, v, w, h: ft.local_attention(
        q, k, v, half_width=1.5, centers=ft.predict_centers(q, w, h, 5)), (W, V)),
    "regression": (lambda q, k, v, w: ft.kernel_regression(
        q[0], k[0], v[0], w=w.abs(), kernel="triangular", fill_value=0.0), (B,)),
    "no gradient": (torch.no_grad()(lambda q, k, v: ft.attention(q, k, v)), ()),
}  # fmt: skip


# torch's own
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch", "ignore::FutureWarning:torch")
class TestCompile:
    @pytest.mark.parametrize("name", [*SCORES, *USES])
    def test_whole(self, name):
        function, more = (SCORES | USES)[name]
        both(function, learned(*QKV, *more), backend="aot_eager")

    @pytest.mark.parametrize("name", ["additive", "reach", "dropout"])
    def test_by_the_inductor(self, name):
        function, more = (SCORES | USES)[name]
        both(function, learned(*QKV, *more))

    @pytest.mark.parametrize("mask", [False, True], ids=["causal", "mask"])
    def test_signature_of_torch(self, mask):
        """Heads that were split off rows, and joined again: the strides are those of eager."""

        def function(query: Any, key: Any, value: Any) -> Any:
            heads = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (query, key, value)]
            keywords = {"attn_mask": torch.ones(4, 5, 5).bool()} if mask else {"is_causal": True}
            output = ft.scaled_dot_product_attention(*heads, enable_gqa=True, scale=0.3, **keywords)
            return output.transpose(1, 2).flatten(-2)

        both(function, learned(*HEADS), backend="aot_eager")

    @pytest.mark.parametrize("dtype", [np.float16, np.float64])
    def test_other_types(self, dtype):
        inputs = [leaf(x.astype(dtype)) for x in QKV]
        both(lambda *x: ft.attention(*x, return_lse=True), inputs, backend="aot_eager")

    def test_autocast(self):
        def function(query: Any, key: Any, value: Any, w: Any, h: Any) -> Any:
            with torch.autocast("cpu"):
                score = ft.Additive(h, w, w, activation="identity")
                return ft.attention(query, key, value, score=score, softcap=2.0)

        both(function, learned(*QKV, W, V), backend="aot_eager")

    def test_any_lengths(self):
        """Compiled once for all of them."""
        graphs = []

        def eager(graph: Any, _: Any) -> Any:
            graphs.append(graph)
            return graph.forward

        def function(query: Any, key: Any, value: Any) -> Any:
            return ft.attention(query, key, value[..., :3], causal=True, offset="end")

        compiled = torch.compile(function, fullgraph=True, backend=eager)
        for queries, keys in ((3, 5), (4, 9), (7, 6), (20, 33)):
            inputs = learned(*problem(queries, keys, lead=(2,), size=4, value_size=6))
            for x in inputs:
                torch._dynamo.mark_dynamic(x, 1)
            found, wanted = compiled(*inputs), function(*inputs)
            assert torch.equal(found, wanted)
            d_output = torch.randn(found.shape)
            for x, y in zip(*(torch.autograd.grad(z, inputs, d_output) for z in (found, wanted)),
                            strict=True):  # fmt: skip
                assert torch.equal(x, y)
        assert len(graphs) == 1

    def test_any_numbers(self):
        """Also of heads and batches, and numbers of a reach."""

        def function(query: Any, key: Any, value: Any, n: int) -> Any:
            output = ft.scaled_dot_product_attention(query, key, value, enable_gqa=True)
            return output + ft.attention(query[:, :2], key, value, window=n, offset=n)[:, :1]

        compiled = torch.compile(function, fullgraph=True, backend="aot_eager", dynamic=True)
        for n in (2, 4):
            inputs = learned(*(x[:, :, : n + 1] for x in HEADS))
            assert torch.equal(compiled(*inputs, n), function(*inputs, n))

    def test_draws_differ_from_call_to_call(self):
        compiled = torch.compile(
            lambda *x: ft.hard_attention(*x, size=50).index, fullgraph=True, backend="aot_eager"
        )
        inputs = operands(learn=False)
        torch.manual_seed(2)
        first, second = compiled(*inputs), compiled(*inputs)
        assert not torch.equal(first, second)
        torch.manual_seed(2)
        assert torch.equal(compiled(*inputs), first)

    def test_modules(self):
        module = ft.AdditiveAttention(4, 4, 6)
        both(lambda *x: module(*x, key_lengths=torch.tensor([5, 2])), learned(*QKV))
        local = ft.LocalAttention(1.5, 4)
        both(lambda *x: local(*x, key_lengths=torch.tensor([5, 2])), learned(*QKV),
             backend="aot_eager")  # fmt: skip

    @pytest.mark.parametrize("name", ["grad", "vmap", "vmap of grad", "a triangle", "all dropped"])
    def test_transforms_and_what_torch_takes(self, name):
        k, v = (tensor(x) for x in QKV[1:])
        bias = torch.nn.attention.bias.causal_lower_right(3, 5)
        attend = ft.scaled_dot_product_attention
        function = {
            "grad": torch.func.grad(lambda q: ft.attention(q, k, v).square().sum()),
            "vmap": torch.vmap(lambda q: ft.attention(q, k, v)),
            "vmap of grad": torch.vmap(
                torch.func.grad(lambda q: ft.attention(q, k, v).square().sum())),
            "a triangle": lambda q: attend(q, k, v, bias),
            "all dropped": lambda q: attend(q, k, v, dropout_p=1.0),
        }[name]  # fmt: skip
        both(function, [tensor(QKV[0])], backend="aot_eager")

    # torch breaks the graph there, and looks into the kernels
    @pytest.mark.filterwarnings("ignore:Dynamo does not know how to trace")
    @pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
    def test_forward_mode(self):
        q, k, v = map(tensor, QKV)
        for score, transform in (
            ("scaled_dot", lambda f, q: torch.func.jvp(f, (q,), (q.cos(),))),
            ("cosine", lambda f, q: torch.func.hessian(lambda q: f(q).square().sum())(q)),
        ):

            def function(q: Any, score: str = score, transform: Any = transform) -> Any:
                return transform(lambda q: ft.attention(q, k, v, score=score), q)

            compiled = torch.compile(function, backend="aot_eager")
            torch.testing.assert_close(compiled(q), function(q), rtol=1e-5, atol=1e-6)
        compiled = torch.compile(
            lambda q: torch.func.jvp(
                lambda q: ft.attention(q, k, v, score=ft.Additive(tensor(V), tensor(W), tensor(W))),
                (q,), (q,)),
            backend="aot_eager",
        )  # fmt: skip
        with pytest.raises(NotImplementedError, match=r"foveate.torch.attention: .*forward mode"):
            compiled(q)

    def test_derivatives_of_what_was_exported_without_them(self):
        class Model(torch.nn.Module):
            def forward(self, query: Any, key: Any, value: Any) -> Any:
                return ft.attention(query, key, value)

        program = torch.export.export(Model(), tuple(map(tensor, QKV))).module()
        found, wanted = (
            torch.autograd.grad(f(*own).square().sum(), own)
            for f, own in ((program, learned(*QKV)), (Model(), learned(*QKV)))
        )
        for x, y in zip(found, wanted, strict=True):
            assert torch.equal(x, y)
        moving = tuple(map(tensor, QKV)), tuple(tensor(x[::-1].copy()) for x in QKV)
        for x, y in zip(torch.func.jvp(program, *moving), torch.func.jvp(Model(), *moving),
                        strict=True):  # fmt: skip
            torch.testing.assert_close(x, y)

    def test_export(self):
        class Model(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.attend = ft.AdditiveAttention(4, 4, 6)

            def forward(self, query: Any, key: Any, value: Any) -> Any:
                attended = self.attend(query, key, value, causal=True, offset="end")
                return attended, ft.hard_attention(query, key, value, select="argmax").output

        model = Model()
        queries, keys = torch.export.Dim("queries"), torch.export.Dim("keys")
        program = torch.export.export(
            model, tuple(map(tensor, QKV)), dynamic_shapes=({1: queries}, {1: keys}, {1: keys})
        )
        others = list(map(tensor, problem(7, 9, lead=(2,), size=4, value_size=6)))
        for x, y in zip(program.module()(*others), model(*others), strict=True):
            torch.testing.assert_close(x, y)
        names = {str(node.target) for node in program.graph.nodes}
        assert {x for x in names if "foveate" in x} == {
            "foveate.attention.default", "foveate.hard_attention.default"
        }  # fmt: skip

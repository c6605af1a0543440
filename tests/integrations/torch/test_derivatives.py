"""Forward mode and second order: torch's own derivatives of the formulas; what is refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import foveate as fv
import numpy as np
import pytest
from derivative_modes import (
    FORWARD,
    SECOND,
    close,
    duals,
    everyone,
    forward_ad,
    functional_call,
    grad,
    hessian,
    jacfwd,
    jacrev,
    jvp,
    loss,
    vmap,
)
from gradient_checks import EVERY, REACHES, reach_of
from strategies import normal, problem
from torch_checks import as_torch, ft, leaf, tensor, tensors_of, torch, with_tensors

# torch's own, of forward mode
pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated"),
    pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node"),
]

F64 = np.float64
Q, K, V = (tensor(normal(n, (2, *shape), F64)) for n, shape in enumerate([(3, 2), (4, 2), (4, 3)]))
MASK, SINK = tensor(normal(3, (3, 4), F64)), tensor(normal(4, (2,), F64))
W, H = tensor(normal(5, (2, 3), F64) / 2), tensor(normal(6, (3,), F64))
CENTERS, WIDTHS = tensor(np.array([0.5, 2.2, 3.1])), tensor(np.array([0.4, 1.2]))
ONE = tensor(np.array(0.7))

# --- the formulas ---------------------------------------------------------------------------------


def softmax(s: Any, v: Any, sink: Any = None, seen: Any = True, times: Any = 1.0) -> Any:
    s = torch.where(torch.as_tensor(seen), s, -torch.inf)
    rows = s if sink is None else torch.cat([s, sink[:, None, None].expand(2, 3, 1)], -1)
    lse = rows.exp().sum(-1).log()  # torch's logsumexp has no gradients of tangents
    return (s - lse[..., None]).exp() * times @ v, lse


def dot(q: Any, k: Any) -> Any:
    return q @ k.mT / 2**0.5


def unit(x: Any) -> Any:
    return x / x.norm(dim=-1, keepdim=True)


def far(q: Any, k: Any, w: Any) -> Any:
    return -(w * (q[..., :, None, :] - k[..., None, :, :])).square().sum(-1) / 2


def local(q: Any, k: Any, v: Any) -> Any:
    away = torch.arange(4) - CENTERS[:, None]
    near = torch.exp(-away.square() / (2 * 0.75**2))
    return softmax(dot(q, k), v, seen=away.abs() <= 1.5, times=near)[0]


CAUSAL = torch.arange(4) <= torch.arange(3)[:, None] + 1

# Functions of tensors, the formulas, and the tensors.
SMOOTH: dict[str, Any] = {
    "attention": (ft.attention, lambda q, k, v: softmax(dot(q, k), v)[0], (Q, K, V)),
    "lse": (lambda *x: ft.attention(*x, return_lse=True),
            lambda q, k, v: softmax(dot(q, k), v), (Q, K, V)),
    "mask and sink": (lambda q, k, v, m, s: ft.attention(q, k, v, mask=m, sink=s),
                      lambda q, k, v, m, s: softmax(dot(q, k) + m, v, s)[0], (Q, K, V, MASK, SINK)),
    "causal, softcap": (
        lambda *x: ft.attention(*x, causal=True, offset="end", softcap=2.0),
        lambda q, k, v: softmax(2 * torch.tanh(dot(q, k) / 2), v, seen=CAUSAL)[0], (Q, K, V)),
    "bilinear": (lambda q, k, v, w: ft.attention(q, k, v, score=ft.Bilinear(w @ w.T)),
                 lambda q, k, v, w: softmax(q @ (w @ w.T) @ k.mT, v)[0], (Q, K, V, W)),
    "cosine": (lambda q, k, v, s: ft.attention(q, k, v, score=ft.Cosine(s)),
               lambda q, k, v, s: softmax(s * unit(q) @ unit(k).mT, v)[0], (Q, K, V, ONE)),
    "polynomial": (lambda q, k, v, c, s: ft.attention(q, k, v, score=ft.Polynomial(3, c, s[0])),
                   lambda q, k, v, c, s: softmax((s[0] * q @ k.mT + c) ** 3, v)[0],
                   (Q / 2, K / 2, V, ONE, WIDTHS)),
    "location": (
        lambda k, v, w, b: ft.attention(Q, k, v, score=ft.Location(w[:, 0], b)),
        lambda k, v, w, b: softmax(torch.tanh(k @ w[:, 0] + b)[:, None].expand(2, 3, 4), v)[0],
        (K, V, W, ONE)),
    "identity": (
        lambda q, k, v, h, w: ft.attention(
            q, k, v, score=ft.Additive(h, w, w, activation="identity")),
        lambda q, k, v, h, w: softmax((q @ w @ h)[..., None] + (k @ w @ h)[:, None], v)[0],
        (Q, K, V, H, W)),
    "gaussian": (lambda q, k, v, w: ft.attention(q, k, v, score=ft.Gaussian(w)),
                 lambda q, k, v, w: softmax(far(q, k, w), v)[0], (Q, K, V, WIDTHS)),
    "gaussian of one w": (lambda q, k, v, w: ft.attention(q, k, v, score=ft.Gaussian(w)),
                          lambda q, k, v, w: softmax(far(q, k, w), v)[0], (Q, K, V, ONE)),
    "heads": (
        lambda q, k, v: ft.scaled_dot_product_attention(
            torch.cat([q, q]), k, v, is_causal=True, enable_gqa=True),
        lambda q, k, v: softmax(
            dot(torch.cat([q, q]), k.repeat_interleave(2, 0)), v.repeat_interleave(2, 0),
            seen=torch.ones(3, 4).tril() > 0)[0], (Q, K, V)),
    "local": (lambda *x: ft.local_attention(*x, half_width=1.5, centers=CENTERS), local, (Q, K, V)),
    "regression": (lambda q, k, v, w: ft.kernel_regression(q[0], k[0], v[0], w=w),
                   lambda q, k, v, w: softmax(far(q, k, w), v)[0][0], (Q, K, V, WIDTHS)),
}  # fmt: skip


OFTEN = ("jvp of each", "vmap of jvp", "hessian", "jacrev of jacrev")
LONG = ("jacrev of jacfwd", "linearize")
WHOLE = ("attention", "mask and sink", "gaussian", "regression")


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        (x, y)
        for x in SMOOTH
        for y in (FORWARD | SECOND)
        if y in OFTEN or (x in WHOLE and (x == "attention" or y not in LONG))
    ],
)
def test_as_of_the_formula(name, mode):
    function, formula, inputs = SMOOTH[name]
    derive = (FORWARD | SECOND)[mode]
    close(derive(function, inputs), derive(formula, inputs))


def test_gradients_of_each_sample():
    """As differential privacy has them, of a module, and their tangents."""
    module = ft.BilinearAttention(2, 2).double()
    parameters = {x: y.detach() for x, y in module.named_parameters()}

    def one(p: Any, *x: Any) -> Any:
        return functional_call(module, p, x).square().sum()

    def formula(p: Any, q: Any, k: Any, v: Any) -> Any:
        return ((q @ p["w"] @ k.mT).softmax(-1) @ v).square().sum()

    for function in (grad, lambda f: jacfwd(grad(f))):
        found, wanted = (vmap(function(f), (None, 0, 0, 0))(parameters, Q, K, V)
                         for f in (one, formula))  # fmt: skip
        close(torch.utils._pytree.tree_leaves(found), torch.utils._pytree.tree_leaves(wanted))


def test_no_loop(monkeypatch):
    """One call of a kernel for all samples, of tangents and of gradients."""
    counts = dict.fromkeys(("attention_tangent", "attention_backward", "attention_backward_jvp"), 0)

    def counting(name: str, kernel: Any) -> Any:
        def count(*arguments: Any, **keywords: Any) -> Any:
            counts[name] += 1
            return kernel(*arguments, **keywords)

        return count

    for name in counts:
        monkeypatch.setattr(fv._core, name, counting(name, getattr(fv._core, name)))
    vmap(lambda t: jvp(ft.attention, (Q, K, V), (t, K, V)))(torch.stack([Q, 2 * Q]))
    vmap(lambda t: jvp(lambda q: ft.attention(q, K, V), (Q,), (t,)))(torch.stack([Q, 2 * Q]))
    assert list(counts.values()) == [2, 0, 0]
    vmap(grad(lambda *x: ft.attention(*x).sum()))(Q, K, V)
    assert list(counts.values()) == [2, 1, 0]
    hessian(lambda q: ft.attention(q, K, V).sum())(Q)
    assert counts["attention_backward_jvp"] == 1


# --- differences: every score, and every reach ----------------------------------------------------


def check(function: Any, inputs: Any, random: bool = False) -> None:
    """By differences: tangents, and gradients and tangents of gradients."""
    step: dict[str, Any] = {"eps": 1e-6, "rtol": 1e-5, "atol": 1e-6, "fast_mode": True}
    assert torch.autograd.gradcheck(
        function, inputs, **step, check_forward_ad=True, check_batched_grad=True,
        check_batched_forward_grad=not random,
    )  # fmt: skip
    assert torch.autograd.gradgradcheck(
        function, inputs, **step, check_fwd_over_rev=True, check_batched_grad=True
    )


HIDDEN = ("additive", "relu", "leaky_relu", "projected", "concat")
SCORES = {x: y for x, y in EVERY.items() if x not in HIDDEN}
SCORES["polynomial"] = fv.Polynomial(2, 0.3)


def checked(score: Any, reach: str) -> None:
    """Of query, key, value, a float mask, a sink, and the parameters of the score."""
    arrays = problem(4, 5, lead=(2,), size=3, value_size=2, dtype=F64)
    keywords = as_torch(reach_of(reach, (2,), 4, 5))
    if keywords.pop("rng", None) is not None:
        keywords["generator"] = torch.Generator()
    learn = {x: y for x, y in keywords.items() if x in ("mask", "sink") and torch.is_tensor(y)}
    learn = {x: y for x, y in learn.items() if y.dtype is torch.float64}
    if "mask" in learn:  # without -inf, beside which there is no difference
        learn["mask"] = tensor(normal(8, learn["mask"].shape, F64))
    score = as_torch(score, leaf)
    inputs = [leaf(x) for x in (*arrays, *(y.numpy() for y in learn.values()))]
    if isinstance(score, ft.Location):
        inputs[0].requires_grad_(False)  # the keys alone count

    def function(query: Any, key: Any, value: Any, *others: Any) -> Any:
        own = keywords | dict(zip(learn, others, strict=False))
        if "generator" in own:
            own["generator"].manual_seed(4)
        one = with_tensors(score, others[len(learn) :])
        output, lse = ft.attention(query, key, value, score=one, return_lse=True, **own)
        return output, torch.where(lse.isfinite(), lse, 0)

    check(function, (*inputs, *tensors_of(score)), "generator" in keywords)


@pytest.mark.parametrize("name", SCORES)
def test_scores(name):
    checked(SCORES[name], "all of it")


@pytest.mark.parametrize(
    ("name", "reach"),
    [
        *(("scaled_dot", x) for x in REACHES if x != "all of it"),
        *(("gaussian of w", x) for x in ("intervals, mask", "dropout", "sink")),
    ],
)
def test_reaches(name, reach):
    checked(SCORES[name], reach)


@pytest.mark.parametrize("name", ["scaled_dot", "gaussian of w"])
@pytest.mark.parametrize("sigma", [None, 0.9])
def test_local(name, sigma):
    arrays = problem(3, 9, lead=(2,), size=3, value_size=2, dtype=F64)
    centers = tensor(np.array([[1.2, 4.7, 7.9], [2.3, 2.4, 5.1]]))
    score = as_torch(SCORES[name], leaf)
    check(
        lambda q, k, v, *more: ft.local_attention(
            q, k, v, half_width=2.05, centers=centers, sigma=sigma, softcap=3.0,
            score=with_tensors(score, more), key_lengths=torch.tensor([9, 7]),
        ), (*map(leaf, arrays), *tensors_of(score)),
    )  # fmt: skip


@pytest.mark.parametrize("leave_one_out", [False, True])
@pytest.mark.parametrize("sizes", ["numbers", "rows", "rows and one w"])
def test_kernel_regression(sizes, leave_one_out):
    rng = np.random.default_rng(2)
    rows = () if sizes == "numbers" else (2,)
    x, x_train = rng.uniform(0, 2, (6, *rows)), rng.uniform(0, 2, (6, *rows))
    w = np.array(0.7) if sizes != "rows" else np.array([0.5, 0.9])
    sample = tensor(np.array([0.3, 0.0, 1.0, 0.7, 0.2, 0.9]))
    check(
        lambda x, x_train, y, w: ft.kernel_regression(
            x, x_train, y, w=w, leave_one_out=leave_one_out, sample_weight=sample),
        [leaf(a) for a in (x, x_train, rng.standard_normal((6, *rows)), w)],
    )  # fmt: skip


# --- edges ----------------------------------------------------------------------------------------


def test_where_a_gradient_is_zero():
    """A gradient of 0 has a derivative: that of the loss's own curvature."""
    for name in ("attention", "bilinear", "cosine", "polynomial", "location", "gaussian"):
        function, formula, inputs = SMOOTH[name]
        goal = function(*inputs).detach()

        def square(f: Any, goal: Any = goal) -> Any:
            return lambda *x: (f(*x) - goal).square().sum()

        for derive in (hessian, lambda f, n: jacrev(jacrev(f, n), n)):
            close(*(derive(square(f), everyone(inputs))(*inputs) for f in (function, formula)))


def test_zero_rows_of_a_cosine():
    """Their cosine is 0 with everything, and so are all derivatives."""
    q = torch.cat([Q, 0 * Q[:, :1]], 1)
    (_, tangent) = jvp(lambda q: ft.attention(q, K, V, score="cosine"), (q,), (torch.ones_like(q),))
    assert (tangent[:, -1] == 0).all()
    for derive in (hessian, lambda f: jacrev(jacrev(f))):
        found = derive(lambda q: ft.attention(q, K, V, score="cosine").square().sum())(q)
        assert found.isfinite().all()
        assert (found[:, -1] == 0).all()


@pytest.mark.parametrize("name", ["scaled_dot", "cosine", "bilinear", "gaussian of w"])
def test_keys_that_are_not_seen(name):
    """Whatever they hold changes nothing, and what they are differentiated by is 0."""
    score = as_torch(SCORES[name])
    q, k, v = (tensor(x) for x in problem(4, 5, lead=(2,), size=3, value_size=2, dtype=F64))
    other = [x.clone() for x in (k, v)]
    for x in other:
        x[:, 3:] = torch.nan
    lengths = torch.tensor([3, 2])

    def attend(q: Any, k: Any, v: Any) -> Any:
        return ft.attention(q, k, v, score=score, key_lengths=lengths)

    found, wanted = [], []
    for keys, made in (((k, v), wanted), (other, found)):
        made.append(jvp(lambda q, x=keys: attend(q, *x), (q,), (q.cos(),))[1])
        made += hessian(lambda *x: attend(*x).sin().sum(), (0, 1, 2))(q, *keys)[0]
        second = jacrev(jacrev(lambda *x: attend(*x).sin().sum(), (0, 1, 2)), (0, 1, 2))
        made += second(q, *keys)[0]
    close(found, wanted)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_other_dtypes(dtype):
    """To the rounding of the answers, and of the weights in a product."""
    q, k, v = (x.to(dtype) for x in (Q, K, V))
    t = tuple(x.cos().to(dtype) for x in (q, k, v))
    wide = [x.double() for x in (q, k, v)]
    found = jvp(ft.attention, (q, k, v), t)
    wanted = jvp(ft.attention, tuple(wide), tuple(x.double() for x in t))
    d = torch.arange(1.0, 4.0, dtype=torch.float64)
    for one in (found, grad_of_grad(q, k, v, d)):
        assert all(x.dtype is dtype for x in one)
    near = 8 * torch.finfo(dtype).eps
    for x, y in zip(found, wanted, strict=True):
        torch.testing.assert_close(x.double(), y, rtol=near, atol=near)
    for x, y in zip(grad_of_grad(q, k, v, d), grad_of_grad(*wide, d), strict=True):
        torch.testing.assert_close(x.double(), y, rtol=near, atol=8 * near)


def grad_of_grad(q: Any, k: Any, v: Any, d: Any) -> Any:
    own = [x.detach().clone().requires_grad_() for x in (q, k, v)]
    first = torch.autograd.grad((ft.attention(*own) * d.to(q.dtype)).sum(), own, create_graph=True)
    return torch.autograd.grad(sum(x.square().sum() for x in first), own)


def test_what_is_dropped_is_dropped_in_every_derivative():
    q, k = (torch.randn(1, 60, 4, dtype=torch.float64) for _ in range(2))
    v, t = (torch.randn(1, 60, 3, dtype=torch.float64) for _ in range(2))

    def attend(v: Any) -> Any:
        torch.manual_seed(3)
        return ft.attention(q, k, v, dropout=0.5)

    output, tangent = jvp(attend, (v,), (t,))
    assert torch.equal(output, attend(v))
    close(tangent, attend(t))  # it is linear in the values


def test_empty_problems():
    for queries, keys, size in ((0, 4, 2), (3, 0, 2), (3, 4, 0)):
        x = (torch.ones(2, queries, size), torch.ones(2, keys, size), torch.ones(2, keys, 3))
        output, tangent = jvp(ft.attention, x, x)
        assert tangent.shape == output.shape == (2, queries, 3)
        own = [y.clone().requires_grad_() for y in x]
        first = torch.autograd.grad(ft.attention(*own).square().sum(), own, create_graph=True)
        second = torch.autograd.grad(sum(y.square().sum() for y in first), own)
        assert [y.shape for y in second] == [y.shape for y in x]


def test_other_tensors_may_have_tangents():
    wanted = ft.attention(Q, K, V)
    with forward_ad.dual_level():
        forward_ad.make_dual(Q, Q)
        assert torch.equal(ft.attention(Q, K, V), wanted)
        found = ft.local_attention(Q, K, V, half_width=9, sigma=None)
        torch.testing.assert_close(found, wanted)


def test_predicted_centers_have_tangents():
    """They are operations of torch, with formulas."""
    inputs = (Q, W, H)
    for own in (inputs, [x.clone().requires_grad_() for x in inputs]):
        found = jacfwd(lambda *x: ft.predict_centers(*x, 5), (0, 1, 2))(*own)
        wanted = jacrev(lambda *x: ft.predict_centers(*x, 5), (0, 1, 2))(*inputs)
        close(found, wanted)


# --- what is refused ------------------------------------------------------------------------------


@dataclasses.dataclass
class Twice(fv.scores.Score):
    def reduce(self, query: Any, key: Any) -> Any:
        return fv.scores.Reduced(2 * query, key, 1.0, undo=lambda q, k: (2 * q, k, None))


# The first name of each is the function that a refusal of forward mode names.
REFUSED: dict[str, Any] = {
    "attention, additive": (lambda q, k, v, h, w: ft.attention(q, k, v, score=ft.Additive(h, w, w)),
                            (Q, K, V, H, W)),
    "attention, relu": (
        lambda q, k, v, h, w: ft.attention(q, k, v, score=ft.Additive(h, w, w, activation="relu")),
        (Q, K, V, H, W)),
    "attention, concat": (lambda q, k, v, h, w: ft.attention(
        q, k, v, score=ft.Concat(h, torch.cat([w, w]))), (Q, K, V, H, W)),
    "attention, one's own": (lambda *x: ft.attention(*x, score=Twice()), (Q, K, V)),
    "local_attention, centers": (lambda q, k, v, c: ft.local_attention(
        q, k, v, half_width=1.5, centers=c), (Q, K, V, CENTERS)),
    "local_attention, sigma": (lambda q, k, v, s: ft.local_attention(
        q, k, v, half_width=1.5, centers=CENTERS, sigma=s), (Q, K, V, ONE)),
    "hard_attention": (lambda *x: ft.hard_attention(*x, select="argmax").output, (Q, K, V)),
    "hard_attention, log_prob": (lambda q, k, v, m: ft.hard_attention(
        q, k, v, select="argmax", mask=m).log_prob, (Q, K, V, MASK)),
    "hard_attention, gaussian": (lambda q, k, v, w: ft.hard_attention(
        q, k, v, select="argmax", score=ft.Gaussian(w)).log_prob, (Q, K, V, WIDTHS)),
    "kernel_regression, triangular": (lambda q, k, v, w: ft.kernel_regression(
        q[0], k[0], v[0], w=w, kernel="triangular"), (Q, K, V, WIDTHS)),
}  # fmt: skip


@pytest.mark.parametrize("mode", [x for x in FORWARD if x != "linearize"] + ["hessian"])
@pytest.mark.parametrize("name", REFUSED)
def test_forward_mode_is_refused(name, mode):
    function, inputs = REFUSED[name]
    with pytest.raises(
        NotImplementedError, match=rf"foveate.torch.{name.split(',')[0]}: .*forward mode"
    ):
        (FORWARD | SECOND)[mode](function, inputs)


@pytest.mark.parametrize("mode", ["jacrev of jacrev", "grad of vmap of grad", "autograd"])
@pytest.mark.parametrize("name", REFUSED)
def test_second_order_is_refused(name, mode):
    function, inputs = REFUSED[name]
    own = name.split(",")[0].replace("local_attention", "attention")
    with pytest.raises(NotImplementedError, match=f"foveate.torch.{own}: .*second order"):
        SECOND[mode](function, inputs)


def test_a_second_tangent_and_a_third_order_are_refused():
    f = loss(lambda q: ft.attention(q, K, V))
    with pytest.raises(NotImplementedError, match=r"foveate.torch.attention: .*second order"):
        jacfwd(jacfwd(f))(Q)
    with pytest.raises(NotImplementedError, match=r"foveate.torch.attention: .*second order"):
        jvp(lambda q: jvp(f, (q,), (q,))[1], (Q,), (Q,))
    for third in (lambda f: grad(lambda q: grad(lambda q: grad(f)(q).sum())(q).sum()),
                  lambda f: jacfwd(hessian(f)), lambda f: jacrev(jacfwd(jacrev(f)))):  # fmt: skip
        with pytest.raises(NotImplementedError, match=r"attention: .*(third|mode).* order"):
            third(f)(Q)
    # along its tangents T is linear
    for function in (ft.attention, lambda *x: softmax(dot(*x[:2]), x[2])[0]):
        found = jvp(lambda t, f=function: jvp(f, (Q, K, V), (t, K, V))[1], (Q,), (K[:, :3],))
        wanted = jvp(function, (Q, K, V), (K[:, :3], 0 * K, 0 * V))[1]
        close(found[1], wanted)


def test_other_arguments_that_move_are_refused():
    sample = tensor(np.array([0.5, 1.0, 0.7, 0.9]))
    with pytest.raises(NotImplementedError, match=r"kernel_regression: .*forward mode.*sample_we"):
        jvp(lambda s: ft.kernel_regression(Q[0], K[0], V[0], sample_weight=s), (sample,), (sample,))


def test_the_operators_by_name():
    operators = torch.ops.foveate
    q, k, v = Q, K, V
    for name in ("attention", "attention_inference"):
        found = duals(lambda *x, n=name: getattr(operators, n)(*x)[0], (q, k, v))
        close(found, duals(ft.attention, (q, k, v)))
    with pytest.raises(NotImplementedError, match="forward mode"):
        duals(operators.hard_attention, (q, k, v))

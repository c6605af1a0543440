"""The modules of foveate.torch: what they compute, keep and learn."""

from __future__ import annotations

import copy
from typing import Any

import foveate as fv
import numpy as np
import pytest
from strategies import normal, problem
from tolerances import assert_within, expect
from torch_checks import array, ft, leaf, tensor, torch


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Modules start with the same parameters in each run."""
    torch.manual_seed(0)


MODULES: dict[str, Any] = {
    "additive": lambda: ft.AdditiveAttention(8, 8, 6),
    "additive leaky": lambda: ft.AdditiveAttention(8, 8, 6, activation="leaky_relu", slope=0.1),
    "additive relu": lambda: ft.AdditiveAttention(8, 8, 6, activation="relu"),
    "bilinear": lambda: ft.BilinearAttention(8, 8),
    "local-m": lambda: ft.LocalAttention(2.5),
    "local-p": lambda: ft.LocalAttention(2.5, 8),
    "local-p of its own size": lambda: ft.LocalAttention(2.5, 8, 5, score="cosine"),
    "hard": lambda: ft.HardAttention(),
    "hard, draws": lambda: ft.HardAttention(3, score="cosine"),
    "regression": lambda: ft.NadarayaWatson(0.5),
    "regression of dimensions": lambda: ft.NadarayaWatson(torch.ones(8) / 9, kernel="triangular"),
}
ARRAYS = problem(5, 9, lead=(2,), size=8, value_size=4)


def inputs_of(name: str, dtype: Any = torch.float32) -> list[Any]:
    arrays = [x[0] for x in ARRAYS] if name.startswith("regression") else ARRAYS
    arrays = [x[:, 0] for x in arrays] if name == "regression" else arrays
    return [tensor(x).to(dtype) for x in arrays]


def answer(module: Any, inputs: Any) -> Any:
    """The answer with the random numbers of one seed; of hard attention, the outputs."""
    torch.manual_seed(2)
    found = module(*inputs)
    return found if isinstance(found, torch.Tensor) else found.output


# --- what they compute ----------------------------------------------------------------------------


def test_additive():
    module = ft.AdditiveAttention(8, 8, 6)
    wq, wk = (array(x.weight.T) for x in (module.query_projection, module.key_projection))
    score = fv.Additive(array(module.v), wq, wk, array(module.key_projection.bias))
    keywords = {"key_lengths": np.array([9, 3]), "softcap": 2.0}
    expected = expect(*ARRAYS, score=score, **keywords)
    output = module(*map(tensor, ARRAYS), key_lengths=torch.tensor([9, 3]), softcap=2.0)
    assert_within(array(output), expected.output, expected.output_error, "output")
    layers = [(8, 6, False), (8, 6, True)]
    for layer, (of, to, bias) in zip(module.children(), layers, strict=True):
        assert (layer.in_features, layer.out_features, layer.bias is not None) == (of, to, bias)


def test_bilinear():
    module = ft.BilinearAttention(8, 8)
    expected = expect(*ARRAYS, score=fv.Bilinear(array(module.w)), causal=True, offset=4)
    output = module(*map(tensor, ARRAYS), causal=True, offset=4)
    assert_within(array(output), expected.output, expected.output_error, "output")


@pytest.mark.parametrize("lengths", [None, 6, np.array([9, 3])], ids=["all", "one", "each"])
@pytest.mark.parametrize("score", ["scaled_dot", "cosine"])
def test_local(lengths, score):
    """Centers of local-p lie within the valid keys of each sequence."""
    q = ARRAYS[0]
    module = ft.LocalAttention(2.5, 8, 5, score=score)
    w, h = array(module.projection.weight.T), array(module.v)
    length = 9 if lengths is None else lengths
    given = tensor(lengths) if isinstance(lengths, np.ndarray) else lengths
    centers = fv.predict_centers(q, w, h, length)
    found = array(module.centers(tensor(q), 9 if given is None else given))
    # tanh, two sums and the sigmoid in float32, times 9 keys
    np.testing.assert_allclose(found, centers, rtol=1e-5)
    wanted = fv.local_attention(
        *ARRAYS, half_width=2.5, centers=found, score=score, key_lengths=lengths
    )
    output = array(module(*map(tensor, ARRAYS), key_lengths=given))
    np.testing.assert_allclose(output, wanted, rtol=1e-5, atol=1e-6)  # the lengths of rows


def test_local_without_centers():
    module = ft.LocalAttention(2.5)
    assert module.centers(tensor(ARRAYS[0]), 9) is None
    assert not list(module.parameters())
    wanted = fv.local_attention(*ARRAYS, half_width=2.5)
    np.testing.assert_array_equal(array(module(*map(tensor, ARRAYS))), wanted)


def test_hard():
    inputs = list(map(tensor, ARRAYS))
    module = ft.HardAttention(4)
    torch.manual_seed(1)
    drawn = module(*inputs, key_lengths=torch.tensor([9, 2]))
    assert drawn.output.shape == (2, 5, 4, 4)
    assert drawn.index[1].max() < 2
    torch.manual_seed(1)
    again = ft.hard_attention(*inputs, size=4, key_lengths=torch.tensor([9, 2]))
    assert all(torch.equal(x, y) for x, y in zip(drawn, again, strict=True))
    best = module.eval()(*inputs)
    wanted = fv.hard_attention(*ARRAYS, select="argmax")
    for x, y in zip(best, wanted, strict=True):
        np.testing.assert_array_equal(array(x), y)


def test_kernel_regression():
    inputs = inputs_of("regression of dimensions")
    module = ft.NadarayaWatson(torch.linspace(0.1, 0.8, 8), kernel="gaussian")
    wanted = fv.kernel_regression(*map(array, inputs), w=array(module.w))
    np.testing.assert_array_equal(array(module(*inputs)), wanted)
    x = tensor(normal(1, (9,), np.float32))
    module = ft.NadarayaWatson(2, kernel="epanechnikov")
    wanted = fv.kernel_regression(*[array(x)] * 3, w=2.0, kernel="epanechnikov", leave_one_out=True)
    np.testing.assert_array_equal(array(module(x, x, x, leave_one_out=True)), wanted)


# --- as modules -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODULES)
def test_the_state_comes_back(name, tmp_path):
    module, other = MODULES[name](), MODULES[name]()
    inputs = inputs_of(name)
    for x in other.parameters():
        torch.nn.init.constant_(x, 0.25)
    torch.save(module.state_dict(), tmp_path / "state.pt")
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(answer(module, inputs), answer(other, inputs))
    twin = copy.deepcopy(module)
    for x in module.parameters():
        torch.nn.init.constant_(x, 0.25)
    assert torch.equal(answer(twin, inputs), answer(other, inputs))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("name", MODULES)
def test_other_dtypes(name, dtype):
    module, inputs = MODULES[name]().to(dtype), inputs_of(name, dtype)
    inputs[0].requires_grad_()
    found = answer(module, inputs)
    assert found.dtype == dtype
    assert found.isfinite().all()
    if name.startswith("hard"):
        module(*inputs).log_prob.sum().backward()
    else:
        found.sum().backward()
    for x in module.parameters():
        assert x.grad.dtype == dtype
        assert x.grad.isfinite().all()
    if not name.startswith("hard"):
        exact = answer(module.double(), [x.double() for x in inputs])
        # projections, centers and weights of numbers of about 1, rounded: some ulp in all
        torch.testing.assert_close(found.double(), exact, rtol=0, atol=16 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("name", MODULES)
def test_all_parameters_learn(name):
    module = MODULES[name]()
    found = module(*inputs_of(name))
    found = found.log_prob if isinstance(found, tuple) else found
    if not list(module.parameters()):
        assert not found.requires_grad
        return
    found.square().sum().backward()
    assert all(x.grad.any() for x in module.parameters())


@pytest.mark.parametrize("name", ["additive", "bilinear"])
def test_dropout_is_of_training_alone(name):
    make = {"additive": ft.AdditiveAttention, "bilinear": ft.BilinearAttention}[name]
    sizes = (8, 8, 6) if name == "additive" else (8, 8)
    module = make(*sizes, dropout=0.5)
    inputs = list(map(tensor, ARRAYS))
    first, second = module(*inputs), module(*inputs)
    assert not torch.equal(first, second)
    module.eval()
    state = torch.get_rng_state()
    assert torch.equal(module(*inputs), module(*inputs))
    assert torch.equal(torch.get_rng_state(), state)
    plain = make(*sizes)
    plain.load_state_dict(module.state_dict())
    assert torch.equal(plain(*inputs), module(*inputs))


def test_the_start_is_that_of_a_linear_layer():
    torch.manual_seed(0)
    module = ft.AdditiveAttention(30, 20, 400)
    for x, inputs in ((module.v, 400), (module.query_projection.weight, 30)):
        bound = inputs**-0.5
        assert x.abs().max() <= bound
        assert abs(x.std() / (bound / 3**0.5) - 1) < 0.1  # of a uniform number
    module = ft.BilinearAttention(300, 40)
    query, key = torch.randn(1000, 300), torch.randn(1000, 40)
    scores = (query @ module.w * key).sum(dim=-1)
    assert 0.3 < scores.std() < 3  # of about 1


def test_what_is_not_valid_spoils_no_gradient():
    """Padding may hold anything."""
    found = []
    for padding in (0.0, float("nan")):
        torch.manual_seed(3)
        module = ft.AdditiveAttention(8, 8, 6)
        query, key, value = (tensor(x) for x in ARRAYS)
        key[1, 4:] = value[1, 4:] = padding
        module(query, key, value, key_lengths=torch.tensor([9, 4])).sum().backward()
        found.append([x.grad for x in module.parameters()])
    for x, y in zip(*found, strict=True):
        assert torch.equal(x, y)


# --- learning -------------------------------------------------------------------------------------


def test_a_width_is_learned_by_leaving_one_out():
    """As well as by a search over widths, except the last percents: the valley is flat."""
    rng = np.random.default_rng(5)
    x_train = np.sort(rng.uniform(0, 5, 50))
    y_train = 2 * np.sin(x_train) + x_train**0.8 + rng.normal(0, 0.5, 50)
    x, y = tensor(x_train), tensor(y_train)
    module = ft.NadarayaWatson().double()
    optimizer = torch.optim.Adam(module.parameters(), lr=0.2)
    errors = []
    for _ in range(150):
        optimizer.zero_grad()
        error = (module(x, x, y, leave_one_out=True) - y).square().mean()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    searched = min(
        np.mean((fv.kernel_regression(x_train, x_train, y_train, w=w, leave_one_out=True)
                 - y_train) ** 2)
        for w in np.linspace(1, 10, 91)
    )  # fmt: skip
    assert errors[-1] < errors[0]
    assert errors[-1] < searched * 1.05


def test_a_width_may_cross_0():
    """A step that is too long is no error: the sign of w does not count."""
    x = tensor(normal(1, (9,), np.float32))
    module, mirrored = ft.NadarayaWatson(0.5), ft.NadarayaWatson(-0.5)
    found = [one(x, x, x) for one in (module, mirrored)]
    assert torch.equal(*found)
    for one in found:
        one.square().sum().backward()
    assert torch.equal(module.w.grad, -mirrored.w.grad)


def test_alignment_is_learned():
    """Which key a query means is a matrix to find: each query is a rotation of its key."""
    torch.manual_seed(0)
    rotation = torch.linalg.qr(torch.randn(8, 8))[0]
    for module in (ft.BilinearAttention(8, 8), ft.AdditiveAttention(8, 8, 32)):
        optimizer = torch.optim.Adam(module.parameters(), lr=0.05)
        errors = []
        for _ in range(60):
            key = torch.nn.functional.normalize(torch.randn(16, 6, 8), dim=-1) * 3
            value = torch.randn(16, 6, 2)
            error = (module(key @ rotation, key, value) - value).square().mean()
            optimizer.zero_grad()
            error.backward()
            optimizer.step()
            errors.append(error.item())
        best = 0.2 if isinstance(module, ft.BilinearAttention) else 0.85
        assert np.mean(errors[-5:]) < best * np.mean(errors[:5])


def test_a_place_is_learned():
    """Local attention finds a place that the query names."""
    torch.manual_seed(0)
    module = ft.LocalAttention(8.0, 2, 8)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.05)
    places = torch.tensor([3.0, 12.0])
    query, key = torch.eye(2), torch.zeros(16, 2)
    value = torch.arange(16.0)[:, None]
    errors = []
    for _ in range(60):
        error = (module.centers(query, 16) - places).square().mean()
        error = error + 0 * module(query, key, value).sum()  # and the answer passes one on
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert errors[-1] < 0.01 * errors[0]


def test_a_choice_is_learned_by_reinforce():
    """Of six keys one is rewarded: with the mean of the draws as the baseline it is found."""
    torch.manual_seed(0)
    module = ft.HardAttention(8)
    query = leaf(np.zeros((1, 6), np.float32))
    keys = torch.eye(6)
    optimizer = torch.optim.Adam([query], lr=0.3)
    for _ in range(40):
        drawn = module(query, keys, keys)
        reward = drawn.output[..., 4]
        advantage = reward - reward.mean(dim=-1, keepdim=True)
        optimizer.zero_grad()
        (-(advantage * drawn.log_prob).mean()).backward()
        optimizer.step()
    assert module.eval()(query, keys, keys).index == 4
    assert ft.attention(query, keys, keys)[0, 4] > 0.5

"""Soft attention of tensors: with foveate's own keywords, and with those of torch's function."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict, overload

import torch
from torch import Tensor

from .. import scores as _scores
from .._inputs.arrays import real
from .._inputs.normalizer import DEFAULT, has_lse, normalizer_of
from .._inputs.order import one_order_of
from .._inputs.types import Deterministic, Normalizer, Window
from .._reach.masks import has_sequences
from .._reach.reach import Reach
from ..scores._base import ScoreLike
from . import (
    _quick,
    _soft,  # noqa: F401  (registers the operators)
)
from ._derivatives import is_forward_mode, named
from ._problem import REACH, learned_in, state, whole
from ._reach import Mask, resolve
from ._scores import reduce
from ._stored import Stored
from ._stored_attention import is_stored, operands_of, stated_for
from ._tensors import FLOATS, INTEGERS, check_tensor, float_tensors, number

# Scores that leave rows as they are.
_AS_THEY_ARE = (_scores.Dot, _scores.ScaledDot, _scores.Polynomial, _scores.Gaussian)

_with_gradients = torch.ops.foveate.attention.default
_without = torch.ops.foveate.attention_inference.default
_plain = torch.ops.foveate.attention_plain.default


if TYPE_CHECKING:
    from typing_extensions import Unpack

    class AttentionOptions(TypedDict, total=False):
        """What attention may be told beside its operands."""

        score: ScoreLike
        mask: Mask | None
        causal: bool
        window: Window | None
        offset: int | Tensor | Literal["end"] | None
        key_lengths: int | Tensor | None
        segments: Tensor | tuple[Tensor, Tensor] | None
        softcap: float | None
        sink: float | Tensor | None
        normalizer: Normalizer
        dropout: float
        generator: torch.Generator | None
        deterministic: Deterministic


@overload
def attention(
    query: Tensor,
    key: Tensor | Stored,
    value: Tensor | Stored,
    *,
    return_lse: Literal[False] = ...,
    **options: Unpack[AttentionOptions],
) -> Tensor: ...


@overload
def attention(
    query: Tensor,
    key: Tensor | Stored,
    value: Tensor | Stored,
    *,
    return_lse: Literal[True],
    **options: Unpack[AttentionOptions],
) -> tuple[Tensor, Tensor]: ...


@overload
def attention(
    query: Tensor,
    key: Tensor | Stored,
    value: Tensor | Stored,
    *,
    return_lse: bool,
    **options: Unpack[AttentionOptions],
) -> Tensor | tuple[Tensor, Tensor]: ...


def attention(
    query: Any,
    key: Any,
    value: Any,
    *,
    score: Any = "scaled_dot",
    mask: Any = None,
    causal: bool = False,
    window: Any = None,
    offset: Any = None,
    key_lengths: Any = None,
    segments: Any = None,
    softcap: Any = None,
    sink: Any = None,
    normalizer: Normalizer = DEFAULT,
    dropout: float = 0.0,
    generator: torch.Generator | None = None,
    deterministic: Deterministic = True,
    return_lse: bool = False,
) -> Any:
    """Compute soft attention of tensors, as `foveate.attention`, with gradients by autograd.

    Parameters
    ----------
    query : tensor (..., Lq, D)
        On the CPU. Leading axes broadcast as in `torch.matmul`, without copies: for grouped
        queries, give keys and values an axis of length 1. The dtype is float16, bfloat16 (with the
        package ml_dtypes), float32 or float64. Under autocast they are converted to its dtype.
    key : tensor, Quantized or Paged (..., Lk, D)
        Of the dtype of `query`, or of few bits.
    value : tensor, Quantized or Paged (..., Lk, Dv)
        Of the dtype of `query`, or of few bits.
    score : str or score object, default "scaled_dot"
        `"dot"`, `"scaled_dot"`, `"cosine"`, `"gaussian"`, or a score of `foveate`, whose parameters
        are numbers, arrays, or tensors, which may be learned. Your own score
        (`foveate.scores.Score`) is given arrays; its `undo` makes the gradients of query and key,
        and its parameters get none here.
    mask : tensor that broadcasts with (..., Lq, Lk), rule, or tuple of both, optional
        bool: True where the query may attend. Float: added to the scores; a cell of -inf is not
        seen, as False is. Rules are those of `foveate.attention`; the slopes, tables and biases
        of rules may be tensors, which may be learned.
    causal, window : optional
        As for `foveate.attention`.
    offset, key_lengths : int or int tensor (...), optional
        As for `foveate.attention`; offset may be "end".
    segments : int tensor (..., L), or pair (of_queries, of_keys), optional
        As for `foveate.attention`.
    softcap : float, optional
        Scores become softcap * tanh(score / softcap). None and 0 mean none.
    sink : float or tensor (...), optional
        One more logit in the denominator of the softmax, with a value of 0.
    normalizer : str, default "softmax"
        As for `foveate.attention`. Where it is no softmax, there are no derivatives in forward mode
        and of second order.
    dropout : float, default 0
        Probability that a weight becomes 0 after the softmax. It applies in evaluation too: omit it
        there.
    generator : torch.Generator, optional
        The seed of the dropout is drawn from it; None means torch's default generator, so that
        `torch.manual_seed` reproduces what is dropped. `torch.compile` accepts only None.
    deterministic : True or "order", default True
        As for `foveate.attention`: with "order" the forward pass has the bits of that. Scores for
        which torch computes something of the rows before are refused, and `Packed`.
    return_lse : bool, default False
        Also return the logarithm of the denominator.

    Returns
    -------
    output : tensor (..., Lq, Dv)
        Of the dtype of `query`, and in its memory layout where the leading axes are the same and
        the score is a dot product: heads that were split off rows and transposed come out so that
        they join again without a copy. A query that sees no key has the output 0.
    lse : tensor (..., Lq)
        Only with `return_lse`: float32, or float64 for float64.

    Raises
    ------
    TypeError
        For anything but tensors on the CPU, and for dtypes that are not supported, or mixed.
    ValueError
        As `foveate.attention`.

    See Also
    --------
    foveate.attention : the same for arrays, with all its promises.
    scaled_dot_product_attention : the same with the signature of torch.

    Notes
    -----
    It is the operator `torch.ops.foveate.attention`, which works under `torch.compile` and
    `torch.export`. It runs on the threads of torch, as many as `torch.get_num_threads` says, and
    shares the memory of its tensors. There are gradients of query, key, value, a float mask, a
    sink, and the tensors of a score and of rules. Those of forward mode (`torch.func.jvp`,
    `jacfwd`) and of second order (`torch.func.hessian`, a backward pass through a backward pass)
    are there for scores that are an inner product, and the Gaussian; others are refused by name,
    and so are the third order, a tangent of a tangent, and the second order of a bias by position
    or of edges that learns. Beside keys or values that are `Quantized` or `Paged` there are no
    derivatives at all; they go with the scores that leave keys as they are.

    Examples
    --------
    >>> import torch, foveate.torch as ft
    >>> query = torch.tensor([[1.0, 0.0]], requires_grad=True)
    >>> key = torch.tensor([[4.0, 0.0], [0.0, 4.0]])
    >>> value = torch.tensor([[10.0], [20.0]])
    >>> output = ft.attention(query, key, value)
    >>> output.backward()
    >>> query.grad
    tensor([[-1.4904,  1.4904]])
    """
    weighing = None
    if normalizer != DEFAULT:
        weighing, sink = normalizer_of(normalizer, sink)
        if return_lse:
            has_lse("return_lse", weighing)
    one_order = deterministic is not True and bool(one_order_of(deterministic))
    if one_order:
        _takes_one_order(score, mask)
    stored = is_stored(key, value)
    if stored:
        if weighing is not None:
            raise ValueError(
                f"normalizer: got {normalizer!r} with keys or values of few bits or in pages, "
                "wanted a softmax"
            )
        query = operands_of("attention", query, key, value)
    else:
        query, key, value = float_tensors(query, key, value)
    options = _options(
        query, key, mask, causal, window, offset, key_lengths, segments, softcap, sink, dropout
    )
    if one_order:
        options = (options or Options())._replace(one_order=True)
    if stored:
        return _attend_stored(query, key, value, score, options or Options(), generator, return_lse)
    reduced = reduce(score, query, key)
    if weighing is not None:
        options = (options or Options())._replace(weighing=weighing)
    if not (return_lse or reduced.link) and reduced.family == "inner":
        seen = (None, False) if options is None else _plain_reach(options)
        if seen is not None:
            output = plain(reduced.query, reduced.key, value, reduced.scale, *seen)
            if output is not None:
                return output
    return call(reduced, value, options, generator, return_lse)


def _options(
    query: Tensor,
    key: Tensor,
    mask: Any,
    causal: Any,
    window: Any,
    offset: Any,
    key_lengths: Any,
    segments: Any,
    softcap: Any,
    sink: Any,
    dropout: Any,
) -> Options | None:
    """Check what a problem is beside its score and its values; None: nothing."""
    if not (
        mask is not None
        or causal is not False
        or window is not None
        or offset is not None
        or key_lengths is not None
        or segments is not None
        or softcap is not None
        or sink is not None
        or dropout != 0
    ):
        return None
    return Options(
        resolve(query, key, mask, causal, window, offset, key_lengths, segments),
        None if softcap is None else real("softcap", softcap),
        None if sink is None else sink_of(sink),
        dropout=rate_of("dropout", dropout),
    )


def _takes_one_order(score: Any, mask: Any) -> None:
    """Refuse what torch computes before a call, in an order of its own.

    Raises
    ------
    ValueError
        For scores that change their rows, Packed and Edges.
    """
    score = _scores.score_object(score)
    if not isinstance(score, _AS_THEY_ARE):
        raise ValueError(
            f"score: got {type(score).__name__} with deterministic='order', wanted one that takes "
            f"rows as they are: {', '.join(x.__name__ for x in _AS_THEY_ARE)}"
        )
    if has_sequences(mask):
        raise ValueError(
            "mask: got Packed with deterministic='order', wanted a call for each sequence"
        )


def rate_of(name: str, rate: Any) -> float:
    if not 0 <= real(name, rate) < 1:
        raise ValueError(f"{name}: got {rate}, wanted a number in [0, 1)")
    return real(name, rate)


def sink_of(sink: Any) -> Tensor:
    if isinstance(sink, Tensor):
        return check_tensor("sink", sink, (*FLOATS, *INTEGERS), "a number or a tensor of numbers")
    return number(real("sink", sink))


class Options(NamedTuple):
    """What a problem is beside its score and its values; the arrays of the reach are tensors."""

    reach: Reach | None = None
    softcap: float | None = None
    sink: Tensor | None = None
    sigma: Tensor | None = None
    dropout: float = 0.0
    weighing: str | None = None
    one_order: bool = False


def call(
    reduced: Any,
    value: Tensor,
    options: Options | None,
    generator: torch.Generator | None = None,
    return_lse: bool = False,
    caller: str = "attention",
) -> Any:
    """Call the operator, for gradients where any are wanted."""
    query, key, scale, family, factors = reduced[:5]
    learns = query.requires_grad or key.requires_grad or value.requires_grad
    stated: tuple[Any, ...] = (query, key, value, scale)
    if options is not None or family != "inner" or reduced.link or return_lse:
        options = options or Options()
        seed = draw_seed(generator) if options.dropout > 0 else None
        stated = state(reduced, value, *options, seed)
        others: Any = (factors, options.sink, options.sigma)
        if options.reach is not None:
            others += learned_in(options.reach)
        learns = learns or any(x is not None and x.requires_grad for x in others)
    if is_forward_mode():
        output, parts, _ = named(caller, _with_gradients, *stated)
        answer = output, parts[..., 0]
    elif learns and torch.is_grad_enabled():
        output, parts, _ = _with_gradients(*stated)
        answer = output, parts[..., 0] if return_lse else parts
    else:
        if return_lse:
            stated = (*whole(stated), True)
        if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
            answer = _without(*stated)  # a level below may learn
        else:
            with torch._C._AutoDispatchBelowAutograd():  # which would find the same, and takes time
                answer = _without(*stated)
    if not return_lse:
        return answer[0]
    # in memory of torch's own
    return answer[0], answer[1].to(torch.promote_types(value.dtype, torch.float32), copy=True)


def _attend_stored(
    query: Tensor,
    key: Any,
    value: Any,
    score: Any,
    options: Options,
    generator: torch.Generator | None,
    return_lse: bool,
) -> Any:
    """Attend over keys or values of few bits, or in pages."""
    seed = draw_seed(generator) if options.dropout > 0 else None
    stated = stated_for("attention", query, key, value, score, options, seed)
    answer = torch.ops.foveate.attention_stored.default(*stated, return_lse)
    return tuple(answer) if return_lse else answer[0]


def _plain_reach(options: Options) -> tuple[Tensor | None, bool] | None:
    """Return a mask, and whether the reach is causal, if the options say nothing else."""
    reach, softcap, sink, sigma, dropout, weighing, one_order = options
    if any(x is not None for x in (softcap, sink, sigma, weighing)) or dropout != 0 or one_order:
        return None
    if reach is None:
        return None, False
    mask, left, right, *others, leaves_out = reach[: len(REACH)]
    if left is not None or right not in (None, 0) or leaves_out:
        return None
    others += reach[len(REACH) :]
    return None if any(x is not None for x in others) else (mask, right == 0)


def plain(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float | None,
    mask: Tensor | None = None,
    causal: bool = False,
) -> Tensor | None:
    """Attend by a dot product, past the operators with all arguments; None: not done.

    What is refused is not done either: the way with them says why, by name.
    """
    learns = query.requires_grad or key.requires_grad or value.requires_grad
    if (learns or (mask is not None and mask.requires_grad)) and torch.is_grad_enabled():
        return _quick.attend(query, key, value, scale, causal) if mask is None else None
    if is_forward_mode() or torch.compiler.is_compiling():
        return None
    if torch._C._are_functorch_transforms_active():  # a level below may learn
        return None
    try:
        output: Tensor = _plain(query, key, value, scale, mask, causal)
    except RuntimeError:
        return None
    return output


def draw_seed(generator: torch.Generator | None) -> Tensor:
    """Draw the key of random numbers, which are counted, from a generator of torch.

    Raises
    ------
    TypeError
        For anything else than a generator, or None, torch's own.
    """
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator: got {generator!r}, wanted a torch.Generator")
    words = {"dtype": torch.int64, "device": "cpu", "generator": generator}
    return torch.randint(-(2**63), 2**63 - 1, (2,), **words)

"""Models that write out their attention, and do not ask the interface of transformers for it.

Their modules run as they are, and the products of queries and keys that they make are `Scores`: a
softmax of these and a sum of values by it is one call of foveate. What else a module does with them
it does with the tensors of "eager".
"""

from __future__ import annotations

from contextvars import ContextVar
from functools import cache, partial, wraps
from inspect import unwrap
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from transformers import AttentionInterface, PreTrainedModel

from ._refusals import weights_wanted
from ._scores import PRODUCTS, Scores, as_products, flat, made, share_heads

_NAME = "foveate"
_known_here: ContextVar[bool] = ContextVar("_known_here", default=False)
_STARTS = frozenset({*PRODUCTS, torch.einsum, torch.baddbmm, Tensor.baddbmm})


class _Watch(TorchFunctionMode):  # type: ignore[misc]  # torch is untyped here
    """Make `Scores` of the products of queries and keys."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self._of = partial(Scores.of, module, AttentionInterface()[_NAME])

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in _STARTS:
            scores = self._start(func, args, kwargs or {})
            if scores is not None:
                return scores
        return func(*args, **(kwargs or {}))

    def _start(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if func in (torch.baddbmm, Tensor.baddbmm):
            given = (*args, *(kwargs[x] for x in ("batch1", "batch2") if x in kwargs))
            if len(given) != 3 or not kwargs.keys() <= {"batch1", "batch2", "beta", "alpha"}:
                return None
            scores = self._product(given[1], given[2].transpose(-1, -2))
            if scores is None:
                return None
            return scores * kwargs.get("alpha", 1) + given[0] * kwargs.get("beta", 1)
        if kwargs:
            return None
        if func is torch.einsum:
            operands = as_products(*flat(args)) if len(flat(args)) == 3 else None
            return None if operands is None else self._product(*operands)
        if len(args) != 2 or args[1].ndim < 3:
            return None
        return self._product(args[0], args[1].transpose(-1, -2))

    def _product(self, query: Any, key: Any) -> Any:
        if type(query) is not Tensor or type(key) is not Tensor:
            return None
        if not 3 <= query.ndim == key.ndim <= 5 or not share_heads(query, key):
            return None
        if query.shape[-1] != key.shape[-1] or query.dtype != key.dtype or not query.is_cpu:
            return None
        return self._of(query, key) if query.is_floating_point() else None


def _forward(module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Run a module that writes out its attention."""
    forward = partial(type(module).forward, module)
    config = module.__dict__.get("foveate_config")
    if torch.compiler.is_compiling() or getattr(config, "_attn_implementation", None) != _NAME:
        return forward(*args, **kwargs)
    with _Watch(module):
        answer = forward(*args, **kwargs)
    return made(answer, unless_answered=not weights_wanted(kwargs))


@cache
def _writes_out(kind: type[torch.nn.Module]) -> bool:
    """Tell whether a class of modules makes weights of scores by itself."""
    if "att" not in kind.__name__.lower() or issubclass(kind, PreTrainedModel):
        return False
    classes = (x for x in kind.__mro__ if issubclass(x, torch.nn.Module))
    functions = [
        unwrap(function)
        for x in classes
        if x is not torch.nn.Module
        for function in vars(x).values()
        if isinstance(function, FunctionType)
    ]
    names = {name for function in functions for name in function.__code__.co_names}
    return not names.isdisjoint(("softmax", "Softmax")) and "ALL_ATTENTION_FUNCTIONS" not in names


def adopt(model: torch.nn.Module, config: Any = None) -> None:
    """Let the modules of a model that write out their attention run as `_forward` says."""
    if isinstance(model, PreTrainedModel):
        config = model.config
    kind: Any = type(model)
    asked = config is not None and config._attn_implementation == _NAME
    if asked and _writes_out(kind):
        model.__dict__["foveate_config"] = config
        model.__dict__["forward"] = partial(_forward, model)
    for module in model.children():
        adopt(module, config)


def adopt_when_asked() -> None:
    """Adopt the modules of each model that is made with this implementation, or told to use it.

    Transformers lets a model change its implementation where its file asks the interface. Of the
    others "foveate" and "eager" are known here.
    """
    if hasattr(PreTrainedModel.post_init, "__wrapped__"):
        return
    made, told = PreTrainedModel.post_init, PreTrainedModel.set_attn_implementation
    can_set = PreTrainedModel._can_set_attn_implementation.__func__

    @wraps(made)
    def post_init(self: PreTrainedModel) -> None:
        made(self)
        adopt(self)

    @wraps(told)
    def set_attn_implementation(
        self: PreTrainedModel, attn_implementation: Any, *args: Any, **kwargs: Any
    ) -> None:
        before = _known_here.set(attn_implementation in (_NAME, "eager"))
        try:
            told(self, attn_implementation, *args, **kwargs)
        finally:
            _known_here.reset(before)
        adopt(self)

    @wraps(can_set)
    def _can_set_attn_implementation(cls: type[PreTrainedModel]) -> bool:
        return _known_here.get() or can_set(cls)

    PreTrainedModel.post_init = post_init
    PreTrainedModel.set_attn_implementation = set_attn_implementation
    PreTrainedModel._can_set_attn_implementation = classmethod(_can_set_attn_implementation)

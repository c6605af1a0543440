"""Scores that a model writes out, as what they are made of: a product, a scale, what is added.

They are made when somebody looks at them. When a model makes weights of them, and a sum of values
by these, it is one call of attention, and they are never made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ._mask import Mask

PRODUCTS = {torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, Tensor.bmm}
_SUMS = {torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__}
_FACTORS = {torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__}
_QUOTIENTS = {torch.div, Tensor.div, Tensor.__truediv__}
_SHAPES = {Tensor.view, Tensor.reshape, torch.reshape}
_DTYPES = {Tensor.to, Tensor.float, Tensor.type_as, Tensor.contiguous}
_SOFTMAXES = {functional.softmax, torch.softmax, Tensor.softmax}
_LIKE = {Tensor.reshape_as, Tensor.view_as, Tensor.expand_as}
_FILLS = {torch.masked_fill, Tensor.masked_fill}
# What changes a tensor in place, by what does the same and does not.
_IN_PLACE = {
    Tensor.add_: Tensor.add,
    Tensor.__iadd__: Tensor.add,
    Tensor.mul_: Tensor.mul,
    Tensor.__imul__: Tensor.mul,
    Tensor.div_: Tensor.div,
    Tensor.__itruediv__: Tensor.div,
    Tensor.masked_fill_: Tensor.masked_fill,
}
# What these have as their queries do; a dtype of their own.
_DTYPE = {Tensor.dtype.__get__}
_OF_QUERIES = {*_DTYPE, Tensor.device.__get__, Tensor.requires_grad.__get__}
_METADATA = {Tensor.dim, Tensor.ndim.__get__, Tensor.shape.__get__, Tensor.size}

# A score as small as this is not seen.
_HIDDEN = -1e9


class Scores(Tensor):  # type: ignore[misc]  # torch is untyped here
    """Scores (..., Lq, Lk) of queries and keys, or the weights of these.

    To a model they are a tensor. What is not known here looks at them: from then on they are the
    tensor that was made.
    """

    _module: Any  # whose attention it is
    _attend: Callable[..., Any]  # an attention interface of transformers
    _query: Tensor  # (..., Lq, D)
    _key: Tensor  # (..., Lk, D)
    _scale: float
    _added: list[Tensor]  # floats, or bool, where False is not seen
    _is_weights: bool
    _dropout: float
    _dtype: torch.dtype
    _made: Tensor | None
    _answered: bool  # whether values were summed by these weights

    @classmethod
    def of(cls, module: Any, attend: Any, query: Tensor, key: Tensor) -> Scores:
        """Return the products of queries and keys, of which `share_heads` holds."""
        shape = (*query.shape[:-1], key.shape[-2])
        made: Scores = torch.empty(shape, dtype=query.dtype, device="meta").as_subclass(cls)
        made._module, made._attend, made._query, made._key = module, attend, query, key
        made._scale, made._added, made._is_weights, made._dropout = 1.0, [], False, 0.0
        made._dtype, made._made, made._answered = query.dtype, None, False
        return made

    def but(self, shape: Any = None, **changes: Any) -> Scores:
        """Return the same but for some of what they are made of."""
        shape = self.size() if shape is None else shape
        made: Scores = torch.empty(shape, dtype=self._dtype, device="meta").as_subclass(Scores)
        made.__dict__.update(self.__dict__, **changes)
        return made

    def make(self) -> Tensor:
        """Make them by operations of torch.

        Raises
        ------
        ValueError
            For weights that were dropped already, which are not known any more.
        """
        if self._made is None:
            if self._answered and self._dropout > 0:
                raise ValueError(
                    f"output_attentions: got True for {type(self._module).__name__} in training "
                    'with dropout, wanted evaluation, no dropout, or attn_implementation="eager"'
                )
            x = self._query @ self._key.mT
            if self._scale != 1:
                x = x * self._scale
            for part in self._added:
                if part.dtype == torch.bool:
                    x = x.masked_fill(~part, torch.finfo(x.dtype).min)
                else:
                    x = x + part
            if self._is_weights:
                x = functional.dropout(torch.softmax(x, dim=-1), self._dropout)
            self._made = x.to(self._dtype)
        return self._made

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Do what keeps them scores or weights; give any other operation what is made."""
        kwargs = kwargs or {}
        if func in _METADATA:
            return super().__torch_function__(func, types, args, kwargs)
        args = flat(args) if func is torch.einsum else args
        own = next((x for x in args if isinstance(x, Scores)), None)
        if own is not None and own._made is None:
            if func in _OF_QUERIES:
                return own._dtype if func in _DTYPE else func(own._query)
            if func in _LIKE and args[0] is not own:
                return func(args[0], torch.empty(own.size(), device="meta"))
            in_place = func in _IN_PLACE and args[0] is own
            answer = own._after(_IN_PLACE[func] if in_place else func, args, kwargs)
            if answer is not None and in_place:
                own.__dict__.update(answer.__dict__)
                return own
            if answer is not None:
                return answer
        return func(*made(args), **made(kwargs))

    def _after(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return what comes out of an operation; None: it is not known here."""
        others = [x for x in args if x is not self]
        if func in _DTYPES:
            return self._as_dtype(func, others, kwargs)
        if func in _SHAPES:
            return self._in_shape(others) if not kwargs else None
        if self._is_weights:
            if func is functional.dropout:
                return self._with_dropout(*others, **kwargs)
            if func in PRODUCTS and args[0] is self and not kwargs:
                return self._answer(others[0])
            return self._sum(*args) if func is torch.einsum and len(args) == 3 else None
        if func in _SOFTMAXES:
            return self._softmax(*others, **kwargs)
        if kwargs or not 1 <= len(others) <= 2:
            return None
        if len(others) == 1 and func in _SUMS:
            return self._plus(others[0])
        if len(others) == 1 and func in (torch.sub, Tensor.sub, Tensor.__sub__):
            is_tensor = args[0] is self and isinstance(others[0], Tensor)
            return self._plus(-others[0]) if is_tensor else None
        if len(others) == 1 and func in _FACTORS:
            return self._times(others[0])
        if len(others) == 1 and func in _QUOTIENTS and args[0] is self:
            return self._times(1 / others[0])
        if len(others) == 1 and func in (torch.max, torch.maximum):
            is_least = isinstance(others[0], Tensor) and others[0].ndim == 0
            return self if is_least and float(others[0]) <= _HIDDEN else None
        if len(others) == 2 and func in _FILLS and args[0] is self:
            return self._hide(others[0], others[1])
        if len(others) == 2 and func is torch.where and args[1] is self:
            return self._hide(~others[0], others[1])
        return None

    def _as_dtype(self, func: Any, others: list[Any], kwargs: dict[str, Any]) -> Any:
        if func is Tensor.contiguous and not others and not kwargs:
            return self
        if func is Tensor.float and not kwargs:
            return self.but(_dtype=torch.float32)
        if len(others) != 1 or kwargs:
            return None
        if func is Tensor.type_as or isinstance(others[0], Tensor):
            return self.but(_dtype=others[0].dtype)
        is_dtype = isinstance(others[0], torch.dtype) and others[0].is_floating_point
        return self.but(_dtype=others[0]) if is_dtype else None

    def _in_shape(self, sizes: list[Any]) -> Any:
        """Give leading axes another shape."""
        shape = list(sizes[0] if len(sizes) == 1 and not isinstance(sizes[0], int) else sizes)
        now = tuple(self.size())
        if len(shape) < 3 or (self._answered and self._dropout > 0):
            return None
        if -1 in shape:
            rest = 1
            for n in shape:
                rest *= n if n != -1 else 1
            shape[shape.index(-1)] = self.numel_of(now) // max(rest, 1)
        if tuple(shape[-2:]) != now[-2:]:
            return None
        lead = shape[:-2]
        key = self._key.expand(*now[:-2], *self._key.shape[-2:])
        return self.but(
            shape,
            _query=self._query.reshape(*lead, *self._query.shape[-2:]),
            _key=key.reshape(*lead, *key.shape[-2:]),
            _added=[
                x
                if x.ndim <= 2
                else x.expand(*now[:-2], *x.shape[-2:]).reshape(*lead, *x.shape[-2:])
                for x in self._added
            ],
        )

    @staticmethod
    def numel_of(shape: tuple[int, ...]) -> int:
        """Count the elements of a shape."""
        count = 1
        for n in shape:
            count *= n
        return count

    def _plus(self, other: Any) -> Any:
        if isinstance(other, int | float):
            other = torch.tensor(float(other), dtype=self._dtype)
        if not isinstance(other, Tensor) or not self._takes(other):
            return None
        return self.but(_added=[*self._added, other])

    def _times(self, factor: Any) -> Any:
        if any(x.dtype == torch.bool or isinstance(x, Mask) for x in self._added):
            return None
        if isinstance(factor, Tensor) and factor.numel() > 1:
            # of each head or query: a factor of the queries
            fits = factor.shape[-1] == 1 and self._takes(factor) and not self._added
            return self.but(_query=self._query * factor) if fits else None
        added = [x * factor for x in self._added]
        if isinstance(factor, Tensor):
            return self.but(_query=self._query * factor, _added=added)
        return self.but(_scale=self._scale * factor, _added=added)

    def _hide(self, hidden: Any, value: Any) -> Any:
        if not isinstance(hidden, Tensor) or hidden.dtype != torch.bool or not self._takes(hidden):
            return None
        if float(value) > _HIDDEN:
            return None
        return self.but(_added=[*self._added, ~hidden])

    def _takes(self, other: Tensor) -> bool:
        """Tell whether a tensor broadcasts into these."""
        shape = self.size()
        pairs = zip(reversed(other.shape), reversed(shape), strict=False)
        return other.ndim <= len(shape) and all(n in (1, own) for n, own in pairs)

    def _softmax(self, dim: Any = None, dtype: Any = None, **rest: Any) -> Any:
        rest.pop("_stacklevel", None)
        if rest or dim not in (-1, self.ndim - 1):
            return None
        return self.but(_is_weights=True, _dtype=dtype or self._dtype)

    def _with_dropout(
        self, p: float = 0.5, training: bool = True, inplace: bool = False, **rest: Any
    ) -> Any:
        if not training or p == 0:
            return self
        known = not rest and not inplace and self._dropout == 0 and self._module.training
        return self.but(_dropout=p) if known else None

    def _sum(self, equation: Any, weights: Any, value: Any) -> Any:
        """Return the sum of values that an equation of einsum says."""
        letters = _letters(equation)
        if letters is None or weights is not self or isinstance(value, Scores):
            return None
        own, values, output = letters
        lead, query, key = own[:-2], own[-2], own[-1]
        column = set(values) - set(own)
        if len(column) != 1 or not set(lead) | {key} <= set(values) or query in values:
            return None
        whole = (*lead, query, *column)
        if set(whole) != set(output):
            return None
        answer = self._answer(_permuted(value, values, (*lead, key, *column)))
        return None if answer is None else _permuted(answer, whole, output)

    def _answer(self, value: Any) -> Any:
        """Return the sum of values by these weights: a call of attention."""
        query, key, lead = self._query, self._key, self.size()[:-2]
        if not isinstance(value, Tensor) or isinstance(value, Scores) or self.size(-1) == 0:
            return None
        if value.ndim != self.ndim or not share_heads(query, value):
            return None
        if value.shape[:-2] != key.shape[:-2]:
            key, value = (x.expand(*lead, *x.shape[-2:]) for x in (key, value))
        if value.shape[-2] != self.size(-1) or value.dtype != query.dtype:
            return None
        if not self._dtype == value.dtype == key.dtype:
            return None
        four = lead if len(lead) == 2 else (self.numel_of(lead[:-1]), lead[-1])
        if len(lead) == 1:
            four = (*lead, 1)
        bias, seen = self._in_two(lead, four)
        output, weights = self._attend(
            self._module,
            *(
                x if len(lead) == 2 else x.reshape(*four, *x.shape[-2:])
                for x in (query, key, value)
            ),
            seen,
            dropout=self._dropout,
            scaling=self._scale,
            position_bias=bias,
        )
        self._answered = True
        if weights is not None:
            self._made = weights.reshape(self.size())
        return output.transpose(1, 2).reshape(*lead, *output.shape[1:2], value.shape[-1])

    def _in_two(self, lead: Any, four: tuple[int, ...]) -> tuple[Tensor | None, Tensor | None]:
        """Give what is added as a bias and a mask, both of four axes."""
        masks = [x for x in self._added if isinstance(x, Mask)]
        seen = [x for x in self._added if x.dtype == torch.bool]
        floats = [x for x in self._added if x.dtype != torch.bool and not isinstance(x, Mask)]
        if len(lead) != 2 or len(masks) + bool(seen) > 1:
            floats, masks = [*floats, *(x + 0.0 for x in masks)], []

        def whole(x: Tensor) -> Tensor:
            if len(lead) == 2 or x.ndim <= 2:
                return x
            if len(lead) == 1:
                return x.unsqueeze(1)
            return x.expand(*lead, *x.shape[-2:]).reshape(*four, *x.shape[-2:])

        bias = mask = None
        for x in floats:
            bias = whole(x) if bias is None else bias + whole(x)
        for x in seen:
            mask = whole(x) if mask is None else mask & whole(x)
        return bias, (masks[0] if masks else mask)


def made(x: Any, *, unless_answered: bool = False) -> Any:
    """Give the same with all scores made, but for weights that values were summed by."""
    if isinstance(x, Scores):
        return x if unless_answered and x._answered else x.make()
    if isinstance(x, dict):
        pairs = x.items()
        return {name: made(item, unless_answered=unless_answered) for name, item in pairs}
    if type(x) in (tuple, list):
        return type(x)(made(item, unless_answered=unless_answered) for item in x)
    return x


def flat(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Give the arguments of einsum one by one."""
    is_list = len(args) == 2 and isinstance(args[1], list | tuple)
    return (args[0], *args[1]) if is_list else args


def share_heads(query: Tensor, other: Tensor) -> bool:
    """Tell whether leading axes are those of the queries, or have one head for all of theirs."""
    lead, of_other = query.shape[:-2], other.shape[:-2]
    return bool(lead == of_other or (len(lead) == 2 and (lead[0], 1) == tuple(of_other)))


def as_products(equation: Any, query: Any, key: Any) -> tuple[Tensor, Tensor] | None:
    """Give queries and keys whose products an equation of einsum makes; None: it makes others."""
    letters = _letters(equation)
    if letters is None or type(query) is not Tensor or type(key) is not Tensor:
        return None
    of_query, of_key, scores = letters
    lead, row, column = scores[:-2], scores[-2], scores[-1]
    summed = (set(of_query) & set(of_key)) - set(scores)
    fits = len(summed) == 1 and set(of_query) == {*lead, row, *summed}
    if not fits or set(of_key) != {*lead, column, *summed}:
        return None
    query = _permuted(query, of_query, (*lead, row, *summed))
    return query, _permuted(key, of_key, (*lead, column, *summed))


def _permuted(x: Tensor, letters: Any, wanted: Any) -> Tensor:
    return x.permute(*(tuple(letters).index(letter) for letter in wanted))


def _letters(equation: Any) -> tuple[str, str, str] | None:
    """Give the letters of the two operands and the output of an equation of einsum."""
    if not isinstance(equation, str) or equation.count(",") != 1 or "->" not in equation:
        return None
    inputs, output = equation.replace(" ", "").split("->")
    one, other = inputs.split(",")
    parts = one, other, output
    is_plain = all(x.isalpha() and len(set(x)) == len(x) >= 3 for x in parts)
    return parts if is_plain else None

"""What an operator with gradients is: `foveate::name`, and `foveate::name_backward` beside it.

An operator says what it computes, what it keeps, and how its gradients are computed. Where an
argument stands is read off the schema.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ._derivatives import autograd_kernel, keep, kept
from ._problem import names_of
from ._tensors import as_tensor
from ._vmap import of_batches

# Operators know no strides but those that they were traced with.
TAGS = (torch.Tag.needs_exact_strides, torch.Tag.pt2_compliant_tag)

library = torch.library.Library("foveate", "DEF")


class Operator(ABC):
    """An operator, whose arguments state a problem, and what may stand behind them.

    Attributes
    ----------
    name : str
    arguments, more : str
        The schema of what states the problem, and of what may follow.
    returns : str
        The schema of the outputs.
    learned : tuple of str
        The arguments of which there may be gradients.
    signals : str
        The schema of what the gradients are made from beside the arguments.
    """

    name: ClassVar[str]
    arguments: ClassVar[str]
    more: ClassVar[str] = ""
    returns: ClassVar[str]
    learned: ClassVar[tuple[str, ...]]
    signals: ClassVar[str]

    @abstractmethod
    def compute(self, *arguments: Any) -> Any:
        """Compute the outputs."""

    @abstractmethod
    def fake(self, *arguments: Any) -> Any:
        """Make outputs without computing."""

    @abstractmethod
    def keep(self, ctx: Any, outputs: Any) -> tuple[Tensor, ...]:
        """Return which tensors are kept for the gradients, and mark what has none."""

    @abstractmethod
    def signals_of(
        self, d_outputs: tuple[Any, ...], kept: list[Tensor], stated: Sequence[Any]
    ) -> tuple[Any, ...] | None:
        """Return what `signals` says, from the gradients of the outputs; None: there are none."""

    @abstractmethod
    def differentiate(
        self, signals: Sequence[Any], wanted: Sequence[str], stated: Sequence[Any]
    ) -> dict[str, Any]:
        """Compute the gradients that are wanted, by name."""

    # How it goes along an axis of torch.vmap: of the operator, and of its gradients.
    rule: Callable[..., Any]
    backward_rule: Callable[..., Any]

    def __init__(self) -> None:
        """Register the operator and its gradients."""
        self.count = len(names_of(self.arguments))
        self.index = {name: n for n, name in enumerate(names_of(self.arguments))}
        backward = f"{self.name}_backward"
        library.define(f"{self.name}({self.arguments}{self.more}) -> {self.returns}", tags=TAGS)
        library.define(
            f"{backward}({self.signals}, bool[] wanted, {self.arguments}) -> Tensor[]", tags=TAGS
        )
        register(
            self.name,
            self.compute,
            self.fake,
            self.rule,
            self._pull_back,
            self._setup,
            self.push_forward,
        )
        register(
            backward,
            self._compute_backward,
            self._fake_backward,
            self.backward_rule,
            self.pull_back_twice,
            self._setup_backward,
            self.push_gradients_forward,
        )
        self._backward = getattr(torch.ops.foveate, backward)

    def pull(
        self, signals: tuple[Any, ...], wanted: list[bool], stated: Sequence[Any]
    ) -> Sequence[Tensor]:
        """Return the gradients that are flagged: by the operator that is registered for them."""
        found: list[Tensor] = self._backward(*signals, wanted, *stated)
        return found

    # For `autograd_kernel`, None where there are no such derivatives: the tangents of the operator;
    # the gradients of that of its gradients, and the tangents of this.
    push_forward: Any = None
    pull_back_twice: Any = None
    push_gradients_forward: Any = None

    # ---- what torch calls

    def _setup(self, ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Keep the arguments for the derivatives, and further tensors."""
        keep(ctx, inputs, self.keep(ctx, output))

    def _setup_backward(self, ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Keep the arguments of the operator of gradients for further derivatives."""
        del output
        keep(ctx, inputs)

    def _pull_back(self, ctx: Any, *d_outputs: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return a gradient, or None, for each argument."""
        inputs, more = kept(ctx)
        stated = inputs[: self.count]
        gradients: list[Tensor | None] = [None] * len(inputs)
        if torch.is_grad_enabled():  # what they change is in the derivatives of the gradients
            more = [x.detach() for x in more]
        signals = self.signals_of(d_outputs, more, stated)
        if signals is not None:
            needed = ctx.needs_input_grad  # up to the last argument that is not its default
            indices = [self.index[name] for name in self.learned]
            wanted = [n < len(needed) and needed[n] for n in indices]
            computed = self.pull(signals, wanted, stated)
            wanted_indices = [n for n, flag in zip(indices, wanted, strict=True) if flag]
            for n, gradient in zip(wanted_indices, computed, strict=True):
                gradients[n] = gradient
        return tuple(gradients)

    def _split(self, arguments: tuple[Any, ...]) -> tuple[Any, list[str], Any]:
        """Split the arguments of the gradients: signals, names of what is wanted, the problem."""
        count = len(names_of(self.signals))
        flags = zip(self.learned, arguments[count], strict=True)
        wanted = [name for name, is_wanted in flags if is_wanted]
        return arguments[:count], wanted, arguments[count + 1 :]

    def _compute_backward(self, *arguments: Any) -> list[Tensor]:
        signals, wanted, stated = self._split(arguments)
        gradients = self.differentiate(signals, wanted, stated)
        return [as_tensor(gradients[name], stated[self.index[name]]) for name in wanted]

    def _fake_backward(self, *arguments: Any) -> list[Tensor]:
        _, wanted, stated = self._split(arguments)
        like = [stated[self.index[name]] for name in wanted]
        return [x.new_empty(x.shape) for x in like]


def register(
    name: str,
    compute: Any,
    fake: Any,
    rule: Any,
    backward: Any = None,
    setup: Any = None,
    jvp: Any = None,
    kernel: Any = None,
) -> None:
    """Register an operator that is defined.

    Parameters
    ----------
    name : str
    compute, fake : callable
        What it computes; what comes out without computing.
    rule : callable
        Of the operator: what it does under torch.vmap.
    backward, setup, jvp : callable, optional
        As for `autograd_kernel`.
    kernel : callable, optional
        What it does at the key Autograd, in place of that.
    """

    def on_one_device(*arguments: Any) -> Any:
        devices = {x.device for x in arguments if isinstance(x, Tensor)}
        if len(devices) > 1:
            raise TypeError(f"tensors: got some on each of {devices}, wanted all on the CPU")
        return fake(*arguments)

    full = f"foveate::{name}"
    operator = getattr(torch.ops.foveate, name).default
    library.impl(name, compute, "CPU")
    torch.library.register_fake(full, on_one_device, lib=library)
    caller = name.removesuffix("_backward")
    kernel = kernel or autograd_kernel(operator, caller, backward, setup, jvp)
    library.impl(name, kernel, "Autograd")
    torch.library.register_vmap(full, rule(operator), lib=library)
    library.impl(name, of_batches(rule(operator)), "Batched")

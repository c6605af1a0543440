"""foveate in place of torch's own attention on the CPU, for the whole process, and undone again."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._functorch import config as _functorch_config

from .. import _core
from ._explain import Explanation, summary
from ._kernels import FORMULAS, MultiHead, attend_by_formulas
from ._stable import MISSING

_COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd

# Where torch's formulas are found first: by tensors in autograd, and in inference mode by all. At
# the key of a backend tracers would take them for an operator that is not to be taken apart.
_KEYS = ("AutogradCPU", "AutogradNestedTensor", "BackendSelect")


class _Overrides:
    """The kernels of foveate in torch's dispatcher; `remove` takes them out again."""

    def __init__(self) -> None:
        if MISSING is not None:
            raise RuntimeError(
                f"foveate.torch.activate: torch {torch.__version__} has no {MISSING}, wanted "
                "torch 2.9 or later"
            )
        heads = {key: MultiHead(key) for key in ("CPU", "NestedTensorCPU")}
        FORMULAS.py_impl(_COMPOSITE)(attend_by_formulas)  # for tracers
        self.library = torch.library.Library("aten", "IMPL")
        for key in _KEYS:
            self.library.impl("_scaled_dot_product_attention_math", attend_by_formulas, key)
        for key, kernel in heads.items():
            self.library.impl("_native_multi_head_attention", kernel, key)
        self.fused = _core.torch_install()
        FORMULAS._dispatch_cache.clear()
        # What it keeps is found by what a function calls, not by what became of that.
        self.cache = _functorch_config.enable_autograd_cache
        _functorch_config.enable_autograd_cache = False

    def remove(self) -> None:
        """Give torch's operators their own kernels back."""
        _functorch_config.enable_autograd_cache = self.cache
        _core.torch_remove(self.fused)
        self.library._destroy()
        del FORMULAS.py_kernels[_COMPOSITE]
        FORMULAS._dispatch_cache.clear()


_lock = threading.RLock()
_overrides: _Overrides | None = None
_is_asked = False  # by activate()
_contexts = 0  # that are open


def _follow() -> None:
    """Be active where anybody wants it, and only there."""
    global _overrides
    wanted = _is_asked or _contexts > 0
    if wanted and _overrides is None:
        _overrides = _Overrides()
    elif not wanted and _overrides is not None:
        _overrides.remove()
        _overrides = None


def activate() -> None:
    """Let foveate compute torch's attention on the CPU, in the whole process.

    From then on every `torch.nn.functional.scaled_dot_product_attention` of tensors on the CPU runs
    here: in functions and modules of any package, with references that were taken before, in eager
    code, in graphs that were compiled or exported, before or after, in training and in inference.
    `explain` says what was left to torch, and why.

    Calling it again changes nothing. `deactivate` undoes it, and `activated` lasts for a block.
    With torch 2.11 or later `torch.nn.attention.activate_flash_attention_impl("foveate")` and
    `restore_flash_attention_impl()` are the same, by torch's own registry.

    Raises
    ------
    RuntimeError
        Where torch is too old to have the functions that this needs.

    See Also
    --------
    scaled_dot_product_attention : the same attention, called by name.

    Notes
    -----
    Torch goes on choosing how a call is computed. What it gives to its fused kernel runs in one of
    foveate's, without Python: shapes, dtypes and memory layouts are those of torch, and so are its
    errors. What it would compute by formulas, with all weights (values of another size than keys,
    dropout, masks that learn, tensors without an axis of heads), runs in `foveate::attention`. The
    fast path of `torch.nn.MultiheadAttention` and `TransformerEncoderLayer` in evaluation does too.

    Left to torch are: gradients of fewer than 64 queries without a mask, where its kernel is the
    faster one; weights that are wanted (`need_weights`); derivatives of forward mode, and
    what `torch.nn.attention.sdpa_kernel` keeps from the fused kernel, as for gradients of second
    order; nested tensors outside of that fast path; formulas in programs that are exported, which
    are to run without foveate too. A graph that was compiled before shows no formulas any more, and
    one that was compiled meanwhile keeps foveate's operator in their place:
    `torch.compiler.reset()` makes both anew. `torch.nn.MultiheadAttention` makes weights without a
    function that could be seen, in training with `need_weights`. Code in C++ that was compiled with
    torch's AOTInductor calls torch's kernels directly. The cache of `torch.compile` for the graphs
    of autograd, which does not ask who computes attention, is not used meanwhile.

    Torch's dispatcher, which this changes, is not made to be changed while another thread calls the
    operators that change: activate before there are such threads. Calls from any number of threads
    are safe, and contexts may be opened and closed in any order.

    Examples
    --------
    >>> import torch, foveate.torch as ft
    >>> attend = torch.nn.functional.scaled_dot_product_attention
    >>> query = torch.zeros(1, 2, 3, 4)
    >>> before = ft.explain(reset=True)
    >>> with ft.activated():
    ...     output = attend(query, query, query, is_causal=True)
    >>> ft.explain(reset=True)
    foveate is not active in torch's attention
    ran in foveate:
             1  fused attention
    left to torch: nothing
    """
    global _is_asked
    with _lock:
        before, _is_asked = _is_asked, True
        try:
            _follow()
        except BaseException:
            _is_asked = before
            raise


def deactivate() -> None:
    """Give torch its own attention back: undo `activate`.

    Inside of a block of `activated` foveate stays active until the block ends.

    See Also
    --------
    activate : what this undoes.

    Examples
    --------
    >>> import foveate.torch as ft
    >>> ft.deactivate()
    >>> ft.explain().active
    False
    """
    global _is_asked
    with _lock:
        _is_asked = False
        _follow()


@contextmanager
def activated() -> Iterator[None]:
    """Let foveate compute torch's attention for the length of a block, in the whole process.

    Blocks nest, and threads may open them in any order: foveate is active as long as one is open,
    or `activate` holds.

    See Also
    --------
    activate : what holds in the block.

    Examples
    --------
    >>> import foveate.torch as ft
    >>> with ft.activated():
    ...     ft.explain().active
    True
    """
    global _contexts
    with _lock:
        _contexts += 1
        try:
            _follow()
        except BaseException:
            _contexts -= 1
            raise
    try:
        yield
    finally:
        with _lock:
            _contexts -= 1
            _follow()


def explain(*, reset: bool = False) -> Explanation:
    """Say where the calls of torch's attention went while foveate was active in it.

    Parameters
    ----------
    reset : bool, default False
        Let the counts begin again.

    Returns
    -------
    Explanation
        `.active`, `.here`, how many calls ran in foveate, by the way on which they came, and
        `.left`, how many were left to torch, by the reason. It prints as a table.

    See Also
    --------
    activate : what can run here, and what cannot be seen.

    Examples
    --------
    >>> import torch, foveate.torch as ft
    >>> counts = ft.explain(reset=True)
    >>> x = torch.zeros(1, 2, 8)
    >>> with ft.activated(), torch.no_grad():
    ...     output = torch.nn.MultiheadAttention(8, 2, batch_first=True).eval()(x, x, x)
    >>> dict(ft.explain(reset=True).left)
    {'multi-head attention whose weights are wanted': 1}
    """
    with _lock:
        return summary(_overrides is not None, reset)


class _Handle:
    """What torch's registry keeps of an implementation that it activated."""

    def remove(self) -> None:
        """End it."""
        deactivate()


def _activate_for_torch() -> _Handle:
    activate()
    return _Handle()


def enlist() -> None:
    """Add foveate to torch's registry of implementations, where torch has one (2.11)."""
    register: Any = getattr(torch.nn.attention, "register_flash_attention_impl", None)
    if register is not None:
        register("foveate", register_fn=_activate_for_torch)


enlist()

"""`foveate.KVCache` as a cache of transformers: a layer of a model appends to one of its own.

What a layer gives back for attention are no rows but `Cached`: it says which layer has them. The
attention "foveate" reads the pages of that layer. Any other operation gets dense rows, made anew.
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers.cache_utils import (
    Cache,
    CacheLayerMixin,
    DummyLayer,
    DynamicCache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionCacheLayerMixin,
)

from .._cache.cache import KVCache as Pages
from .._cache.dense import dense
from .._cache.kinds import name_of
from .._inputs.arrays import integer
from ..torch._tensors import FLOATS, as_array, tensor_of, threads_of_torch

_DTYPES = {str(x).removeprefix("torch."): x for x in FLOATS}

# What a tensor tells of itself without its rows.
_METADATA = frozenset(
    {
        torch.Tensor.dim,
        torch.Tensor.dtype.__get__,
        torch.Tensor.ndim.__get__,
        torch.Tensor.requires_grad.__get__,
        torch.Tensor.shape.__get__,
        torch.Tensor.size,
    }
)
_ITSELF = frozenset({torch.Tensor.contiguous, torch.Tensor.detach})


class Options(NamedTuple):
    """How the layers of a cache keep rows."""

    dtype: str | None
    page: int
    max_length: int | None
    window: int | None
    sinks: int


class Cached(torch.Tensor):  # type: ignore[misc]  # torch is untyped here
    """Keys or values (batch, heads, length, D) that a layer has in pages.

    It is on the device "meta", without memory: any operation makes dense rows, and works on these.
    """

    layer: Layer
    which: int  # 0: keys, 1: values
    first: int  # the position of the first row
    end: int  # that behind the last

    @classmethod
    def of(cls, layer: Layer, which: int, like: torch.Tensor, first: int, end: int) -> Cached:
        """Return the rows of these positions, with the axes and the dtype of some that are new."""
        shape = (*like.shape[:-2], end - first, like.shape[-1])
        rows: Cached = torch.empty(shape, dtype=like.dtype, device="meta").as_subclass(cls)
        rows.layer, rows.which, rows.first, rows.end = layer, which, first, end
        return rows

    def dense(self) -> torch.Tensor:
        """Make the rows."""
        return self.layer.dense(self.first, self.end, self.dtype)[self.which]

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Answer for shape and dtype; give any other operation dense rows."""
        if func in _METADATA:
            with torch._C.DisableTorchFunctionSubclass():  # nothing of it is a tensor
                return func(*args, **(kwargs or {}))
        if func in _ITSELF and not kwargs and len(args) == 1:
            return args[0]
        return func(*_dense(args), **_dense(kwargs or {}))


def _dense(x: Any) -> Any:
    """Give the same arguments with dense rows."""
    if isinstance(x, Cached):
        return x.dense()
    if isinstance(x, dict):
        return {name: _dense(item) for name, item in x.items()}
    return type(x)(map(_dense, x)) if type(x) in (tuple, list) else x


class Layer(CacheLayerMixin):  # type: ignore[misc]  # transformers is untyped here
    """The keys and values of one layer of a model.

    Rows beyond a sliding window are freed when later ones are appended, so that what was appended
    last may always be taken back.
    """

    is_compileable = False
    is_croppable = True
    keys: Any
    values: Any

    def __init__(self, options: Options, sliding_window: int | None = None) -> None:
        super().__init__()
        self.options = options
        self.sliding_window = sliding_window  # of the model's config
        self.is_sliding = sliding_window is not None
        self.pages: Any = None  # a foveate.KVCache, from the first rows on
        self.length = 0  # positions

    @property
    def window(self) -> int | None:
        """How many keys before its own a query sees at most."""
        return self.options.window if self.sliding_window is None else self.sliding_window - 1

    def __repr__(self) -> str:
        """Show the pages, or that there are none yet."""
        return f"Layer({self.pages!r})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Layer:
        """Copy the pages."""
        other = Layer(self.options, self.sliding_window)
        other.pages, other.is_initialized = copy.deepcopy(self.pages, memo), self.is_initialized
        other.length = self.length
        return other

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Make the pages, for rows like these."""
        batch, heads, _, head_size = key_states.shape
        own = str(key_states.dtype).removeprefix("torch.")
        dtype: Any = self.options.dtype or own
        self.pages = Pages(
            batch,
            heads,
            head_size=head_size,
            value_size=value_states.shape[-1],
            dtype=dtype,
            page=self.options.page,
            window=self.window,
            sinks=0 if self.is_sliding else self.options.sinks,
        )
        if self.options.max_length is not None:
            self.pages.reserve(self.options.max_length)
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append rows, and return what attention asks for all of them.

        Raises
        ------
        TypeError
            For rows of which gradients are wanted.
        ValueError
            For more rows than a static cache has room for.
        """
        del args, kwargs
        if torch.is_grad_enabled() and (key_states.requires_grad or value_states.requires_grad):
            raise TypeError(
                "key_states, value_states: got tensors that require gradients, which "
                "foveate.transformers.KVCache has none of; wanted a call under torch.no_grad(), as "
                "generate makes it, or use_cache=False"
            )
        append = _append_outside if torch.compiler.is_compiling() else Layer.append
        append(self, key_states, value_states)
        return self.keys, self.values

    def append(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Append rows."""
        if self.pages is None:
            self.lazy_initialization(key_states, value_states)
        rows = key_states.shape[-2]
        length, first = self.get_mask_sizes(rows)
        end, most = first + length, self.options.max_length
        if most is not None and end > most:
            raise ValueError(
                f"key_states: got {rows} rows behind {self.length}, wanted {most} in all at most, "
                "the max_length of the cache"
            )
        dtype = _DTYPES.get(self.pages.dtype, key_states.dtype)
        with threads_of_torch:
            self.pages.append(_array(key_states, dtype), _array(value_states, dtype))
        self.length = end
        self.keys = Cached.of(self, 0, key_states, first, end)
        self.values = Cached.of(self, 1, value_states, first, end)

    def dense(self, first: int, end: int, dtype: torch.dtype) -> list[torch.Tensor]:
        """Make keys and values of these positions.

        Raises
        ------
        ValueError
            Where a window hides some of them, of which masks of the model know nothing.
        """
        window = None if self.is_sliding else self.options.window
        if window is not None and end - 1 > window:
            raise ValueError(
                f"window: got {window} with {end} positions, wanted "
                'attn_implementation="foveate", and no weights: others do not know of it'
            )
        with torch.no_grad():
            return [tensor_of(x).to(dtype) for x in dense(self.pages, first, end)]

    def attend(
        self,
        query: torch.Tensor,
        score: Any,
        causal: bool,
        mask: torch.Tensor | None,
        softcap: float | None,
        sink: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Answer queries (batch, heads, Lq, D) at the last positions.

        Returns
        -------
        output : tensor (batch, Lq, heads, Dv)
            Contiguous.
        lse : tensor (batch, heads, Lq)
        """
        dtype = _DTYPES.get(self.pages.dtype, query.dtype)
        batch, heads, rows, _ = query.shape
        output = torch.empty((batch, rows, heads, self.pages.value_size), dtype=dtype, device="cpu")
        with threads_of_torch:
            _, lse = self.pages.attention(
                _array(query, dtype),
                score=score,
                causal=causal,
                mask=None if mask is None else as_array("mask", mask),
                softcap=softcap,
                sink=None if sink is None else _array(sink, torch.float64),
                out=as_array("output", output).swapaxes(1, 2),
                return_lse=True,
            )
        return output if dtype is query.dtype else output.to(query.dtype), torch.from_numpy(lse)

    # --- what transformers asks -------------------------------------------------------------------

    def get_seq_length(self) -> int:
        """Return how many positions there are."""
        return self.length

    def get_max_length(self) -> int:
        """Return how many there may be; -1: any number."""
        return -1 if self.options.max_length is None else self.options.max_length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return how many keys so many queries see, and the position of the first of them."""
        first = 0
        if self.sliding_window is not None:
            first = max(self.length - self.sliding_window + 1, 0)
        return self.length + query_length - first, first

    def reset(self) -> None:
        """Forget all rows, and of how many sequences they were."""
        self.pages = self.keys = self.values = None
        self.is_initialized, self.length = False, 0

    def crop(self, tokens_to_remove: int) -> None:
        """Take back the last positions, whose number is given as a negative one.

        Raises
        ------
        ValueError
            For a positive number, and for more than were appended last where a window has freed
            what is before.
        """
        if tokens_to_remove > 0:
            raise ValueError(f"tokens_to_remove: got {tokens_to_remove}, wanted 0 or less")
        if self.pages is not None and tokens_to_remove:
            length = max(self.length + tokens_to_remove, 0)
            self.pages.truncate(length)
            self.length = length

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Let sequence i go on from sequence `beam_idx[i]`; pages are shared."""
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Let the sequences be those at these places."""
        if self.pages is not None:
            places = indices.nonzero()[:, 0] if indices.dtype == torch.bool else indices
            self.pages.reorder(np.asarray(places.cpu()))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each sequence; pages are shared."""
        if self.pages is not None:
            self.pages.reorder(np.repeat(np.arange(self.pages.leading[0]), repeats))

    def offload(self) -> None:
        """Do nothing: rows are on the CPU."""

    prefetch = offload


# Where a graph is compiled, it breaks here.
_append_outside = torch.compiler.disable(Layer.append)


def _array(x: torch.Tensor, dtype: torch.dtype) -> Any:
    """Give a tensor as an array of this dtype."""
    if x.requires_grad:
        x = x.detach()
    return as_array("rows", x if x.dtype is dtype else x.to(dtype))


class KVCache(Cache):  # type: ignore[misc]  # transformers is untyped here
    """Keep the keys and values of a model in pages, of any dtype, for `generate`.

    It is a cache of transformers, made for one text or batch of texts:
    `model.generate(text, cache=KVCache(model.config, dtype="int8"))`. With
    `attn_implementation="foveate"` attention reads the pages as they are; rows never become dense
    tensors. Other implementations get dense rows, which are made anew for every call: this is right
    but slow.

    Parameters
    ----------
    config : transformers.PreTrainedConfig
        That of the model: it says which layers have a sliding window.
    dtype : str or torch.dtype, optional
        How rows are kept: "float16", "bfloat16", "float32", "float64", or in few bits "int8",
        "int4", "float8_e4m3" or "float8_e5m2", with one scale a row. None: the dtype of the model.
        Queries take a float dtype that is not theirs.
    max_length : int, optional
        A static cache: it has room for so many positions from the start, and refuses more. None: it
        grows.
    window : int, optional
        A query sees so many positions before its own in layers that have no window by the config;
        what is out of reach is freed. The answers of the model change, and it has to attend by
        "foveate".
    sinks : int, default 0
        With a `window`: the first positions, which are always seen [1]_.
    page : int, default 64
        The rows of a page.

    Attributes
    ----------
    nbytes : int
        The bytes of all pages.

    Raises
    ------
    TypeError, ValueError
        For options that are not supported, and for a config with layers that keep something else
        than keys and values beside them.

    See Also
    --------
    foveate.KVCache : the cache of one layer.
    generate : makes such a cache for each call.

    Notes
    -----
    The cache is right for greedy search, sampling, beams (which share pages until they part), and
    assisted decoding (what was appended last is taken back, behind a window too), for batches that
    are padded on the left, and for prompts in chunks. `copy.deepcopy` of a cache that holds a
    prompt lets several texts begin with it.

    Gradients are refused, and so is a compiled graph of the whole model: under `torch.compile` the
    graph breaks at a cache.

    References
    ----------
    .. [1] G. Xiao et al., "Efficient Streaming Language Models with Attention Sinks", ICLR 2024.

    Examples
    --------
    >>> import torch, transformers
    >>> import foveate.transformers
    >>> foveate.transformers.register()
    >>> config = transformers.LlamaConfig(
    ...     vocab_size=100, hidden_size=64, intermediate_size=64, num_hidden_layers=2,
    ...     num_attention_heads=4, num_key_value_heads=2, attn_implementation="foveate")
    >>> model = transformers.LlamaForCausalLM(config).eval()
    >>> cache = foveate.transformers.KVCache(config, dtype="int8")
    >>> text = model.generate(
    ...     torch.arange(3, 8)[None], cache=cache, max_new_tokens=4, do_sample=False,
    ...     eos_token_id=None)
    >>> text.shape, cache.get_seq_length()
    (torch.Size([1, 9]), 8)
    """

    def __init__(
        self,
        config: Any,
        *,
        dtype: str | torch.dtype | None = None,
        max_length: int | None = None,
        window: int | None = None,
        sinks: int = 0,
        page: int = 64,
    ) -> None:
        if isinstance(dtype, torch.dtype):
            dtype = str(dtype).removeprefix("torch.")
        options = Options(
            None if dtype is None else name_of(dtype),
            _size("page", page, 1),
            None if max_length is None else _size("max_length", max_length, 1),
            None if window is None else _size("window", window, 0),
            _size("sinks", sinks, 0),
        )
        if options.sinks and window is None:
            raise ValueError(f"sinks: got {sinks} without a window, wanted 0: all rows are kept")
        layers = [_own(x, n, options) for n, x in enumerate(DynamicCache(config=config).layers)]
        super().__init__(layers=layers)

    @property
    def nbytes(self) -> int:
        """The bytes of all pages."""
        pages = (getattr(layer, "pages", None) for layer in self.layers)
        return sum(x.nbytes for x in pages if x is not None)


def _own(layer: Any, index: int, options: Options) -> Any:
    """Give what takes the place of a layer of transformers' own cache."""
    if type(layer) is DynamicSlidingWindowLayer:
        return Layer(options, layer.sliding_window)
    if type(layer) is DynamicLayer:
        return Layer(options)
    keeps_rows = isinstance(layer, CacheLayerMixin)
    if isinstance(layer, DummyLayer | LinearAttentionCacheLayerMixin) and not keeps_rows:
        return layer
    raise ValueError(
        f"config: got layer {index} of {type(layer).__name__}, wanted layers that keep keys and "
        "values alone: of full, sliding or chunked attention"
    )


def _size(name: str, x: object, least: int) -> int:
    size = integer(name, x)
    if size < least:
        raise ValueError(f"{name}: got {size}, wanted {least} or more")
    return size

"""A cache of keys and values, to which rows are appended, and from which queries are answered."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias, overload

import numpy as np

from .._inputs import npz
from .._inputs.arrays import (
    integers,
    native,
    real,
    reals,
    room_for,
)
from .._inputs.few_bits import FewBitsName
from .._inputs.order import one_order_of
from .._inputs.types import Array, ArrayLike, Bool, Deterministic, FloatName, Int, Ints, Real, Reals
from .._reach.reach import mask_of
from ..scores._base import ScoreLike
from .attend import Choices, Rules, attend
from .files import FIELDS, STATE, alone, fields_of, pages_as, state_from, write
from .groups import Grouping
from .kinds import rows_as
from .ledger import Ledger, State
from .mapped import opened
from .operands import Rows
from .pages import Pages
from .settings import Settings, floats_as, settings_from, settings_of, size

RowsDtype: TypeAlias = FloatName | FewBitsName | np.dtype[Any] | type[np.generic]


class KVCache:
    """Keys and values of the tokens so far, in pages, for generation token by token [1]_.

    Rows are appended, and the queries of the last rows attend to all positions up to their own.
    A page holds `page` rows of each head. A sequence has its pages by a table, so that nothing is
    copied where sequences have different lengths, begin alike, or leave rows behind.

    Parameters
    ----------
    leading : ints
        The leading axes of keys and values: the batch first, and then heads. None is one sequence.
    head_size : int
        The columns of a key.
    value_size : int, optional
        The columns of a value; `head_size` by default.
    dtype : str or dtype, default "float32"
        How rows are kept: "float16", "bfloat16", "float32", "float64", or in few bits "int8",
        "int4", "float8_e4m3" or "float8_e5m2", with one scale a row.
    page : int, default 64
        The rows of a page.
    window : int, optional
        A query sees so many positions before its own. What no later query sees is freed.
    sinks : int, default 0
        With a `window`: the first positions, which are always seen, and kept where they are [2]_.
    values : {"own", "keys"}, default "own"
        "keys": the values are the first `value_size` columns of the keys, which are kept and read
        once, as in multi-head latent attention [3]_.
    storage : str or path, optional
        A new or empty folder: the pages are files there, mapped into memory, and may be larger than
        it. By default they are in memory.

    Attributes
    ----------
    leading : tuple of int
        The leading axes, with the batch as `reorder` left it.
    lengths : numpy.ndarray (batch,) of int64
        How many positions each sequence has, those that were freed included.
    nbytes : int
        Bytes of all pages that rows were written to, those that are free again included. There is
        room for half as many more, which systems give no memory for before it is written.

    Raises
    ------
    TypeError, ValueError, MemoryError
        For sizes and dtypes that are not supported.

    See Also
    --------
    attention : what a call computes.

    Notes
    -----
    One thread may append, truncate, reorder and so on, while any number of others attend: each sees
    the state before a change or after it, and neither waits for the other.

    Answers have the bits of `attention` over the same rows in one piece. Where a window has left
    its sinks behind, and where pages are in files of more than 256 MB, several answers are merged,
    and rounded once.

    References
    ----------
    .. [1] W. Kwon et al., "Efficient Memory Management for Large Language Model Serving with
       PagedAttention", SOSP 2023.
    .. [2] G. Xiao et al., "Efficient Streaming Language Models with Attention Sinks", ICLR 2024.
    .. [3] DeepSeek-AI, "DeepSeek-V2: A Strong, Economical, and Efficient Mixture-of-Experts
       Language Model", arXiv:2405.04434, 2024.

    Examples
    --------
    A prompt of five tokens and then one more, for two sequences of four heads:

    >>> import foveate as fv, numpy as np
    >>> query, key, value = np.random.default_rng(0).normal(size=(3, 2, 4, 6, 8))
    >>> cache = fv.KVCache(2, 4, head_size=8, dtype="float64")
    >>> cache.append(key[:, :, :5], value[:, :, :5])
    >>> prompt = cache.attention(query[:, :, :5])
    >>> cache.append(key[:, :, 5:], value[:, :, 5:])
    >>> token = cache.attention(query[:, :, 5:])
    >>> whole = fv.attention(query, key, value, causal=True)
    >>> np.allclose(np.concatenate([prompt, token], axis=2), whole), cache.lengths
    (True, array([6, 6]))
    """

    def __init__(
        self,
        *leading: Int,
        head_size: Int,
        value_size: Int | None = None,
        dtype: RowsDtype = "float32",
        page: Int = 64,
        window: Int | None = None,
        sinks: Int = 0,
        values: Literal["own", "keys"] = "own",
        storage: str | os.PathLike[str] | None = None,
    ) -> None:
        batch, settings = settings_of(
            leading, head_size, value_size, dtype, page, window, sinks, values
        )
        folder = None if storage is None else _new_folder(storage)
        self._be(settings)
        pages = Pages(settings.parts, settings.heads, settings.page, folder)
        zeros = np.zeros(batch, np.int64)
        table = np.empty((batch, 0), np.int64)
        self._begin(pages, State(0, pages.arrays, table, zeros, zeros, zeros, {}))

    def _be(self, settings: Settings) -> None:
        self._settings, self._kind = settings, settings.kind()

    def _begin(self, pages: Pages, state: State) -> None:
        self._pages = pages
        self._ledger = Ledger(pages, state, self._settings.window, self._settings.sinks)
        self._flushed: State | None = None

    @property
    def leading(self) -> tuple[int, ...]:
        """The leading axes of keys and values."""
        return () if self._settings.single else self._leading(self._ledger.state)

    @property
    def head_size(self) -> int:
        """The columns of a key."""
        return self._settings.head_size

    @property
    def value_size(self) -> int:
        """The columns of a value."""
        return self._settings.value_size

    @property
    def dtype(self) -> str:
        """The name of the dtype that rows are kept in."""
        return self._settings.dtype

    @property
    def page(self) -> int:
        """The rows of a page."""
        return self._settings.page

    @property
    def window(self) -> int | None:
        """How many positions before its own a query sees; None: all."""
        return self._settings.window

    @property
    def sinks(self) -> int:
        """How many of the first positions are always seen."""
        return self._settings.sinks

    @property
    def lengths(self) -> Array:
        """How many positions each sequence has."""
        lengths = self._ledger.state.lengths
        return lengths[0].copy() if self._settings.single else lengths.copy()

    @property
    def nbytes(self) -> int:
        """Bytes of the pages that were ever written: those that memory is taken for."""
        return self._pages.nbytes

    def __repr__(self) -> str:
        """Give the axes, the dtype and the lengths."""
        sizes = ", ".join(map(str, (*self.leading, f"head_size={self._settings.head_size}")))
        return f"KVCache({sizes}, dtype={self._settings.dtype!r}, lengths={self.lengths.tolist()})"

    @room_for("key")
    def append(
        self, key: ArrayLike, value: ArrayLike | None = None, lengths: Ints | None = None
    ) -> None:
        """Append rows, behind those of each sequence.

        Parameters
        ----------
        key : array (leading..., n, head_size)
            Of the cache's dtype; for one of few bits of any float dtype. It is copied.
        value : array (leading..., n, value_size)
            Likewise; None where the values are those of the keys.
        lengths : int or int array (batch,), optional
            How many of the n rows count, for each sequence: the first ones. The others are padding,
            and not read. All of them by default.

        Raises
        ------
        TypeError, ValueError
            For dtypes and shapes that do not fit, lengths outside 0..n, and NaN or inf where the
            dtype has few bits.
        MemoryError, OSError
            Where there is no memory, or no room on the disk. The cache does not change then.
        """
        k = self._rows("key", key, self._settings.head_size)
        rows = k.shape[-2]
        if lengths is None:
            counts = np.full(len(k), rows, np.int64)
        elif ((counts := self._counts("lengths", lengths, len(k))) < 0).any() or (
            counts > rows
        ).any():
            raise ValueError(f"lengths: got {counts.tolist()}, wanted 0 to {rows}, the rows of key")
        parts = rows_as(self._settings.dtype, k, "key")
        if self._settings.shared:
            if value is not None:
                raise TypeError("value: got an array, wanted None: values='keys' are in the keys")
        else:
            v = self._rows("value", value, self._settings.value_size)
            if v.shape[-2] != rows:
                raise ValueError(f"value: got {v.shape[-2]} rows, wanted {rows}, as key has")
            parts += rows_as(self._settings.dtype, v, "value")
        self._ledger.append(parts, counts)

    @room_for("length")
    def reserve(self, length: Int) -> None:
        """Make room for so many positions of each sequence, so that appending copies no pages.

        Parameters
        ----------
        length : int
            Positions, those that are there included. With a `window` no more than it keeps counts.

        Raises
        ------
        TypeError, ValueError, MemoryError
            For no int, a negative one, and where there is no memory.
        """
        rows = size("length", length, 0)
        made = self._settings
        if made.window is not None:  # a page of each end may be there in part
            rows = min(rows, made.window + 2 * made.page) + made.sinks
        self._ledger.reserve(self._ledger.state.lengths.size * -(-rows // made.page))

    @overload
    def attention(
        self, query: ArrayLike, *, return_lse: Literal[False] = ..., out: Array | None = ...,
        score: ScoreLike = ..., causal: Bool = ..., mask: ArrayLike | None = ...,
        softcap: Real | None = ..., sink: Reals | None = ..., deterministic: Deterministic = ...,
    ) -> Array: ...  # fmt: skip

    @overload
    def attention(
        self, query: ArrayLike, *, return_lse: Literal[True], out: Array | None = ...,
        score: ScoreLike = ..., causal: Bool = ..., mask: ArrayLike | None = ...,
        softcap: Real | None = ..., sink: Reals | None = ..., deterministic: Deterministic = ...,
    ) -> tuple[Array, Array]: ...  # fmt: skip

    @room_for("query")
    def attention(
        self,
        query: ArrayLike,
        *,
        score: ScoreLike = "scaled_dot",
        causal: Bool = True,
        mask: ArrayLike | None = None,
        softcap: Real | None = None,
        sink: Reals | None = None,
        deterministic: Deterministic = True,
        out: Array | None = None,
        return_lse: bool = False,
    ) -> Any:
        """Answer queries, which stand at the last positions.

        Parameters
        ----------
        query : array (leading..., Lq, head_size)
            The queries of the rows of the last `append`: those count that counted there. If there
            are more of them, or fewer, they are those of the last Lq positions of each sequence. Of
            the cache's dtype; for one of few bits of any float dtype. Heads that share keys are a
            further leading axis, (leading..., G, Lq, head_size); or there are G times as many heads
            as in the cache, and G after the other share one.
        score, softcap, sink : optional
            As for `attention`.
        causal : bool, default True
            Whether a query sees no position behind its own.
        mask : array (..., Lq, N) of bool or float, optional
            As for `attention`, over all N = max(lengths) positions.
        deterministic : True or "order", default True
            As for `attention`: with "order" a query has the bits that `attention` gives it over all
            positions, with a window and sinks too.
        out : numpy.ndarray, optional
            The array to write the output into, as for `attention`.
        return_lse : bool, default False
            Also return the logarithm of the denominator.

        Returns
        -------
        output : numpy.ndarray (..., Lq, value_size)
            Of the dtype and the leading axes of `query`. A row that does not count, or sees no key,
            is 0.
        lse : numpy.ndarray (..., Lq)
            Only with `return_lse`, as for `attention`.

        Raises
        ------
        TypeError, ValueError, MemoryError, KeyboardInterrupt
            As `attention`, and ValueError for queries whose windows begin before the rows that are
            kept: with a `window` there may be as many queries as the last `append` had rows.

        Examples
        --------
        Four query heads share two key heads:

        >>> import foveate as fv, numpy as np
        >>> cache = fv.KVCache(1, 2, head_size=8)
        >>> rows = np.ones((1, 2, 3, 8), np.float32)
        >>> cache.append(rows, rows)
        >>> cache.attention(np.ones((1, 4, 1, 8), np.float32)).shape
        (1, 4, 1, 8)
        """
        q = self._floats("query", query)
        if not isinstance(causal, (bool, np.bool_)):
            raise TypeError(f"causal: got {causal!r}, wanted a bool")
        how = Choices(
            score,
            None if softcap is None else real("softcap", softcap),
            None if sink is None else reals("sink", sink),
            None if mask is None else mask_of(mask),
            one_order_of(deterministic),
        )
        made = self._settings
        rules = Rules(made.page, made.window, made.sinks, bool(causal))
        state = self._ledger.enter()
        try:
            heads = Grouping.of(q, self._leading(state), made.single)
            rows = self._rows_of(state, heads.further)
            found = attend(
                heads.query(q), rows, state, rules, heads.choices(how), heads.out(out), return_lse
            )
        finally:
            self._ledger.leave(state)
        if not return_lse:
            return heads.joined(found, 2) if out is None else out
        output, lse = found
        return heads.joined(output, 2) if out is None else out, heads.joined(lse, 1)

    def truncate(self, lengths: Ints) -> None:
        """Take back what was appended last, as speculative decoding does.

        Parameters
        ----------
        lengths : int or int array (batch,)
            How many positions each sequence keeps, 0 to all of them. The others are free for what
            is appended next.

        Raises
        ------
        TypeError
            For what are no ints.
        ValueError
            For lengths that are not those of an earlier moment, and with a `window` for such that
            later queries would miss rows which are freed: the rows of the last `append` may be
            taken back, or all but the sinks.
        """
        batch = len(self._ledger.state.lengths)
        self._ledger.truncate(self._counts("lengths", lengths, batch))

    def reorder(self, index: Ints) -> None:
        """Let sequence i go on from what sequence `index[i]` holds, as the beams of a search do.

        Sequences that begin alike share their pages. A page that is partly filled is copied when
        one of them appends to it.

        Parameters
        ----------
        index : int array (any,)
            Numbers of sequences, each any number of times: there are as many sequences afterwards
            as it has numbers.

        Raises
        ------
        TypeError, ValueError
            For what is no int array of one axis, and for numbers outside 0..batch - 1.
        """
        if self._settings.single:
            raise ValueError("index: got one for a cache without a batch, wanted leading axes")
        found = np.asarray(integers("index", index))
        if found.ndim != 1:
            raise ValueError(f"index: got shape {found.shape}, wanted one axis")
        self._ledger.reorder(found)

    def _rows_of(self, state: State, further: int = 0) -> Rows:
        sizes = self._settings.head_size, self._settings.value_size
        pages = -(-self._settings.sinks // self._settings.page)
        return Rows(state, self._settings.dtype, sizes, self._settings.shared, further, pages)

    # --- files ------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the cache into a file, in NumPy's format npz, without pickles.

        Parameters
        ----------
        path : str or path
            The whole name of the file.

        Raises
        ------
        OSError
            For a file that cannot be written.

        See Also
        --------
        load : reads it.
        """
        state = self._ledger.enter()
        try:
            fields, used = alone(state)
            pages = dict(zip(self._settings.names, state.arrays, strict=True))
            write(path, {**self._settings.arrays(), **fields}, pages, used)
        finally:
            self._ledger.leave(state)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> KVCache:
        """Read a cache from a file that `save` wrote, into memory; no code in it is run.

        Parameters
        ----------
        path : str or path

        Returns
        -------
        KVCache

        Raises
        ------
        ValueError
            For a file that holds no cache.
        MemoryError
            For a file whose arrays are too large.
        OSError
            For a file that cannot be read.

        Examples
        --------
        >>> import foveate as fv, numpy as np, tempfile
        >>> cache = fv.KVCache(1, head_size=2)
        >>> cache.append(np.ones((1, 3, 2), np.float32), np.ones((1, 3, 2), np.float32))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     cache.save(f"{folder}/cache.npz")
        ...     fv.KVCache.load(f"{folder}/cache.npz")
        KVCache(1, head_size=2, dtype='float32', lengths=[3])
        """
        return cls._read(path, "KVCache.save", None)

    def flush(self) -> None:
        """Write a cache of files to the disk, as it is now: `open` finds it so.

        What is appended later is not in it before the next `flush`, and what was taken back or left
        the window is.

        Raises
        ------
        ValueError
            For a cache that is in memory.
        OSError
            Where the disk is full.
        """
        folder = self._pages.folder
        if folder is None:
            raise ValueError("flush: got a cache in memory, wanted one with storage=")
        state = self._ledger.enter()  # and so nothing that it shows is written over
        left: State | None = state
        try:
            self._pages.flush()
            temporary = folder / f"{STATE}.new"
            write(temporary, {**self._settings.arrays(), **fields_of(state)})
            temporary.replace(folder / STATE)
            self._flushed, left = state, self._flushed
        finally:
            if left is not None:
                self._ledger.leave(left)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> KVCache:
        """Go on with a cache of files, as the last `flush` left it; no code in them is run.

        Parameters
        ----------
        path : str or path
            The folder that was its `storage`. No other cache may have it open.

        Returns
        -------
        KVCache

        Raises
        ------
        ValueError
            For a folder that holds no cache.
        OSError
            For files that cannot be read or written.

        Examples
        --------
        >>> import foveate as fv, numpy as np, tempfile
        >>> rows = np.ones((1, 3, 2), np.float32)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     cache = fv.KVCache(1, head_size=2, storage=folder)
        ...     cache.append(rows, rows)
        ...     cache.flush()
        ...     print(fv.KVCache.open(folder))
        ...     del cache  # files that are mapped cannot be removed everywhere
        KVCache(1, head_size=2, dtype='float32', lengths=[3])
        """
        folder = Path(path)
        cache = cls._read(folder / STATE, "KVCache.flush", folder)
        cache._flushed = cache._ledger.enter()
        return cache

    def __getstate__(self) -> dict[str, Array]:
        """Give what pickles and copies hold, pages in memory."""
        state = self._ledger.enter()
        try:
            fields, used = alone(state)
            pages = zip(self._settings.names, state.arrays, strict=True)
            return {**self._settings.arrays(), **fields, **{name: x[used] for name, x in pages}}
        finally:
            self._ledger.leave(state)

    def __setstate__(self, found: dict[str, Array]) -> None:
        """Begin with what `__getstate__` gave."""
        self._be(settings_from(found)[1])
        self._begin_with(found, [found[name] for name in self._settings.names])

    @classmethod
    def _read(cls, path: str | os.PathLike[str], writer: str, folder: Path | None) -> KVCache:
        names = ("dtype", "heads", "sizes", *FIELDS)
        found = dict(zip(names, map(native, npz.read(path, writer, *names)), strict=True))
        cache = cls.__new__(cls)
        try:
            _, made = settings_from(found)
            cache._be(made)
            if folder is None:
                pages = list(map(native, npz.read(path, writer, *made.names)))
            else:
                pages = [opened(folder, part, made.page_shape) for part in made.parts]
                least = min(len(x) for x in pages)  # where a disk was full, one is behind
                pages = [x[:least] for x in pages]
            cache._begin_with(found, pages, folder)
        except (TypeError, ValueError) as error:
            raise ValueError(f"path: got {path}, which holds no cache: {error}") from error
        return cache

    def _begin_with(
        self, found: Mapping[str, Array], pages: list[Array], folder: Path | None = None
    ) -> None:
        made = self._settings
        arrays = pages_as(made.parts, pages, made.page_shape)
        kept = Pages(made.parts, made.heads, made.page, folder, arrays)
        self._begin(kept, state_from(found, kept.arrays, made.page))

    # --- what comes in ----------------------------------------------------------------------------

    def _leading(self, state: State) -> tuple[int, ...]:
        return len(state.lengths), *self._settings.heads

    def _floats(self, name: str, x: Any) -> Array:
        return floats_as(name, x, self._kind, self._settings.dtype)

    def _rows(self, name: str, x: object, columns: int) -> Array:
        """Take rows (*leading, n, columns), with a batch axis where the cache has none."""
        rows = self._floats(name, x)
        if self._settings.single:
            rows = rows[None]
        lead = self._leading(self._ledger.state)
        if rows.ndim != len(lead) + 2 or rows.shape[:-2] != lead or rows.shape[-1] != columns:
            wanted = ", ".join(map(str, (*lead[self._settings.single :], "n", columns)))
            got = rows.shape[self._settings.single :]
            raise ValueError(f"{name}: got shape {got}, wanted ({wanted})")
        return rows

    @staticmethod
    def _counts(name: str, x: object, batch: int) -> Array:
        """Take a number for each sequence."""
        found = np.asarray(integers(name, x))
        if found.ndim and found.shape != (batch,):
            raise ValueError(f"{name}: got shape {found.shape}, wanted an int or shape ({batch},)")
        return np.full(batch, found) if found.ndim == 0 else found.copy()


def _new_folder(storage: str | os.PathLike[str]) -> Path:
    """Make the folder, or take one that is empty."""
    folder = Path(storage)
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise ValueError(f"storage: got {folder}, wanted a new or empty folder (or KVCache.open)")
    return folder

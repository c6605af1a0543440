"""Keys and values of few bits, and in pages, made of tensors: `Quantized`, `Paged`, `quantize`.

Both are small objects that hold tensors. They are registered as trees of these, so that they go
into compiled and exported graphs, and out of them.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils import _pytree

from .._inputs.arrays import integer
from .._inputs.few_bits import FEW_BITS, FewBitsName
from .._inputs.quantized import BLOCKS
from .._inputs.quantized import quantize as quantize_array
from ._operator import TAGS, library, register
from ._tensors import FLOATS, INTEGERS, as_array, check_tensor, threads_of_torch
from ._vmap import sample_by_sample

# torch has dtypes of its own for the codes of float8.
_FLOAT8 = {"float8_e4m3": torch.float8_e4m3fn, "float8_e5m2": torch.float8_e5m2}


class Quantized:
    """Rows (..., L, D) of few bits as tensors: what is stored, times a scale.

    `key` and `value` of `attention` and `hard_attention` may be such, each on its own. It is what
    `foveate.Quantized` is for arrays; `quantize` makes it.

    Parameters
    ----------
    data : tensor (..., L, D) of int8, of uint8, or of a float8 dtype of torch
        As for `foveate.Quantized`: int8 for "int8", pairs of nibbles in uint8 for "int4", codes in
        uint8, or torch's own dtype, for float8.
    scale : float32 tensor (..., L, blocks)
        As for `foveate.Quantized`.
    dtype : {"int8", "int4", "float8_e4m3", "float8_e5m2"}
    columns : int, optional
        D, which is needed for "int4" where it is odd.
    block : {None, 32, 64, 128}
        How many columns share a scale; None: the whole row.

    Attributes
    ----------
    data, scale, dtype, block
        As given; codes of float8 are uint8.
    shape, ndim
        Of the rows: (..., L, D).
    nbytes : int
        Of data and scales.

    Raises
    ------
    TypeError, ValueError
        For other dtypes, and shapes that do not fit each other.

    See Also
    --------
    quantize : rounds rows to few bits.

    Examples
    --------
    >>> import torch, foveate.torch as ft
    >>> key = ft.quantize(torch.tensor([[1.0, -2.0], [0.0, 0.5]]))
    >>> key.data
    tensor([[  64, -127],
            [   0,  127]], dtype=torch.int8)
    >>> ft.attention(torch.ones(1, 2), key, torch.tensor([[1.0], [2.0]]))
    tensor([[1.7418]])
    """

    def __init__(
        self,
        data: Tensor,
        scale: Tensor,
        dtype: FewBitsName = "int8",
        *,
        columns: int | None = None,
        block: int | None = None,
    ) -> None:
        _check_kind(dtype, block)
        if isinstance(data, Tensor) and data.dtype is _FLOAT8.get(dtype):
            data = data.view(torch.uint8)
        stored = torch.int8 if dtype == "int8" else torch.uint8
        self.data = check_tensor("data", data, (stored,), f"a tensor of {stored} for {dtype!r}")
        self.scale = check_tensor("scale", scale, (torch.float32,), "a tensor of float32")
        if data.ndim < 2:
            raise ValueError(f"data: got shape {tuple(data.shape)}, wanted (..., L, D)")
        width, pair = data.shape[-1], dtype == "int4"
        most = 2 * width if pair else width
        size = most if columns is None else columns
        if not max(0, most - pair) <= size <= most:
            wanted = f"{max(0, most - 1)} or {most}" if pair else str(most)
            raise ValueError(f"columns: got {size} with data of {width} bytes, wanted {wanted}")
        blocks = 1 if block is None else -(-size // block)
        if tuple(scale.shape) != (*data.shape[:-1], blocks):
            raise ValueError(
                f"scale: got shape {tuple(scale.shape)}, wanted {(*data.shape[:-1], blocks)}, "
                f"{'one for each row' if block is None else f'one for each {block} columns'}"
            )
        self.dtype, self.columns, self.block = dtype, size, block

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the rows, (..., L, D)."""
        return (*self.data.shape[:-1], self.columns)

    @property
    def ndim(self) -> int:
        """How many axes the rows have."""
        return int(self.data.ndim)

    @property
    def nbytes(self) -> int:
        """Bytes of data and scales."""
        return int(self.data.nbytes + self.scale.nbytes)

    def __repr__(self) -> str:
        """Show what it is, and not the numbers."""
        by = "" if self.block is None else f", block={self.block}"
        return f"<Quantized {self.shape} of {self.dtype}{by}>"

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the rows as a tensor.

        Parameters
        ----------
        dtype : torch.dtype, default torch.float32
            The products are of float64 for torch.float64, and else of float32, rounded to the
            dtype.

        Returns
        -------
        tensor (..., L, D)

        Raises
        ------
        TypeError
            For another dtype.
        """
        if dtype not in FLOATS:
            raise TypeError(f"dtype: got {dtype}, wanted a float dtype, such as torch.float32")
        wide = torch.float64 if dtype is torch.float64 else torch.float32
        data = self.data
        if self.dtype in _FLOAT8:
            data = data.view(_FLOAT8[self.dtype])
        elif self.dtype == "int4":
            bits = data.view(torch.int8)
            halves = torch.stack([bits.bitwise_left_shift(4), bits], dim=-1)
            data = halves.bitwise_right_shift(4).flatten(-2)[..., : self.columns]
        scale = self.scale
        if self.block is not None:
            scale = scale.repeat_interleave(self.block, dim=-1)[..., : self.columns]
        return (data.to(wide) * scale.to(wide)).to(dtype)


class Paged:
    """Keys or values in pages, and a table that orders these, as tensors.

    `key` and `value` of `attention` and `hard_attention` may be such. It is what `foveate.Paged` is
    for arrays.

    Parameters
    ----------
    pages : tensor or Quantized (P, ..., S, D)
        P pages of S rows each. Axes between are leading axes behind that of the batch: the heads.
    table : int tensor (B, T)
        The pages of each batch entry, in the order of their rows. Pages that `key_lengths` leaves
        out may have any number.

    Attributes
    ----------
    pages, table
        As given.
    shape, ndim
        (B, ..., T * S, D), of the rows that it stands for.

    Raises
    ------
    TypeError, ValueError
        For other dtypes and shapes; and where it is used, for a number that is no page's and that
        `key_lengths` does not leave out.

    Examples
    --------
    Two sequences of 5 and 3 rows, in pages of 2 rows; they share the first page:

    >>> import torch, foveate.torch as ft
    >>> pages = torch.randn(4, 2, 8)
    >>> key = ft.Paged(pages, torch.tensor([[0, 1, 2], [0, 3, -1]]))
    >>> key.shape
    (2, 6, 8)
    >>> ft.attention(torch.ones(2, 1, 8), key, key, key_lengths=torch.tensor([5, 3])).shape
    torch.Size([2, 1, 8])
    """

    def __init__(self, pages: Tensor | Quantized, table: Tensor) -> None:
        if not isinstance(pages, Quantized):
            check_tensor("pages", pages, FLOATS, "a tensor of a float dtype, or Quantized")
        if pages.ndim < 3:
            raise ValueError(f"pages: got shape {tuple(pages.shape)}, wanted (P, ..., S, D)")
        check_tensor("table", table, INTEGERS, "a tensor of an integer dtype")
        if table.ndim != 2:
            raise ValueError(f"table: got shape {tuple(table.shape)}, wanted two axes, (B, T)")
        self.pages, self.table = pages, table

    @property
    def shape(self) -> tuple[int, ...]:
        """(B, ..., T * S, D), of the rows."""
        batch, count = self.table.shape
        _, *lead, rows, columns = self.pages.shape
        return (batch, *lead, count * rows, columns)

    @property
    def ndim(self) -> int:
        """How many axes `shape` has."""
        return self.pages.ndim

    def __repr__(self) -> str:
        """Show what it is, and not the numbers."""
        pages = self.pages
        return f"Paged(shape={self.shape}, dtype={pages.dtype}, {pages.shape[0]} pages)"


Stored: TypeAlias = Quantized | Paged
KINDS = (Quantized, Paged)


def quantize(x: Tensor, dtype: FewBitsName = "int8", *, block: int | None = None) -> Quantized:
    """Round the rows of a tensor to few bits, as `foveate.quantize`.

    Parameters
    ----------
    x : tensor (..., L, D)
        Of a float dtype, of finite numbers.
    dtype : {"int8", "int4", "float8_e4m3", "float8_e5m2"}, default "int8"
    block : {None, 32, 64, 128}
        How many columns share a scale; None: the whole row.

    Returns
    -------
    Quantized

    Raises
    ------
    TypeError, ValueError
        As `foveate.quantize`, and TypeError for a tensor of which gradients are wanted.

    Examples
    --------
    >>> import torch, foveate.torch as ft
    >>> ft.quantize(torch.randn(8, 1024, 64), "float8_e4m3")
    <Quantized (8, 1024, 64) of float8_e4m3>
    """
    check_tensor("x", x, FLOATS, "a tensor of float16, bfloat16, float32 or float64")
    _check_kind(dtype, block)
    if x.ndim < 2:
        raise ValueError(f"x: got shape {tuple(x.shape)}, wanted (..., L, D)")
    if torch.is_grad_enabled() and x.requires_grad:
        raise TypeError("x: got a tensor that requires gradients, wanted x.detach()")
    data, scale = torch.ops.foveate.quantize.default(x, dtype, block or 0)
    return Quantized(data, scale, dtype, columns=x.shape[-1], block=block)


def _check_kind(dtype: object, block: object) -> None:
    if not isinstance(dtype, str):
        raise TypeError(f"dtype: got {dtype!r}, wanted one of {list(FEW_BITS)}")
    if dtype not in FEW_BITS:
        raise ValueError(f"dtype: got {dtype!r}, wanted one of {list(FEW_BITS)}")
    if block is not None and integer("block", block) not in BLOCKS:
        raise ValueError(f"block: got {block}, wanted one of {list(BLOCKS)}")


# --- the operator ---------------------------------------------------------------------------------

library.define("quantize(Tensor x, str dtype, int block) -> (Tensor data, Tensor scale)", tags=TAGS)


def _quantize(x: Tensor, dtype: FewBitsName, block: int) -> tuple[Tensor, Tensor]:
    with threads_of_torch:
        found = quantize_array(as_array("x", x), dtype, block=block or None)
    return torch.from_numpy(found.data), torch.from_numpy(found.scale)


def _fake_quantize(x: Tensor, dtype: FewBitsName, block: int) -> tuple[Tensor, Tensor]:
    columns = x.shape[-1]
    width = (columns + 1) // 2 if dtype == "int4" else columns
    blocks = (columns + block - 1) // block if block else 1
    stored = torch.int8 if dtype == "int8" else torch.uint8
    return (
        x.new_empty((*x.shape[:-1], width), dtype=stored),
        x.new_empty((*x.shape[:-1], blocks), dtype=torch.float32),
    )


register(
    "quantize", _quantize, _fake_quantize, sample_by_sample, kernel=torch.library.fallthrough_kernel
)


# --- trees ----------------------------------------------------------------------------------------


def _register(kind: type[Any], tensors: tuple[str, ...], others: tuple[str, ...]) -> None:
    """Register a class as a tree of some of its attributes; the others say how it is put together.

    What stands for the tensors of a tree may be anything: nothing is checked then.
    """

    def parts(x: Any) -> tuple[list[Any], Any]:
        return [getattr(x, name) for name in tensors], [getattr(x, name) for name in others]

    def parts_by_name(x: Any) -> tuple[list[Any], Any]:
        found, how = parts(x)
        return [(_pytree.GetAttrKey(n), y) for n, y in zip(tensors, found, strict=True)], how

    def whole(found: Any, how: Any) -> Any:
        made: Any = object.__new__(kind)
        for name, y in zip((*tensors, *others), (*found, *how), strict=True):
            setattr(made, name, y)
        return made

    _pytree.register_pytree_node(
        kind,
        parts,
        whole,
        serialized_type_name=f"foveate.torch.{kind.__name__}",
        flatten_with_keys_fn=parts_by_name,
    )


_register(Quantized, ("data", "scale"), ("dtype", "columns", "block"))
_register(Paged, ("pages", "table"), ())

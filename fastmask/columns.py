"""numpy arrays as Arrow columns, and lengths of lists; nothing here makes pyarrow import pandas.

``pa.array`` and scalars of plain Python numbers do, wherever pandas is installed, to ask for its types.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa


def column(field: pa.Field, values: np.ndarray, null: np.ndarray | None = None) -> pa.Array:
    """Return the column of a field: values [N] of its dtype, absent where ``null`` bool [N].

    Raises:
        ValueError: they have another dtype.
    """
    import pyarrow as pa

    _check_dtype(field.name, field.type, values)
    valid = None if null is None else _bits(~null)
    return pa.Array.from_buffers(field.type, len(values), [valid, pa.py_buffer(np.ascontiguousarray(values))])


def ragged(field: pa.Field, offsets: np.ndarray, values: np.ndarray, null: np.ndarray | None = None) -> pa.Array:
    """Return the column of lists ``values[offsets[i]:offsets[i + 1]]``, absent where ``null`` bool [N].

    Raises:
        ValueError: the values have another dtype, or the offsets (int [N + 1]) do not cover them.
    """
    import pyarrow as pa

    check_offsets(field.name, offsets, values)
    items = column(field.type.value_field.with_name(field.name), values)
    starts = column(pa.field(field.name, pa.int32()), offsets.astype(np.int32))
    absent = None if null is None else pa.Array.from_buffers(pa.bool_(), len(null), [None, _bits(null)])
    return pa.ListArray.from_arrays(starts, items, type=field.type, mask=absent)


def check_offsets(name: str, offsets: np.ndarray, values: np.ndarray) -> None:
    """Raise ValueError, naming the column, unless offsets go from 0 to the number of values."""
    if offsets[0] != 0 or offsets[-1] != len(values):
        raise ValueError(f"{name}: offsets from {offsets[0]} to {offsets[-1]} for {len(values)} values")


def numbers(values: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """Return a column of numbers, none of them null, as numpy has it, [N]."""
    chunks = getattr(values, "chunks", [values])
    parts = [np.from_dlpack(chunk) for chunk in chunks if len(chunk)]
    return np.concatenate(parts or [np.empty(0, values.type.to_pandas_dtype())])


def present(values: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """Return bool [N]: which values are not null."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return numbers(pc.is_valid(values).cast(pa.uint8())).view(bool)


def list_lengths(lists: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """Return int32 [N], the length of each list, 0 for null."""
    import pyarrow as pa
    import pyarrow.compute as pc

    zero = column(pa.field("zero", pa.int32()), np.zeros(1, np.int32))[0]
    return numbers(pc.coalesce(pc.list_value_length(lists), zero))


def _check_dtype(name: str, kind: pa.DataType, values: np.ndarray) -> None:
    if values.dtype != kind.to_pandas_dtype():
        raise ValueError(f"{name}: {values.dtype} values in a column of {kind}")


def _bits(flags: np.ndarray) -> pa.Buffer:
    import pyarrow as pa

    return pa.py_buffer(np.packbits(flags, bitorder="little"))

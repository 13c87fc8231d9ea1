"""numpy arrays as Arrow columns, and columns as numpy arrays, by their buffers.

``pa.array``, ``to_numpy`` and ``pyarrow.compute`` would do, but the first two import pandas wherever it is installed,
and the last takes a tenth of a second to import.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import DTypeLike


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
    valid = None if null is None else _bits(~null)
    starts = pa.py_buffer(np.ascontiguousarray(offsets, np.int32))
    return pa.Array.from_buffers(field.type, len(offsets) - 1, [valid, starts], children=[items])


def texts(field: pa.Field, values: np.ndarray) -> pa.Array:
    """Return the column of strings, object [N]."""
    import pyarrow as pa

    encoded = [value.encode() for value in values.tolist()]
    offsets = np.append(0, np.cumsum(np.fromiter(map(len, encoded), np.int64, len(encoded)))).astype(np.int32)
    return pa.Array.from_buffers(
        field.type, len(encoded), [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded))]
    )


def check_offsets(name: str, offsets: np.ndarray, values: np.ndarray) -> None:
    """Raise ValueError, naming the column, unless offsets go from 0 to the number of values."""
    if offsets[0] != 0 or offsets[-1] != len(values):
        raise ValueError(f"{name}: offsets from {offsets[0]} to {offsets[-1]} for {len(values)} values")


def numbers(values: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """Return a column of numbers, none of them null, as numpy has it, [N]."""
    return _joined(values, np.from_dlpack, values.type.to_pandas_dtype())


def known(values: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """Return the numbers of a column that are not null, [K]."""
    kind = np.dtype(values.type.to_pandas_dtype())

    def convert(part: pa.Array) -> np.ndarray:
        end = part.offset + len(part)
        found: np.ndarray = np.frombuffer(part.buffers()[1], kind, end)[part.offset :][_present(part)]
        return found

    return _joined(values, convert, kind)


def present(values: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """Return bool [N]: which values are not null."""
    return _joined(values, _present, bool)


def list_lengths(lists: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """Return int32 [N], the length of each list, 0 for null."""
    return _joined(lists, lambda part: np.diff(np.from_dlpack(part.offsets)) * _present(part), np.int32)


def flat(lists: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """Return the values of all lists, none of them null, one after the other."""

    def values(part: pa.ListArray) -> np.ndarray:
        offsets = np.from_dlpack(part.offsets)
        return np.from_dlpack(part.values)[offsets[0] : offsets[-1]]

    return _joined(lists, values, lists.type.value_type.to_pandas_dtype())


def _joined(
    values: pa.ChunkedArray | pa.Array, convert: Callable[[pa.Array], np.ndarray], dtype: DTypeLike
) -> np.ndarray:
    """Return the chunks, each converted, end to end."""
    parts = [convert(chunk) for chunk in getattr(values, "chunks", [values]) if len(chunk)]
    return parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, dtype), *parts])


def _present(part: pa.Array) -> np.ndarray:
    if not part.null_count:
        return np.ones(len(part), bool)
    bits = np.unpackbits(np.frombuffer(part.buffers()[0], np.uint8), bitorder="little")
    return bits[part.offset : part.offset + len(part)].astype(bool)


def _check_dtype(name: str, kind: pa.DataType, values: np.ndarray) -> None:
    if values.dtype != kind.to_pandas_dtype():
        raise ValueError(f"{name}: {values.dtype} values in a column of {kind}")


def _bits(flags: np.ndarray) -> pa.Buffer:
    import pyarrow as pa

    return pa.py_buffer(np.packbits(flags, bitorder="little"))

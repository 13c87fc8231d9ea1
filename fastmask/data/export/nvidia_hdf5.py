"""Format ``nvidia-hdf5``: the files that NVIDIA's BERT trainer reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...core.errors import FastmaskError
from ..exporting import Format


class NvidiaHdf5(Format):
    """One HDF5 file, a dataset a field."""

    def check(self) -> None:
        """See ``Format.check``."""
        try:
            import h5py  # noqa: F401
        except ImportError:
            raise FastmaskError("--to nvidia-hdf5: needs h5py; pip install 'fastmask[export]'") from None

    def write(self, folder: Path, index: int, table: np.ndarray) -> None:
        """See ``Format.write``. NVIDIA's trainer reads the files that have "training" in their names."""
        import h5py

        with h5py.File(folder / f"training-{index:05d}.hdf5", "w") as file:
            for field in table.dtype.names or ():
                file.create_dataset(field, data=table[field], compression="gzip")


FORMAT = NvidiaHdf5()

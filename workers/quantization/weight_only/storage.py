"""Stored tensors of models of any size: read where they lie, written one after the other.

External data are mapped a tensor at a time and let go of again, so that memory holds one tensor and not the model.
"""

import math
import mmap
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, external_data_helper, helper, numpy_helper

from workers.formats.onnx.weights import external_place

_KEEP_INSIDE = 1024  # bytes below which a tensor stays in the model's own file, as onnx.save has it
_ALIGNMENT = 64
_COPY = 1 << 24


class Mapped:
    """A stored tensor that is only to be read, as `values`; used as a context, and gone after it."""

    def __init__(self, tensor: TensorProto, folder: Path) -> None:
        self._region: mmap.mmap | None = None
        self.values: NDArray[Any] = np.empty(0)
        if tensor.data_location == TensorProto.EXTERNAL and all(tensor.dims):
            self._map(tensor, folder)
        elif tensor.data_location == TensorProto.EXTERNAL:
            self.values = np.empty(tuple(tensor.dims), helper.tensor_dtype_to_np_dtype(tensor.data_type))
        else:
            self.values = numpy_helper.to_array(tensor)

    def _map(self, tensor: TensorProto, folder: Path) -> None:
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
        count = math.prod(tensor.dims)
        place = external_place(tensor)
        first = place.offset // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
        length = place.offset - first + count * dtype.itemsize
        with (folder / place.location).open("rb") as file:
            self._region = mmap.mmap(file.fileno(), length, offset=first, access=mmap.ACCESS_READ)
        found = np.frombuffer(self._region, dtype=dtype, count=count, offset=place.offset - first)
        self.values = found.reshape(tuple(tensor.dims))

    def release(self) -> None:
        """Let go of the pages that were read; those that are read again come from the file again."""
        if self._region is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._region.madvise(mmap.MADV_DONTNEED)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The region itself goes with the last array on it.
        self.values = np.empty(0)
        self._region = None


class Sink:
    """Where the tensors of a model in the making go: into its own message, or into `<name>.data` beside it.

    Used as a context; the data file is whole after it.
    """

    def __init__(self, path: Path, *, external: bool) -> None:
        self._data = path.with_name(path.name + ".data")
        self._data.unlink(missing_ok=True)
        self._file = self._data.open("wb") if external else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            empty = not self._file.tell()
            self._file.close()
            if empty:
                self._data.unlink()

    def put(
        self, name: str, values: NDArray[Any], data_type: int | None = None, dims: tuple[int, ...] = ()
    ) -> TensorProto:
        """Store an array; returns the tensor that stands for it.

        `data_type` and `dims` are those of the tensor where the array holds its bytes only (packed types).
        """
        values = np.asarray(values, order="C")  # which leaves a number without axes as it is
        tensor = TensorProto(
            name=name,
            data_type=data_type or helper.np_dtype_to_tensor_dtype(values.dtype),
            dims=dims or values.shape,
        )
        if self._file is None or values.nbytes < _KEEP_INSIDE:
            tensor.raw_data = values.tobytes()
        else:
            place = self._next()
            self._file.write(values.data.cast("B"))
            self._refer(tensor, place)
        return tensor

    def move(self, tensor: TensorProto, folder: Path) -> None:
        """Bring a tensor of the original, whose external data lie in `folder`, as it is."""
        if self._file is None:
            if tensor.data_location == TensorProto.EXTERNAL:
                raise ValueError("a model with external data keeps them")
            return
        if tensor.data_location == TensorProto.EXTERNAL:
            place = external_place(tensor)
            item = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type)).itemsize
            left = place.length if place.length is not None else math.prod(tensor.dims) * item
            if left < _KEEP_INSIDE:  # shapes too may lie outside, where runtimes do not look for them
                external_data_helper.load_external_data_for_tensor(tensor, str(folder))
                tensor.ClearField("data_location")
                tensor.ClearField("external_data")
                return
            start = self._next()
            with (folder / place.location).open("rb") as source:
                source.seek(place.offset)
                while left and (part := source.read(min(left, _COPY))):
                    self._file.write(part)
                    left -= len(part)
            self._refer(tensor, start)

    def _next(self) -> int:
        assert self._file is not None
        self._file.write(bytes(-self._file.tell() % _ALIGNMENT))
        return self._file.tell()

    def _refer(self, tensor: TensorProto, start: int) -> None:
        assert self._file is not None
        tensor.data_location = TensorProto.EXTERNAL
        del tensor.external_data[:]
        for key, value in (
            ("location", self._data.name), ("offset", str(start)), ("length", str(self._file.tell() - start)),
        ):  # fmt: skip
            tensor.external_data.add(key=key, value=value)

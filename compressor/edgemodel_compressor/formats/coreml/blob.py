"""weight.bin of an .mlpackage: where an ML program keeps its large constants. Read only; hostile input.

Format (MILBlob, as coremltools 9 writes it; little endian): a header of 64 bytes (count u32, version u32 = 2); then
for each tensor, at an offset that the program names, 64 bytes of metadata (sentinel u32 = 0xDEADBEEF, type u32, size
in bytes u64, offset of the data u64, bits of padding u64) and its data, both aligned to 64 bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from edgemodel_api.errors import InputError

_SENTINEL = 0xDEADBEEF
#: MILBlob's own numbers for types, not those of MIL.proto.
_TYPES: Mapping[int, np.dtype[Any]] = MappingProxyType(
    {
        1: np.dtype(np.float16),
        2: np.dtype(np.float32),
        3: np.dtype(np.uint8),
        4: np.dtype(np.int8),
        6: np.dtype(np.int16),
        7: np.dtype(np.uint16),
        14: np.dtype(np.int32),
        15: np.dtype(np.uint32),
    }
)


@dataclass(frozen=True)
class WeightFile:
    """The bytes of a weight.bin.

    Attributes:
        content: whole file.
        name: for messages.
    """

    content: bytes
    name: str = "weight.bin"

    def read(self, offset: int) -> npt.NDArray[Any]:
        """The values whose metadata is at `offset`, one axis.

        Raises:
            InputError: nothing that this format allows is there.
        """
        if offset < 0 or offset + 32 > len(self.content):
            raise self._wrong(f"a tensor at byte {offset}, but the file has {len(self.content)} bytes")
        sentinel, kind, size, start = struct.unpack_from("<IIQQ", self.content, offset)
        if sentinel != _SENTINEL:
            raise self._wrong(f"no tensor at byte {offset} (its mark is {sentinel:#x})")
        dtype = _TYPES.get(kind)
        if dtype is None:
            raise self._wrong(f"type {kind} of the tensor at byte {offset} is not known")
        if start + size > len(self.content) or size % dtype.itemsize:
            raise self._wrong(f"{size} bytes at byte {start}, but the file has {len(self.content)} bytes")
        values: npt.NDArray[Any] = np.frombuffer(self.content, dtype.newbyteorder("<"), size // dtype.itemsize, start)
        return values.astype(dtype)

    def _wrong(self, what: str) -> InputError:
        return InputError(f"{self.name}: {what}: the package is damaged, convert the model again")

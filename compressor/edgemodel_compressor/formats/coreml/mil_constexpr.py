"""MIL's compressed constants (iOS 16), and how they are unpacked: pages "constexpr ops" of coremltools."""

from __future__ import annotations

import numpy as np

from edgemodel_api.errors import InputError
from edgemodel_api.quantities import counted

from .mil import Arguments, Array, mil


def _bits(packed: Array, width: int, count: int) -> Array:
    """`count` numbers of `width` bits, packed from the least significant bit of each byte on."""
    bits = np.unpackbits(packed.astype(np.uint8), bitorder="little")
    if bits.size < width * count:
        raise InputError(
            f"{counted(packed.size, 'byte holds', 'bytes hold')} fewer than {counted(count, 'number')} of"
            f" {counted(width, 'bit')}: the package is damaged"
        )
    digits = bits[: width * count].reshape(count, width).astype(np.int64)
    return np.asarray(digits @ (1 << np.arange(width)))


@mil("constexpr_affine_dequantize")
def _affine(a: Arguments) -> Array:
    data, axis = a["quantized_data"], a.int_or("axis", 0)

    def along(value: Array) -> Array:
        if value.ndim == 0:
            return value
        shape = [1] * data.ndim
        shape[axis] = -1
        return value.reshape(shape)

    steps = data.astype(np.float32) - along(a["zero_point"]).astype(np.float32)
    return np.asarray(along(a["scale"]) * steps)


@mil("constexpr_lut_to_dense")
def _lut(a: Arguments) -> Array:
    shape, table = a.ints("shape"), a["lut"]
    width = int(table.size).bit_length() - 1
    return table[_bits(a["indices"], width, int(np.prod(shape)))].reshape(shape)


@mil("constexpr_sparse_to_dense")
def _sparse(a: Arguments) -> Array:
    shape, values = a.ints("shape"), a["nonzero_data"]
    mask = _bits(a["mask"], 1, int(np.prod(shape))).astype(bool)
    if int(mask.sum()) != values.size:
        raise InputError(
            f"a mask of {counted(int(mask.sum()), 'bit')} for {counted(values.size, 'value')}: the package is damaged"
        )
    dense = np.zeros(mask.size, values.dtype)
    dense[mask] = values
    return dense.reshape(shape)


@mil("constexpr_cast")
def _cast(a: Arguments) -> Array:
    return a["source_val"].astype(np.float32)

"""Convolutions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from edgemodel_api.quantities import counted

from .base import Call, Value, op

Pads = list[tuple[int, int]]
#: Larger kernels are left to XLA: each tap is an operation of its own.
MAX_TAPS = 64


def same_pads(
    call: Call, sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> Pads:
    """(begin, end) per spatial axis by `auto_pad` and `pads`."""
    rank = len(sizes)
    auto = call.get("auto_pad", "NOTSET") or "NOTSET"
    if auto == "NOTSET":
        pads = call.ints("pads", (0,) * (2 * rank)) or ()
        if len(pads) != 2 * rank:
            raise ValueError(
                f"pads has {counted(len(pads), 'number')} for {counted(rank, 'spatial axis', 'spatial axes')}"
            )
        return [(pads[i], pads[i + rank]) for i in range(rank)]
    if auto == "VALID":
        return [(0, 0)] * rank
    found = []
    for size, k, s, d in zip(sizes, kernel, strides, dilations, strict=True):
        total = max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
        small = total // 2
        found.append((small, total - small) if auto == "SAME_UPPER" else (total - small, small))
    return found


def _spatial(rank: int) -> tuple[str, str, str]:
    axes = "DHW"[-rank:] if rank <= 3 else "".join(chr(ord("a") + i) for i in range(rank))
    return f"NC{axes}", f"OI{axes}", f"NC{axes}"


@op("Conv", traced=True)
def _conv(call: Call, x: Value, w: Value, bias: Value = None) -> Value:
    rank = x.ndim - 2
    strides = call.ints("strides", (1,) * rank) or ()
    dilations = call.ints("dilations", (1,) * rank) or ()
    pads = same_pads(call, x.shape[2:], w.shape[2:], strides, dilations)
    group = int(call.get("group", 1))
    if w.shape[0] % group or x.shape[1] != w.shape[1] * group:
        raise ValueError(f"{counted(x.shape[1], 'channel')} in {counted(group, 'group')} of {w.shape[1]}")
    if group > 1 and math.prod(w.shape[2:]) <= MAX_TAPS:
        y = _by_taps(x, w, group, (strides, dilations, pads))
    else:
        y = jax.lax.conv_general_dilated(
            x, w, strides, pads, rhs_dilation=dilations, feature_group_count=group, dimension_numbers=_spatial(rank)
        )
    return y if bias is None else y + bias.reshape(-1, *(1,) * rank)


def _by_taps(x: Value, w: Value, group: int, how: tuple[Sequence[int], Sequence[int], Pads]) -> Value:
    """A grouped convolution as a sum over the kernel's taps, each a product of shifted inputs.

    XLA's own on the CPU takes 2 to 30 times as long, mostly in the gradient: it makes one dense convolution of it.
    """
    strides, dilations, pads = how
    kernel = w.shape[2:]
    x = jnp.pad(x, [(0, 0), (0, 0), *pads])
    sizes = [(n - (k - 1) * d - 1) // s + 1 for n, k, s, d in zip(x.shape[2:], kernel, strides, dilations, strict=True)]
    inner, made = w.shape[1], w.shape[0] // group
    total: Value = 0
    for tap in np.ndindex(*kernel):
        at = [
            slice(i * d, i * d + (m - 1) * s + 1, s) for i, d, s, m in zip(tap, dilations, strides, sizes, strict=True)
        ]
        part = x[(slice(None), slice(None), *at)]
        weight = w[(slice(None), slice(None), *tap)]
        if inner == 1 and made == 1:
            total = total + part * weight.reshape(-1, *(1,) * len(sizes))
        else:
            grouped = part.reshape(x.shape[0], group, inner, -1)
            total = total + jnp.einsum("ngis,gmi->ngms", grouped, weight.reshape(group, made, inner))
    return total.reshape(x.shape[0], w.shape[0], *sizes)


@op("ConvTranspose", traced=True)
def _conv_transpose(call: Call, x: Value, w: Value, bias: Value = None) -> Value:
    rank = x.ndim - 2
    strides = call.ints("strides", (1,) * rank) or ()
    dilations = call.ints("dilations", (1,) * rank) or ()
    extra = call.ints("output_padding", (0,) * rank) or ()
    reach = [(k - 1) * d + 1 for k, d in zip(w.shape[2:], dilations, strict=True)]
    full = [s * (n - 1) + e + r for s, n, e, r in zip(strides, x.shape[2:], extra, reach, strict=True)]
    wanted = call.ints("output_shape")
    auto = call.get("auto_pad", "NOTSET") or "NOTSET"
    if wanted is None and auto in ("SAME_UPPER", "SAME_LOWER"):
        wanted = tuple(n * s for n, s in zip(x.shape[2:], strides, strict=True))
    if wanted is not None:
        pads = []
        for f, o in zip(full, wanted[-rank:], strict=True):
            small = (f - o) // 2
            pads.append((small, f - o - small) if auto == "SAME_UPPER" else (f - o - small, small))
    else:
        pads = same_pads(call, x.shape[2:], w.shape[2:], strides, dilations)
    group = int(call.get("group", 1))
    # [C, M/group, k…] → [M, C/group, k…], flipped: the transpose of a convolution is one over the dilated input.
    c, m = w.shape[:2]
    w = w.reshape(group, c // group, m, *w.shape[2:]).swapaxes(1, 2).reshape(group * m, c // group, *w.shape[2:])
    w = jnp.flip(w, tuple(range(2, w.ndim)))
    around = [(r - 1 - b, r - 1 - e + o) for r, (b, e), o in zip(reach, pads, extra, strict=True)]
    y = jax.lax.conv_general_dilated(
        x, w, (1,) * rank, around, lhs_dilation=strides, rhs_dilation=dilations, feature_group_count=group,
        dimension_numbers=_spatial(rank),
    )  # fmt: skip
    return y if bias is None else y + bias.reshape(-1, *(1,) * rank)


@op("CausalConvWithState", traced=True)
def _causal_conv(call: Call, x: Value, w: Value, bias: Value = None, past: Value = None) -> tuple[Value, ...]:
    reach = w.shape[2] - 1
    before = jnp.zeros((*x.shape[:2], reach), x.dtype) if past is None else past
    padded = jnp.concatenate([before, x], 2)
    y = _by_taps(padded, w, x.shape[1], ((1,), (1,), [(0, 0)]))
    y = y if bias is None else y + bias[:, None]
    if call.get("activation", "none") in ("silu", "swish"):
        y = jax.nn.silu(y)
    return y, padded[:, :, padded.shape[2] - reach :]

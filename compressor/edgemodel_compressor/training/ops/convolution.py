"""Convolutions."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from .base import Call, Value, op

Pads = list[tuple[int, int]]


def same_pads(
    call: Call, sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> Pads:
    """(begin, end) per spatial axis by `auto_pad` and `pads`."""
    rank = len(sizes)
    auto = call.get("auto_pad", "NOTSET") or "NOTSET"
    if auto == "NOTSET":
        pads = call.ints("pads", (0,) * (2 * rank)) or ()
        if len(pads) != 2 * rank:
            raise ValueError(f"pads has {len(pads)} numbers for {rank} spatial axes")
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
    y = jax.lax.conv_general_dilated(
        x, w, strides, pads, rhs_dilation=dilations, feature_group_count=int(call.get("group", 1)),
        dimension_numbers=_spatial(rank),
    )  # fmt: skip
    return y if bias is None else y + bias.reshape(-1, *(1,) * rank)


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

"""Space and batch: how converters of old wrote dilated convolutions.

SPACE_TO_BATCH_ND, a convolution without padding, BATCH_TO_SPACE_ND: that is one convolution with the block's size as its
dilation, with the first one's padding and without what the last one crops. Alone, each moves samples about, so the batch
is fixed.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from edgemodel_api.quantities import counted

from .read_build import RefusedError
from .read_file import SourceGraph, SourceOp
from .read_site import ReadSite, reads
from .schema import enum

_CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D")


class Dilated:
    """Options of a convolution that three operators are.

    Everything that it does not have is the convolution's own.
    """

    def __init__(self, options: Any, block: tuple[int, int], pads: tuple[tuple[int, int], tuple[int, int]]) -> None:
        self._options = options
        self.dilationHFactor, self.dilationWFactor = block
        self.explicitPads = pads

    def __getattr__(self, name: str) -> Any:
        return getattr(self._options, name)


def dilated(source: SourceGraph) -> SourceGraph:
    """With each such three as one convolution."""
    makers = {number: op for op in source.ops for number in op.outputs}
    readers: dict[int, list[SourceOp]] = {}
    for op in source.ops:
        for number in op.inputs:
            readers.setdefault(number, []).append(op)
    kept = {*source.outputs.values()}
    merged: dict[int, SourceOp] = {}
    gone: set[int] = set()
    for last in source.ops:
        if last.code != "BATCH_TO_SPACE_ND" or len(last.inputs) != 3:
            continue
        middle = makers.get(last.inputs[0])
        first = makers.get(middle.inputs[0]) if middle is not None and middle.code in _CONVOLUTIONS else None
        if middle is None or first is None or first.code != "SPACE_TO_BATCH_ND" or len(first.inputs) != 3:
            continue
        between = (first.outputs[0], middle.outputs[0])
        if any(len(readers.get(n, ())) != 1 or n in kept for n in between):
            continue
        options = _joined(source, first, middle, last)
        if options is not None:
            inputs = (first.inputs[0], *middle.inputs[1:])
            merged[last.place] = SourceOp(middle.place, middle.code, inputs, last.outputs, options)
            gone |= {first.place, middle.place}
    if not merged:
        return source
    return replace(source, ops=tuple(merged.get(op.place, op) for op in source.ops if op.place not in gone))


def _joined(source: SourceGraph, first: SourceOp, middle: SourceOp, last: SourceOp) -> Dilated | None:
    def numbers(number: int) -> list[int] | None:
        data = source.tensors[number].data if number >= 0 else None
        return None if data is None or data.size > 4 else [int(v) for v in data.reshape(-1)]

    block, pads, blocks, crops = (numbers(n) for n in (*first.inputs[1:], *last.inputs[1:]))
    own = middle.options
    plain = (own.strideH, own.strideW, own.dilationHFactor, own.dilationWFactor) == (1, 1, 1, 1)
    valid = int(own.padding) == enum("Padding", "VALID")
    if not plain or not valid or block is None or pads is None or crops is None or block != blocks:
        return None
    if len(block) != 2 or len(pads) != 4 or len(crops) != 4:
        return None
    left = [p - c for p, c in zip(pads, crops, strict=True)]
    if min(left) < 0 or min(block) < 1:
        return None
    return Dilated(own, (block[0], block[1]), ((left[0], left[1]), (left[2], left[3])))


def _blocks(site: ReadSite, what: str) -> tuple[list[int], list[tuple[int, int]]]:
    sizes, numbers = site.fixed_ints(1, "its block"), site.fixed_ints(2, what)
    pairs = [(numbers[i], numbers[i + 1]) for i in range(0, len(numbers) - 1, 2)]
    if site.rank() != 4 or len(sizes) != 2 or len(pairs) != 2 or min(sizes) < 1 or min(map(min, pairs)) < 0:
        raise RefusedError(f"blocks of {sizes} in {counted(site.rank(), 'dimension')}, {what} {numbers}")
    return sizes, pairs


@reads("SPACE_TO_BATCH_ND", note="with a fixed batch, or around a convolution")
def _space_to_batch(site: ReadSite) -> None:
    (high, wide), pads = _blocks(site, "padding")
    site.closed(range(4))
    n, h, w, c = (int(d) for d in site.shape())
    h, w = h + sum(pads[0]), w + sum(pads[1])
    if h % high or w % wide:
        raise RefusedError(f"{h} x {w} in blocks of {high} x {wide}")
    x = site.get()
    if any(map(any, pads)):
        ends = [0, pads[0][0], pads[1][0], 0, 0, pads[0][1], pads[1][1], 0]
        x = site.emit("Pad", [x, site.build.ints(ends)], mode="constant")
    cut = site.build.reshape(x, (n, h // high, high, w // wide, wide, c))
    moved = site.emit("Transpose", [cut], perm=[2, 4, 0, 1, 3, 5])
    shape = (n * high * wide, h // high, w // wide, c)
    site.give(site.build.reshape(moved, shape), shape)


@reads("BATCH_TO_SPACE_ND", note="with a fixed batch, or around a convolution")
def _batch_to_space(site: ReadSite) -> None:
    (high, wide), crops = _blocks(site, "crops")
    site.closed(range(4))
    n, h, w, c = (int(d) for d in site.shape())
    if n % (high * wide):
        raise RefusedError(f"{counted(n, 'sample')} in blocks of {high} x {wide}")
    n //= high * wide
    cut = site.build.reshape(site.get(), (high, wide, n, h, w, c))
    moved = site.emit("Transpose", [cut], perm=[2, 3, 0, 4, 1, 5])
    whole = (h * high, w * wide)
    name = site.build.reshape(moved, (n, *whole, c))
    sizes = [s - sum(crop) for s, crop in zip(whole, crops, strict=True)]
    if min(sizes) < 1:
        raise RefusedError(f"crops {crops} of {list(whole)}")
    if math.prod(sizes) != math.prod(whole):
        begins = [crop[0] for crop in crops]
        ends = [b + s for b, s in zip(begins, sizes, strict=True)]
        name = site.emit("Slice", [name, site.build.ints(begins), site.build.ints(ends), site.build.ints([1, 2])])
    site.give(name, (n, *sizes, c))

"""Cutting by begins, ends and strides."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgemodel_api.quantities import counted

from .graph import Free, Shape
from .read_build import FixedBatchError, RefusedError
from .read_site import ReadSite, reads

_FAR = 2**62


@dataclass(frozen=True)
class Cut:
    """What remains of one axis.

    Attributes:
        axis: of the input.
        begin: first place, or of a negative step the last one.
        end: behind the last place (−1 with a negative step: the front is included).
        step: not 0.
        size: how many places.
    """

    axis: int
    begin: int
    end: int
    step: int
    size: int


@reads("SLICE")
def _slice(site: ReadSite) -> None:
    begins, sizes = site.ints(1, "its begin"), site.ints(2, "its size")
    shape = site.shape()
    if not len(begins) == len(sizes) == len(shape):
        raise RefusedError(f"{counted(len(begins), 'begin')} for {counted(len(shape), 'dimension')}")
    cuts: list[Cut] = []
    out: list[int] = []
    for axis, (d, b, s) in enumerate(zip(shape, begins, sizes, strict=True)):
        if isinstance(d, Free):
            whole = int(b) == 0 and (int(s) == -1 or isinstance(s, Free) or (site.lenient and int(s) == int(d)))
            if not whole:
                raise FixedBatchError("it cuts the batch")
            out.append(d)
            continue
        size = int(d) - int(b) if int(s) == -1 else int(s)
        if isinstance(s, Free) or isinstance(b, Free):
            raise FixedBatchError("it cuts by the size of the batch")
        if b < 0 or size < 0 or int(b) + size > int(d):
            raise RefusedError(f"{counted(size, 'place')} from {int(b)} on, of {int(d)}")
        if size != int(d):
            cuts.append(Cut(axis, int(b), int(b) + size, 1, size))
        out.append(size)
    _give_cut(site, cuts, tuple(out), ())


@reads("STRIDED_SLICE", note="all masks")
def _strided_slice(site: ReadSite) -> None:
    value = site.value(0)
    begins, ends = site.ints(1, "its begin"), site.ints(2, "its end")
    strides = site.fixed_ints(3, "its strides")
    if not len(begins) == len(ends) == len(strides):
        raise RefusedError("begins, ends and strides differ in number")
    if site.option("offset", False):
        ends = [b + e for b, e in zip(begins, ends, strict=True)]
    masks = {n: int(site.option(f"{n}Mask", 0)) for n in ("begin", "end", "ellipsis", "newAxis", "shrinkAxis")}
    cuts: list[Cut] = []
    #: Of the result: (size, or None: the axis goes).
    out: list[int | None] = []
    added: list[int] = []
    axis = 0
    skipped = (masks["newAxis"] & ((1 << len(begins)) - 1)).bit_count()
    for i, (b, e, s) in enumerate(zip(begins, ends, strides, strict=True)):
        bit = 1 << i
        if masks["ellipsis"] & bit:
            whole = value.rank - (len(begins) - 1 - skipped)
            out += value.shape[axis : axis + whole]
            axis += whole
            continue
        if masks["newAxis"] & bit:
            added.append(len([d for d in out if d is not None]))
            out.append(1)
            continue
        if axis >= value.rank or s == 0:
            raise RefusedError(
                f"{counted(len(begins), 'cut')} of {counted(value.rank, 'dimension')}, strides {strides}"
            )
        d = value.shape[axis]
        shrink = bool(masks["shrinkAxis"] & bit)
        if isinstance(d, Free):
            _whole(site, d, b, e, s, first=bool(masks["begin"] & bit), last=bool(masks["end"] & bit), shrink=shrink)
            out.append(d)
        else:
            if isinstance(b, Free) or (isinstance(e, Free) and not masks["end"] & bit):
                raise FixedBatchError("it cuts by the size of the batch")
            cut = _cut(axis, int(d), None if masks["begin"] & bit and not shrink else int(b),
                       None if masks["end"] & bit else int(e), s, shrink=shrink)  # fmt: skip
            if (cut.begin, cut.size, cut.step) != (0, int(d), 1):
                cuts.append(cut)
            out.append(None if shrink else cut.size)
        axis += 1
    out += value.shape[axis:]
    if value.known is not None and not value.constant:
        _give_known(site, cuts, out, added)
        return
    # Where axes go or come, the others are cut first; both at once are one reshape.
    removed = any(d is None for d in out) or bool(added)
    _give_cut(site, cuts, tuple(d for d in out if d is not None), tuple(added), reshape=removed)


def _whole(site: ReadSite, d: int, b: int, e: int, s: int, *, first: bool, last: bool, shrink: bool) -> None:
    """The batch must be kept as a whole."""
    ends = last or isinstance(e, Free) or int(e) >= 2**31 - 1 or (site.lenient and int(e) >= int(d))
    if shrink or s != 1 or not (first or int(b) == 0) or not ends:
        raise FixedBatchError("it cuts the batch")


def _cut(axis: int, d: int, begin: int | None, end: int | None, step: int, *, shrink: bool) -> Cut:
    if shrink:
        place = begin or 0
        place += d if place < 0 else 0
        if not 0 <= place < d:
            raise RefusedError(f"place {begin} of {d}")
        return Cut(axis, place, place + 1, 1, 1)
    low, high, by = slice(begin, end, step).indices(d)
    return Cut(axis, low, high, by, len(range(low, high, by)))


def _give_known(site: ReadSite, cuts: list[Cut], out: list[int | None], added: list[int]) -> None:
    numbers = site.value(0).known
    if numbers is None or numbers.ndim != 1 or added:
        raise RefusedError("sizes are cut in more than one dimension")
    for cut in cuts:
        numbers = numbers[[*range(cut.begin, cut.end, cut.step)]]
    site.give_known(numbers.reshape(()) if out and out[0] is None else numbers)


def _give_cut(site: ReadSite, cuts: list[Cut], shape: Shape, added: tuple[int, ...], *, reshape: bool = False) -> None:
    value = site.value(0)
    perm = value.perm if not reshape else tuple(range(value.rank))
    name = site.get(0, perm)
    if cuts:
        if any(c.size == 0 for c in cuts):
            raise RefusedError("nothing remains")
        ends = [c.end if c.end >= 0 else -_FAR for c in cuts]
        vectors = (
            [c.begin for c in cuts], ends, [perm.index(c.axis) for c in cuts], [c.step for c in cuts],
        )  # fmt: skip
        name = site.emit("Slice", [name, *(site.build.ints(v) for v in vectors)])
    site.give(site.build.reshape(name, shape) if reshape else name, shape, perm if not reshape else None)


@reads("REVERSE_V2")
def _reverse(site: ReadSite) -> None:
    value = site.value(0)
    axes = [site.axis(a) for a in site.fixed_ints(1, "its axes")]
    site.closed(axes)
    perm = value.perm
    count = len(axes)
    vectors = ([-1] * count, [-_FAR] * count, [perm.index(a) for a in axes], [-1] * count)
    name = site.emit("Slice", [site.get(0, perm), *(site.build.ints(v) for v in vectors)])
    site.give(name, value.shape, perm)


@reads("REVERSE_SEQUENCE")
def _reverse_sequence(site: ReadSite) -> None:
    time, batch = int(site.option("seqDim", 0)), int(site.option("batchDim", 0))
    rank = site.rank()
    time, batch = site.axis(time), site.axis(batch)
    site.closed([time])
    if {time, batch} != {0, 1} or rank < 2:
        raise RefusedError(f"times along axis {time}, samples along axis {batch}")
    lengths = site.get(1)
    if site.value(1).dtype != np.int64:
        lengths = site.emit("Cast", [lengths], to=7)
    name = site.emit("ReverseSequence", [site.get(), lengths], time_axis=time, batch_axis=batch)
    site.give(name, site.shape())

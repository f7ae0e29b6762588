"""Stored size × quality and stored size × latency of all candidates, with the budget drawn in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, MaxNLocator

from edgemodel_api.quantities import counted, format_bytes, format_seconds, parse_percent
from edgemodel_api.report import CompressionReport, Measurement

from . import numbers, palette, svg
from .labels import Box, Wish, place
from .points import Kind, Point, Range, focus, front, paired_latency, points

#: (marker, size in points, filled). Shape tells as much as colour does.
MARKERS = {
    Kind.SOURCE: ("s", 7.0, True),
    Kind.CHOSEN: ("*", 14.0, True),
    Kind.ACCEPTED: ("o", 6.5, True),
    Kind.REFUSED: ("x", 6.5, False),
}
COLOURS = {
    Kind.SOURCE: palette.INK,
    Kind.CHOSEN: palette.CHOSEN,
    Kind.ACCEPTED: palette.ACCEPTED,
    Kind.REFUSED: palette.REFUSED,
}
#: More names than this in one panel are a cloud of words; the table has them all, and so has the pointer.
MAX_LABELS = 14
ABBREVIATED = 34


class Panel(NamedTuple):
    """One axis of values over size."""

    title: str
    values: dict[str, float]
    #: What the budget calls the limit → its value.
    limits: dict[str, float]
    higher_is_better: bool
    axis: Range
    text: Callable[[float], str]
    spread: dict[str, tuple[float, float]]


def draw(report: CompressionReport, chosen: frozenset[str]) -> Markup | None:
    """The figure as SVG; None where nothing was measured that could be drawn.

    Args:
        report: of the compressor.
        chosen: names of the candidates that nodes run (or would).
    """
    shown = tuple(p for p in points(report, chosen) if p.measurement.size_bytes > 0)
    panels = [p for p in (_quality_panel(report, shown), _latency_panel(report, shown)) if p is not None]
    if not panels:
        return None
    titles: dict[str, str] = {}
    with svg.style():
        figure = Figure((svg.WIDTH_INCHES, 4.5), dpi=72)
        FigureCanvasAgg(figure)
        all_axes = figure.subplots(1, len(panels), squeeze=False)[0]
        figure.subplots_adjust(0.065, 0.115, 0.99, 0.83, wspace=0.17)
        unit, divisor = _byte_unit(max(p.measurement.size_bytes for p in shown))
        limit = numbers.size_limit(report.budget)
        sizes = Range(*_size_range([p.measurement.size_bytes for p in shown], limit))
        named: list[tuple[Axes, list[Text]]] = []
        for i, (axes, panel) in enumerate(zip(all_axes, panels, strict=True)):
            axes.set_title(panel.title, pad=10)
            axes.set_xlabel(f"Stored size ({unit})")
            axes.set_xlim(sizes.low / divisor, sizes.high / divisor)
            axes.set_ylim(panel.axis.low, panel.axis.high)
            axes.xaxis.set_major_locator(MaxNLocator(7))
            axes.yaxis.set_major_locator(MaxNLocator(7))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _, panel=panel: panel.text(value)))
            texts = _budget(axes, panel, None if limit is None else limit / divisor, report.budget.max_size or "")
            _front(axes, panel, shown, divisor)
            for j, point in enumerate(shown):
                if point.name in panel.values:
                    titles[f"point{i}-{j}"] = _title(point, report)
                    _mark(axes, panel, point, divisor, gid=f"point{i}-{j}")
            named.append((axes, texts))
        _legend(figure, shown, limited=limit is not None or any(p.limits for p in panels))
        figure.draw_without_rendering()
        for (axes, texts), panel in zip(named, panels, strict=True):
            _label(axes, panel, shown, divisor, texts)
        return svg.to_svg(figure, prefix="c-", label=_description(report, shown), titles=titles)


def _quality_panel(report: CompressionReport, shown: Sequence[Point]) -> Panel | None:
    values = {p.name: p.measurement.quality for p in shown if p.measurement.quality is not None}
    source = report.source.quality
    if source is None or not values:
        return None
    limit = numbers.quality_limit(report.budget, report.source, report.quality)
    limits = {} if limit is None else {f"maxQualityDrop {report.budget.max_quality_drop}": limit}
    allowed = parse_percent(report.budget.max_quality_drop) * abs(source)
    reach = max(3 * allowed, abs(source) * 0.005)
    better = report.quality.higher_is_better
    axis = focus(list(values.values()), around=[source, *limits.values()], reach=reach, higher_is_better=better)
    digits = 1 if axis.high - axis.low > 0.006 else 2
    return Panel(
        title=f"{svg.plain(report.quality.metric) or 'Quality'} ({report.quality.kind.lower()})",
        values=values,
        limits=limits,
        higher_is_better=better,
        axis=axis,
        text=lambda value: f"{value * 100:.{digits}f} %" if numbers.is_share(report.quality) else f"{value:.4g}",
        spread={
            p.name: (p.measurement.quality_low, p.measurement.quality_high)
            for p in shown
            if p.measurement.quality_low is not None and p.measurement.quality_high is not None
        },
    )


def _latency_panel(report: CompressionReport, shown: Sequence[Point]) -> Panel | None:
    found = {p.name: paired_latency(p.measurement, report.source) for p in shown}
    values = {name: value for name, value in found.items() if value is not None}
    if not values:
        return None
    limits = numbers.latency_limits(report.budget, report.source)
    around = [*limits.values(), values.get("source", min(values.values()))]
    axis = focus(list(values.values()), around=around, reach=0.5 * max(around), higher_is_better=False)
    return Panel(
        title="Median latency, paired with the source's",
        values=values,
        limits=limits,
        higher_is_better=False,
        # Differences within the clock's noise must not fill the picture.
        axis=Range(max(min(axis.low, 0.8 * max(around)), 0.0), max(axis.high, 1.25 * max(around))),
        text=lambda value: "0" if value <= 0 else format_seconds(value),
        spread={},
    )


def _byte_unit(largest: float) -> tuple[str, float]:
    for unit, divisor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if largest >= divisor:
            return unit, float(divisor)
    return "bytes", 1.0


def _size_range(sizes: Sequence[float], limit: float | None) -> tuple[float, float]:
    most = max([*sizes, *([limit] if limit is not None and limit < 2 * max(sizes) else [])])
    return 0.0, most * 1.08


def _budget(axes: Axes, panel: Panel, size: float | None, size_text: str) -> list[Text]:
    """Lines at the limits, what lies beyond them shaded."""
    back = {"boxstyle": "round,pad=0.1", "facecolor": palette.PAPER, "edgecolor": "none", "alpha": 0.75}
    texts: list[Text] = []
    left, right = axes.get_xlim()
    shade: dict[str, Any] = {"color": palette.FORBIDDEN, "alpha": 0.13, "linewidth": 0, "zorder": 0.5}
    line: dict[str, Any] = {"color": palette.REFUSED, "linewidth": 1.0, "linestyle": (0, (5, 2)), "zorder": 1.5}
    for j, (text, limit) in enumerate(sorted(panel.limits.items(), key=lambda item: item[1])):
        strictest = j == (len(panel.limits) - 1 if panel.higher_is_better else 0)
        if strictest:
            beyond = panel.axis.low if panel.higher_is_better else panel.axis.high
            axes.axhspan(limit, beyond, **shade)
        axes.axhline(limit, **line)
        texts.append(
            axes.annotate(
                text,
                (right, limit),
                (-3, -3 if panel.higher_is_better else 3),
                textcoords="offset points",
                ha="right",
                va="top" if panel.higher_is_better else "bottom",
                color=palette.REFUSED,
                zorder=8,
                bbox=back,
            )
        )
    if size is not None and left < size < right:
        axes.axvspan(size, right, **shade)
        axes.axvline(size, **line)
        texts.append(
            axes.annotate(
                f"maxSize {size_text}",
                (size, 1),
                (-3, -4),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                ha="right",
                va="top",
                color=palette.REFUSED,
                zorder=8,
                bbox=back,
            )
        )
    return texts


def _front(axes: Axes, panel: Panel, shown: Sequence[Point], divisor: float) -> None:
    pairs = [
        (p.measurement.size_bytes / divisor, panel.values[p.name])
        for p in shown
        if p.on_front and p.name in panel.values
    ]
    steps = [(x, y) for x, y in front(pairs, higher_is_better=panel.higher_is_better) if y == panel.axis.clip(y)]
    if len(steps) > 1:
        xs, ys = zip(*steps, strict=True)
        axes.step(xs, ys, where="post", color=palette.MUTED, linewidth=1.2, zorder=2)


def _mark(axes: Axes, panel: Panel, point: Point, divisor: float, *, gid: str) -> None:
    marker, size, filled = MARKERS[point.kind]
    colour = COLOURS[point.kind]
    x, value = point.measurement.size_bytes / divisor, panel.values[point.name]
    y = panel.axis.clip(value)
    low, high = panel.spread.get(point.name, (y, y))
    if low < high and y == value and point.kind in (Kind.SOURCE, Kind.CHOSEN):
        ends = panel.axis.clip(low), panel.axis.clip(high)
        axes.vlines(x, *ends, color=colour, linewidth=0.9, alpha=0.45, zorder=2.5)
    axes.plot(
        [x],
        [y],
        marker=marker,
        markersize=size,
        color=colour,
        markeredgecolor=palette.PAPER if filled else colour,
        markeredgewidth=0.8 if filled else 1.8,
        linestyle="none",
        zorder=3 + list(Kind).index(point.kind),
        clip_on=False,
        gid=gid,
    )


def _label(axes: Axes, panel: Panel, shown: Sequence[Point], divisor: float, texts: Sequence[Text]) -> None:
    """Names beside points, the most telling ones first; what finds no room stays without."""
    area = Box(*axes.get_window_extent().extents)
    taken = [Box(*t.get_window_extent().extents) for t in texts]
    lines = [box for line in axes.lines if line.get_linestyle() != "None" for box in _boxes(line)]
    made: list[tuple[Text, tuple[float, float]]] = []
    for point in reversed(shown):
        if point.name not in panel.values:
            continue
        value = panel.values[point.name]
        drawn = panel.axis.clip(value)
        x, y = map(float, axes.transData.transform((point.measurement.size_bytes / divisor, drawn)))
        radius = MARKERS[point.kind][1] / 2
        taken.append(Box(x - radius, y - radius, x + radius, y + radius))
        if len(made) < MAX_LABELS:
            beyond = "" if drawn == value else f"  {panel.text(value)} {'↑' if value > drawn else '↓'}"
            text = axes.text(0, 0, svg.plain(point.name, ABBREVIATED) + beyond, va="bottom", ha="left", zorder=9)
            text.set_color(palette.INK if point.kind in (Kind.CHOSEN, Kind.SOURCE) else palette.MUTED)
            text.set_fontweight("bold" if point.kind is Kind.CHOSEN else "normal")
            made.append((text, (x, y)))
    extents = [text.get_window_extent() for text, _ in made]
    wishes = [Wish(*at, extent.width, extent.height) for (_, at), extent in zip(made, extents, strict=True)]
    inverse = axes.transData.inverted()
    for (text, point_at), spot in zip(made, place(wishes, area=area, taken=taken, rather_not=lines), strict=True):
        if spot is None:
            text.remove()
            continue
        corner = inverse.transform((spot.box.x0, spot.box.y0))
        text.set_position((float(corner[0]), float(corner[1])))
        if spot.leader:
            box, (x, y) = spot.box, point_at
            near = (max(box.x0, min(x, box.x1)), max(box.y0, min(y, box.y1)))
            (x0, y0), (x1, y1) = inverse.transform(np.array([point_at, near]))
            axes.plot([x0, x1], [y0, y1], color=palette.MUTED, linewidth=0.5, zorder=2.2)


def _boxes(line: Line2D) -> Iterator[Box]:
    """The pieces of a line of horizontal and vertical strokes, a little thicker than drawn."""
    corners = [(float(x), float(y)) for x, y in line.get_transform().transform(line.get_xydata())]
    if line.get_drawstyle() == "steps-post":
        corners = [*(p for a, b in pairwise(corners) for p in (a, (b[0], a[1]))), corners[-1]]
    for (x0, y0), (x1, y1) in pairwise(corners):
        yield Box(min(x0, x1) - 1.5, min(y0, y1) - 1.5, max(x0, x1) + 1.5, max(y0, y1) + 1.5)


def _legend(figure: Figure, shown: Sequence[Point], *, limited: bool) -> None:
    present = {p.kind for p in shown}
    handles: list[Line2D | Patch] = []
    for kind in (Kind.SOURCE, Kind.CHOSEN, Kind.ACCEPTED, Kind.REFUSED):
        if kind in present:
            marker, size, filled = MARKERS[kind]
            edge: dict[str, Any] = {} if filled else {"markeredgewidth": 1.8}
            label = {Kind.CHOSEN: "chosen for nodes"}.get(kind, str(kind))
            handles.append(
                Line2D(
                    [], [], marker=marker, markersize=min(size, 11), color=COLOURS[kind], ls="none", label=label, **edge
                )
            )
    if sum(p.on_front for p in shown) > 1:
        handles.append(Line2D([], [], color=palette.MUTED, linewidth=1.2, label="Pareto front"))
    if limited:
        handles.append(Patch(color=palette.FORBIDDEN, alpha=0.2, linewidth=0, label="outside the budget"))
    figure.legend(handles=handles, loc="upper left", bbox_to_anchor=(0.055, 1.0), ncols=len(handles), handletextpad=0.4)


def _title(point: Point, report: CompressionReport) -> str:
    m: Measurement = point.measurement
    parts = [f"{point.name} ({point.kind})", format_bytes(m.size_bytes)]
    if m.quality is not None:
        spread = numbers.interval(m, report.quality)
        parts.append(numbers.quality(m.quality, report.quality) + (f" ({spread})" if spread else ""))
    if m.latency_median_seconds is not None:
        parts.append(format_seconds(m.latency_median_seconds))
    return " · ".join(parts)


def _description(report: CompressionReport, shown: Sequence[Point]) -> str:
    counts = ", ".join(f"{sum(p.kind is kind for p in shown)} {kind}" for kind in Kind)
    models = counted(len(shown), "model")
    return f"Stored size beside quality and latency of {models}: {counts}. The table below has the numbers."

"""Sensitivity × bytes × time of the layers: what each would cost in quality, weighs, and takes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from edgemodel_api.quantities import counted, format_bytes, format_seconds
from edgemodel_api.report import Layer

from . import palette, svg
from .labels import Box, Wish, place
from .numbers import percent

#: Types that weights have where nothing was done to them.
FLOATS = ("float32", "float64")
#: Areas of marks, in square points: of the slowest layer, and of one that takes no time or an unknown one.
LARGEST, SMALLEST = 520.0, 22.0
MAX_LABELS = 10
MAX_BARS = 12
#: Errors below this are drawn on the lower edge: they are rounding.
LEAST_ERROR = 1e-7


def draw(layers: Sequence[Layer]) -> Markup | None:
    """The figure as SVG; None where no sensitivity and no time was measured.

    Left: output error over stored bytes of the source, area: time. Right: the slowest layers, in the source and in the
    chosen candidate.
    """
    sensitive = [x for x in layers if x.sensitivity is not None and x.source_bytes > 0]
    timed = sorted((x for x in layers if x.latency_seconds), key=lambda x: (-(x.latency_seconds or 0.0), x.name))[
        :MAX_BARS
    ]
    if not sensitive and not timed:
        return None
    titles: dict[str, str] = {}
    with svg.style():
        figure = Figure((svg.WIDTH_INCHES, 4.2), dpi=72)
        FigureCanvasAgg(figure)
        widths = [1.45, 1.0] if sensitive and timed else [1.0]
        all_axes = list(figure.subplots(1, len(widths), squeeze=False, width_ratios=widths)[0])
        figure.subplots_adjust(0.075, 0.125, 0.985, 0.83, wspace=0.45)
        if sensitive:
            _scatter(all_axes[0], sensitive, titles)
        if timed:
            _bars(all_axes[-1], timed)
        _legend(figure, sensitive, timed)
        figure.draw_without_rendering()
        if sensitive:
            _label(all_axes[0], sensitive)
        return svg.to_svg(figure, prefix="l-", label=_description(sensitive, timed), titles=titles)


def _scatter(axes: Axes, layers: Sequence[Layer], titles: dict[str, str]) -> None:
    axes.set_title("Output error when only that layer is quantized", pad=10)
    axes.set_xlabel("Stored bytes in the source (area: time)")
    axes.set_xscale("log")
    axes.set_yscale("log")
    xs, ys = [x.source_bytes for x in layers], [_error(x) for x in layers]
    axes.set_xlim(min(xs) / 2, max(xs) * 2)
    axes.set_ylim(min(ys) / 2.5, max(ys) * 3)
    # Powers of four are round numbers of KiB.
    axes.xaxis.set_major_locator(LogLocator(base=4.0, numticks=7))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: format_bytes(round(value))))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_formatter(NullFormatter())
    slowest = max((x.latency_seconds or 0.0 for x in layers), default=0.0)
    # Large marks first: small ones must not hide below them.
    for j, layer in sorted(enumerate(layers), key=lambda item: -(item[1].latency_seconds or 0.0)):
        titles[f"layer{j}"] = _title(layer)
        axes.plot(
            [layer.source_bytes],
            [_error(layer)],
            marker="o",
            markersize=math.sqrt(_area(layer, slowest)),
            color=palette.MUTED if layer.encoding in FLOATS else palette.CHOSEN,
            markeredgecolor=palette.PAPER,
            markeredgewidth=0.8,
            alpha=0.8,
            linestyle="none",
            zorder=3,
            gid=f"layer{j}",
        )


def _bars(axes: Axes, layers: Sequence[Layer]) -> None:
    axes.set_title("Time of the slowest layers", pad=10)
    places = range(len(layers))
    axes.barh([p - 0.2 for p in places], [x.latency_seconds or 0.0 for x in layers], 0.38, color=palette.MUTED)
    axes.barh(
        [p + 0.2 for p in places], [x.quantized_latency_seconds or 0.0 for x in layers], 0.38, color=palette.CHOSEN
    )
    axes.set_yticks(list(places), [svg.plain(_tail(x), 22) for x in layers])
    axes.set_ylim(max(len(layers), 3) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: "0" if value <= 0 else format_seconds(value)))


def _legend(figure: Figure, sensitive: Sequence[Layer], timed: Sequence[Layer]) -> None:
    handles = [
        Line2D([], [], marker="o", markersize=7, color=colour, ls="none", label=label)
        for colour, label in (
            (palette.CHOSEN, "quantized in the chosen candidate"),
            (palette.MUTED, "source, or left in float"),
        )
        if sensitive or timed
    ]
    figure.legend(handles=handles, loc="upper left", bbox_to_anchor=(0.065, 1.0), ncols=len(handles), handletextpad=0.4)


def _label(axes: Axes, layers: Sequence[Layer]) -> None:
    """Names beside the most sensitive marks; what finds no room stays without."""
    slowest = max((x.latency_seconds or 0.0 for x in layers), default=0.0)
    area = Box(*axes.get_window_extent().extents)
    ordered = sorted(layers, key=lambda x: (-_error(x), -x.source_bytes, x.name))
    taken, made, wishes = [], list[Text](), list[Wish]()
    for layer in ordered:
        x, y = map(float, axes.transData.transform((layer.source_bytes, _error(layer))))
        radius = math.sqrt(_area(layer, slowest)) / 2
        taken.append(Box(x - radius, y - radius, x + radius, y + radius))
        if len(made) < MAX_LABELS:
            text = axes.text(1, 1, svg.plain(_tail(layer), 30), va="bottom", ha="left", zorder=9, color=palette.INK)
            made.append(text)
            extent = text.get_window_extent()
            # The label's box must clear the mark, however large.
            wishes.append(Wish(x, y, extent.width + 2 * radius - 6, extent.height))
    inverse = axes.transData.inverted()
    for text, wish, spot in zip(made, wishes, place(wishes, area=area, taken=taken), strict=True):
        if spot is None:
            text.remove()
            continue
        width = text.get_window_extent().width
        left = spot.box.x1 - width if spot.box.x0 > wish.x else spot.box.x0
        middle = spot.box.x0 < wish.x < spot.box.x1
        x = wish.x - width / 2 if middle else left
        corner = inverse.transform((x, spot.box.y0))
        text.set_position((float(corner[0]), float(corner[1])))


def _error(layer: Layer) -> float:
    return max(layer.sensitivity or 0.0, LEAST_ERROR)


def _area(layer: Layer, slowest: float) -> float:
    share = (layer.latency_seconds or 0.0) / slowest if slowest > 0 else 0.0
    return SMALLEST + (LARGEST - SMALLEST) * share


def _tail(layer: Layer) -> str:
    """The telling end of a name like `/encoder/layer.3/attention/MatMul`."""
    name = layer.node or layer.name
    parts = [p for p in name.split("/") if p]
    return "/".join(parts[-2:]) if parts else name


def _short(value: float) -> str:
    """0.01 → `1 %`, 1e-05 → `0.001 %`."""
    return f"{value * 100:.6g} %"


def _title(layer: Layer) -> str:
    parts = [
        layer.node or layer.name,
        f"{format_bytes(layer.source_bytes)} → {format_bytes(layer.bytes)} as {layer.encoding}",
    ]
    if layer.sensitivity is not None:
        parts.append(f"error {layer.sensitivity:.2g}")
    if layer.quality_drop is not None:
        parts.append(f"quality drop {percent(layer.quality_drop)}")
    if layer.latency_seconds is not None:
        after = (
            "" if layer.quantized_latency_seconds is None else f" → {format_seconds(layer.quantized_latency_seconds)}"
        )
        parts.append(f"{format_seconds(layer.latency_seconds)}{after}")
    return " · ".join(parts)


def _description(sensitive: Sequence[Layer], timed: Sequence[Layer]) -> str:
    return (
        f"Output error beside stored bytes of {counted(len(sensitive), 'layer')}, and the time of the"
        f" {counted(len(timed), 'slowest one')}. The table below has the numbers."
    )

"""The waves over time: a bar per node, or, for many nodes, how many are in which state."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from edgemodel_api.quantities import counted

from . import palette, svg
from .story import Bar, Phase, Row, Story, counts

#: More rows than this are a wall; then nodes are counted.
MAX_ROWS = 36
ROW_INCHES = 0.235
#: (colour, hatch): patterns tell states apart where colours do not.
LOOKS = {
    Phase.PREVIOUS: (palette.PREVIOUS, ""),
    Phase.PENDING: (palette.WAITING, ""),
    Phase.DOWNLOADING: (palette.DOWNLOADING, "///"),
    Phase.DOWNLOADED: (palette.DOWNLOADED, ""),
    Phase.CHECKING: (palette.CHECKING, "\\\\\\"),
    Phase.SERVING: (palette.SERVING, ""),
    Phase.FAILED: (palette.REFUSED, "xxx"),
    Phase.OFFLINE: (palette.PAPER, "---"),
}


def draw(story: Story) -> Markup:
    """The figure as SVG, of bounded height."""
    many = len(story.rows) > MAX_ROWS
    height = 3.4 if many else 1.15 + ROW_INCHES * len(story.rows)
    scale, unit = _time_unit(story.seconds)
    titles: dict[str, str] = {}
    with svg.style():
        figure = Figure((svg.WIDTH_INCHES, height), dpi=72)
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        figure.subplots_adjust(0.13, 0.47 / height, 0.99, 1 - 0.58 / height)
        axes.set_xlim(0, story.seconds / scale)
        axes.set_xlabel(f"Time since the first node was assigned ({unit})")
        axes.xaxis.set_major_locator(MaxNLocator(9))
        axes.grid(visible=many, axis="y")
        if many:
            _areas(axes, story, scale)
        else:
            _bars(axes, story, scale, titles)
        _borders(axes, story, scale)
        _legend(figure, story, height)
        nodes, waves = counted(len(story.rows), "node"), counted(len(story.borders), "wave")
        label = f"{nodes} in {waves} over {counted(round(story.seconds), 'second')}"
        if story.rolled_back is not None:
            label += f", rolled back after {counted(round(story.rolled_back), 'second')}"
        return svg.to_svg(figure, prefix="r-", label=label, titles=titles)


def _time_unit(seconds: float) -> tuple[float, str]:
    if seconds < 300:
        return 1.0, "s"
    return (60.0, "min") if seconds < 3 * 3600 else (3600.0, "h")


def _bars(axes: Axes, story: Story, scale: float, titles: dict[str, str]) -> None:
    wave: int | None = story.rows[0].wave if story.rows else None
    for i, row in enumerate(story.rows):
        for j, bar in enumerate(row.bars):
            gid = f"bar{i}-{j}"
            colour, hatch = LOOKS[bar.phase]
            axes.barh(
                i,
                (bar.end - bar.start) / scale,
                left=bar.start / scale,
                height=0.72,
                color=colour,
                hatch=hatch,
                edgecolor=palette.INK if hatch else colour,
                linewidth=0.0 if not hatch else 0.3,
                gid=gid,
                zorder=2,
            )
            titles[gid] = _title(row, bar)
            if bar.phase is Phase.FAILED:
                _reason(axes, i, bar, scale)
        if row.wave != wave:
            axes.axhline(i - 0.5, color=palette.GRID, linewidth=0.8, zorder=1)
            wave = row.wave
    axes.set_yticks(range(len(story.rows)), [_name(r) for r in story.rows])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(max(len(story.rows), 1) - 0.5, -0.5)
    axes.spines["left"].set_visible(False)


def _name(row: Row) -> str:
    return svg.plain(row.node, 22)


def _title(row: Row, bar: Bar) -> str:
    change = bar.change
    parts = [f"{row.node}: {bar.phase}", f"{bar.start:.1f}–{bar.end:.1f} s"]
    parts += [p for p in (change.variant, f"revision {change.revision}" if change.revision else "") if p]
    parts += [p for p in (change.reason, change.message) if p]
    return " · ".join(parts)


def _reason(axes: Axes, i: int, bar: Bar, scale: float) -> None:
    text = f"✗ {svg.plain(bar.change.reason, 24)}" if bar.change.reason else "✗"
    right = axes.get_xlim()[1]
    late = bar.start / scale > right * 0.8
    axes.annotate(
        text,
        (bar.start / scale, i),
        (-4 if late else 5, 0),
        textcoords="offset points",
        ha="right" if late else "left",
        va="center",
        fontsize=svg.FONT_SIZE - 1,
        fontweight="bold",
        zorder=6,
        bbox={"boxstyle": "round,pad=0.15", "facecolor": palette.PAPER, "edgecolor": "none", "alpha": 0.85},
    )


def _areas(axes: Axes, story: Story, scale: float) -> None:
    instants, totals = counts(story)
    xs = [t / scale for t in instants]
    base = [0] * len(xs)
    # What works lies at the bottom, so that its edge is the line to watch.
    for phase in (
        Phase.SERVING, Phase.PREVIOUS, Phase.CHECKING, Phase.DOWNLOADED, Phase.DOWNLOADING, Phase.PENDING,
        Phase.OFFLINE, Phase.FAILED,
    ):  # fmt: skip
        if not any(totals[phase]):
            continue
        top = [b + n for b, n in zip(base, totals[phase], strict=True)]
        colour, hatch = LOOKS[phase]
        axes.fill_between(
            xs, base, top, step="post", facecolor=colour, hatch=hatch, edgecolor=palette.INK if hatch else colour,
            linewidth=0.0, zorder=2,
        )  # fmt: skip
        base = top
    axes.set_ylim(0, len(story.rows))
    axes.set_ylabel("Nodes")
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))


def _borders(axes: Axes, story: Story, scale: float) -> None:
    above: dict[str, Any] = {
        "xycoords": ("data", "axes fraction"), "textcoords": "offset points", "va": "bottom", "annotation_clip": False,
    }  # fmt: skip
    end, right = -1.0, story.seconds / scale
    for border in story.borders:
        x = border.at / scale
        axes.axvline(x, color=palette.INK, linewidth=0.9, linestyle=(0, (2, 2)), zorder=4)
        # Waves that follow each other closely share a name's room: the first is named.
        if x >= end:
            axes.annotate(f"wave {border.wave + 1}", (x, 1), xytext=(2, 2), **above)
            end = x + right * 0.055
    if story.rolled_back is not None:
        x = story.rolled_back / scale
        axes.axvspan(x, right, color=palette.FORBIDDEN, alpha=0.12, linewidth=0, zorder=0.5)
        axes.axvline(x, color=palette.REFUSED, linewidth=1.8, zorder=5)
        late = x > right * 0.85
        # Beside a wave's name, not over it.
        clear = max(0.0, end - x) / right * svg.WIDTH_INCHES * 72 * 0.86
        axes.annotate(
            "rolled back ▶" if late else "◀ rolled back",
            (x, 1),
            xytext=(-3, 2) if late else (3 + clear, 2),
            ha="right" if late else "left",
            color=palette.REFUSED,
            fontweight="bold",
            **above,
        )


def _legend(figure: Figure, story: Story, height: float) -> None:
    present = {b.phase for r in story.rows for b in r.bars}
    handles = []
    for phase in Phase:
        if phase in present:
            colour, hatch = LOOKS[phase]
            edge = palette.INK if hatch else colour
            handles.append(Patch(facecolor=colour, hatch=hatch, edgecolor=edge, linewidth=0.3, label=str(phase)))
    figure.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(0.12, 1.0), ncols=len(handles), borderaxespad=0.2,
        handletextpad=0.5, columnspacing=1.4,
    )  # fmt: skip

"""A matplotlib figure → SVG that can stand inside a page: deterministic, no fonts in it, colours from the page's CSS."""

from __future__ import annotations

import io
import re
import unicodedata
import warnings

# What is parsed here was written by matplotlib a moment before, with every name in it escaped.
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.figure import Figure

from . import palette

SVG = "http://www.w3.org/2000/svg"
XLINK = "http://www.w3.org/1999/xlink"
#: Sizes are points, and the page shows a figure about 1.35 times as large.
FONT_SIZE = 8.5
WIDTH_INCHES = 10.8

STYLE: dict[str, Any] = {
    "svg.hashsalt": "edgemodel",
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": FONT_SIZE,
    "text.color": palette.INK,
    "text.parse_math": False,  # names may hold dollars
    "axes.edgecolor": palette.MUTED,
    "axes.labelcolor": palette.INK,
    "axes.labelsize": FONT_SIZE,
    "axes.titlesize": FONT_SIZE + 1,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": palette.GRID,
    "grid.linewidth": 0.6,
    "xtick.color": palette.MUTED,
    "ytick.color": palette.MUTED,
    "xtick.labelcolor": palette.INK,
    "ytick.labelcolor": palette.INK,
    "xtick.labelsize": FONT_SIZE,
    "ytick.labelsize": FONT_SIZE,
    "hatch.linewidth": 0.5,
    "hatch.color": palette.INK,
    "legend.frameon": False,
    "legend.fontsize": FONT_SIZE,
}


@contextmanager
def style() -> Iterator[None]:
    """Settings under which figures are made, measured and written."""
    # From the defaults, not from a matplotlibrc that may lie about: the same arguments give the same bytes.
    settings: dict[Any, Any] = dict(mpl.rcParamsDefault)
    settings.update(STYLE)
    settings["backend"] = mpl.rcParams["backend"]  # as it is: changing it could open windows
    with mpl.rc_context(settings), warnings.catch_warnings():
        # A name in a script that the measuring font lacks: the page's font will show it.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def plain(text: str, limit: int = 48) -> str:
    """A name as one short line of characters that XML may hold."""
    kept = "".join("�" if unicodedata.category(c) in ("Cc", "Cs", "Cn", "Co") else c for c in text)
    return kept if len(kept) <= limit else f"{kept[: limit // 2]}…{kept[len(kept) - limit // 2 + 1 :]}"


def to_svg(figure: Figure, *, prefix: str, label: str, titles: Mapping[str, str]) -> Markup:
    """Write a figure.

    Args:
        figure: made within `style()`, which still holds.
        prefix: put before every id, as all figures share the page.
        label: what the figure shows, for those who do not see it.
        titles: gid of an artist → text shown when the pointer rests on it.

    Returns:
        The `<svg>` element.
    """
    out = io.BytesIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    ET.register_namespace("", SVG)
    ET.register_namespace("xlink", XLINK)
    root = ET.fromstring(out.getvalue())  # noqa: S314 - our own output
    for parent in list(root.iter()):
        for child in list(parent):
            # Its styles would hold for the whole page; report.css has them for figures.
            if child.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style"):
                parent.remove(child)
    for element in root.iter():
        _adapt(element, prefix)
        _entitle(element, titles.get(element.get("id", "").removeprefix(prefix)))
    for size in ("width", "height"):
        root.attrib.pop(size, None)
    root.set("role", "img")
    root.set("aria-label", plain(label, 1000))
    return Markup(ET.tostring(root, encoding="unicode"))  # noqa: S704 - names in it were escaped as XML


def _adapt(element: ET.Element, prefix: str) -> None:
    for key, value in element.attrib.items():
        if key == "id":
            element.set(key, prefix + value)
        elif key == f"{{{XLINK}}}href":
            element.set(key, value.replace("#", f"#{prefix}", 1))
        elif key in ("clip-path", "style", "fill", "stroke"):
            element.set(key, _css(value, prefix))


def _css(value: str, prefix: str) -> str:
    value = value.replace("url(#", f"url(#{prefix}")
    # The page's fonts, which the reader has.
    value = re.sub(r"font-family: [^;]*;? ?", "", re.sub(r"font: (?:(\d+) )?([\d.]+px) [^;]*", _font, value))
    return re.sub(r"#0001[0-9a-f]{2}", lambda m: f"var({palette.VARIABLES.get(m[0], '--ink')})", value)


def _font(match: re.Match[str]) -> str:
    return f"font-size: {match[2]}" + (f"; font-weight: {match[1]}" if match[1] else "")


def _entitle(element: ET.Element, text: str | None) -> None:
    if text is not None:
        title = ET.Element(f"{{{SVG}}}title")
        title.text = plain(text, 400)
        element.insert(0, title)

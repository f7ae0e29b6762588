"""Colours by meaning. Matplotlib draws with stand-ins, which become CSS variables: one figure for light and dark."""

from __future__ import annotations

#: Stand-in colour → CSS variable of report.css.
VARIABLES = {
    "#000101": "--ink",
    "#000102": "--muted",
    "#000103": "--grid",
    "#000104": "--paper",
    "#000105": "--accepted",
    "#000106": "--chosen",
    "#000107": "--refused",
    "#000108": "--forbidden",
    "#000109": "--waiting",
    "#00010a": "--downloading",
    "#00010b": "--downloaded",
    "#00010c": "--checking",
    "#00010d": "--serving",
    "#00010e": "--previous",
}
_STAND_INS = {variable: colour for colour, variable in VARIABLES.items()}

INK = _STAND_INS["--ink"]
MUTED = _STAND_INS["--muted"]
GRID = _STAND_INS["--grid"]
PAPER = _STAND_INS["--paper"]
ACCEPTED = _STAND_INS["--accepted"]
CHOSEN = _STAND_INS["--chosen"]
REFUSED = _STAND_INS["--refused"]
FORBIDDEN = _STAND_INS["--forbidden"]
WAITING = _STAND_INS["--waiting"]
DOWNLOADING = _STAND_INS["--downloading"]
DOWNLOADED = _STAND_INS["--downloaded"]
CHECKING = _STAND_INS["--checking"]
SERVING = _STAND_INS["--serving"]
PREVIOUS = _STAND_INS["--previous"]

"""Does a file give the same answers on every kind of CPU it is meant for? Run it there, and repair what does not hold.

========================  ==========================================================================================
`machines`                which kinds of CPU this machine can run a file on: its own, and named ones under QEMU
`install`                 a command that fetches QEMU and a Python with onnxruntime for the other architecture
`child`, `running`        one file, some requests, in a process of its own on that CPU
`samples`, `check`        the verdict: quality there beside the budget, and the distance from the answers here
`saturation`              which layers overflow 16 bits on x86 without VNNI, found without running there
`repair`                  7-bit weights, U8 weights, or float, for the layers that do
========================  ==========================================================================================
"""

from __future__ import annotations

from .check import verify
from .machines import Machine, Machines, machines
from .repair import repair_words, repairs_for
from .samples import Judged, Samples, samples
from .saturation import Saturation, find_saturation

__all__ = [
    "Judged",
    "Machine",
    "Machines",
    "Samples",
    "Saturation",
    "find_saturation",
    "machines",
    "repair_words",
    "repairs_for",
    "samples",
    "verify",
]

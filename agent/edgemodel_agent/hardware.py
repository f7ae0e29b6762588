"""What machine this is: platform, CPU features, cores, memory, and the versions of the runtimes."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import threading
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from edgemodel_api.hardware import RELEVANT_FEATURES, CpuInfo, Hardware, classify, parse_cpuinfo

__all__ = [
    "CpuInfo",
    "Runtimes",
    "detect",
    "importable",
    "installed_runtimes",
    "memory_limit",
    "parse_cpuinfo",
    "usable_cores",
]

#: Packages that execute models; `EdgeNode.status.runtimes` names those that are installed.
RUNTIMES = ("onnxruntime", "ai-edge-litert", "tflite-runtime")
#: What a package must be able to import to count as installed: one that was built for another numpy, or other CPUs, cannot.
MODULES = {"ai-edge-litert": "ai_edge_litert.interpreter", "tflite-runtime": "tflite_runtime.interpreter"}
#: Less than the minute after which a silent node counts as offline.
IMPORT_SECONDS = 40.0


def installed_runtimes(names: Iterable[str] = RUNTIMES) -> dict[str, str]:
    """Runtime name → version, of those that are installed and can be imported."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
        if name in MODULES and not importable(MODULES[name]):
            del found[name]
    return found


class Runtimes:
    """`installed_runtimes`, found out while the agent already works: `found` is None until then."""

    def __init__(self) -> None:
        self.found: dict[str, str] | None = None
        threading.Thread(target=self._look, name="runtimes", daemon=True).start()

    def _look(self) -> None:
        self.found = installed_runtimes()


def importable(module: str) -> bool:
    """Whether a process can import it: one of its own, as the agent needs no runtime in its memory, and may end by it."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", f"import {module}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=IMPORT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def usable_cores() -> int:
    """Cores that this process may run on (cpusets of containers included)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_limit(total: int, cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that may be used: the smaller of the machine's memory and the container's limit."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            text = (cgroups / name).read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            return min(total, int(text))
    return total


def detect(*, cpuinfo: Path = Path("/proc/cpuinfo"), architecture: str | None = None) -> Hardware:
    """The machine under us. An unreadable cpuinfo gives the platform's base class: slower, never wrong."""
    try:
        cpu = parse_cpuinfo(cpuinfo.read_text(errors="replace"))
    except OSError:
        cpu = CpuInfo("", frozenset())
    where, hardware_class = classify(architecture or platform.machine(), cpu.flags)
    return Hardware(
        platform=where,
        hardware_class=hardware_class,
        cpu_model=cpu.model,
        features=tuple(sorted(cpu.flags & RELEVANT_FEATURES)),
        cores=usable_cores(),
        memory_bytes=memory_limit(psutil.virtual_memory().total),
    )

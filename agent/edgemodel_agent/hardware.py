"""What machine this is: platform, CPU features, cores, memory, and the versions of the runtimes."""

from __future__ import annotations

import logging
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

log = logging.getLogger(__name__)

#: Packages that execute models; `EdgeNode.status.runtimes` names those that are installed.
RUNTIMES = ("onnxruntime", "ai-edge-litert", "tflite-runtime")
#: What a package must be able to import to count as installed: one that was built for another numpy, or other CPUs, cannot.
MODULES = {"ai-edge-litert": "ai_edge_litert.interpreter", "tflite-runtime": "tflite_runtime.interpreter"}
#: Less than the minute after which a silent node counts as offline: so long the first report waits.
IMPORT_SECONDS = 40.0
#: A small board that boots, with everything else that starts on it, may take minutes to import one; each try has twice as long.
IMPORT_TRIES = 5


def installed_runtimes(names: Iterable[str] = RUNTIMES) -> dict[str, str]:
    """Runtime name → version, of those that are installed and can be imported."""
    return _examined(names, IMPORT_SECONDS)[0]


def _examined(names: Iterable[str], seconds: float) -> tuple[dict[str, str], tuple[str, ...]]:
    """Runtime name → version; and those whose import was not over in that time."""
    found, slow = {}, []
    for name in names:
        try:
            said = version(name)
        except PackageNotFoundError:
            continue
        there = importable(MODULES[name], seconds) if name in MODULES else True
        if there:
            found[name] = said
        elif there is None:
            slow.append(name)
    return found, tuple(slow)


class Runtimes:
    """`installed_runtimes`, found out while the agent already works: `found` is None until then.

    One that takes longer than the first report can wait joins it later.
    """

    def __init__(self) -> None:
        self.found: dict[str, str] | None = None
        threading.Thread(target=self._look, name="runtimes", daemon=True).start()

    def _look(self) -> None:
        seconds = IMPORT_SECONDS
        found, slow = _examined(RUNTIMES, seconds)
        self.found = found
        for _ in range(IMPORT_TRIES - 1):
            if not slow:
                return
            log.warning("%s: its import took longer than %.0f s; once more", ", ".join(slow), seconds)
            seconds *= 2
            more, slow = _examined(slow, seconds)
            # Another object: the agent's loop may be reading the last one.
            self.found = found = {**found, **more}
        if slow:
            log.error("%s: its import took longer than %.0f s, so it is not used", ", ".join(slow), seconds)


def importable(module: str, seconds: float = IMPORT_SECONDS) -> bool | None:
    """Whether a process can import it: one of its own, as the agent needs no runtime in its memory, and may end by it.

    None: that was not over in so many seconds.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-c", f"import {module}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None
    except OSError:
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

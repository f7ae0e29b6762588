"""The machine that measures: for the report, as its numbers hold for it."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from edgemodel_api.hardware import RELEVANT_FEATURES, Hardware, classify, parse_cpuinfo

RUNTIMES = ("onnxruntime", "onnx", "numpy")


def detect(cpuinfo: Path = Path("/proc/cpuinfo")) -> Hardware:
    """Platform, hardware class, cores and memory. An unreadable cpuinfo gives the platform's base class."""
    try:
        text = cpuinfo.read_text(errors="replace")
    except OSError:
        text = ""
    cpu = parse_cpuinfo(text)
    where, hardware_class = classify(platform.machine(), cpu.flags)
    return Hardware(
        platform=where,
        hardware_class=hardware_class,
        cpu_model=cpu.model,
        features=tuple(sorted(cpu.flags & RELEVANT_FEATURES)),
        cores=cores(),
        memory_bytes=psutil.virtual_memory().total,
    )


def cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def runtimes() -> dict[str, str]:
    """What compressed and measured, by version."""
    found = {}
    for name in RUNTIMES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found

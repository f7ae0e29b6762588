"""What machine this is: platform, CPU features, cores, memory, and the versions of the runtimes."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import psutil

from edgemodel_api.hardware import RELEVANT_FEATURES, Hardware, classify

#: Packages that execute models; `EdgeNode.status.runtimes` names those that are installed.
RUNTIMES = ("onnxruntime", "ai-edge-litert", "tflite-runtime")


class CpuInfo(NamedTuple):
    """What /proc/cpuinfo says."""

    model: str
    flags: frozenset[str]


def parse_cpuinfo(text: str) -> CpuInfo:
    """The CPU's name, and the flags that *every* core has.

    x86 writes `flags` and `model name`, Arm writes `Features` and, on some kernels, `Model` or `Hardware`; Arm's
    big and little cores may differ, and code may run on either, hence the intersection.
    """
    names: dict[str, str] = {}
    flags: frozenset[str] | None = None
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if not colon:
            continue
        key, value = key.strip(), value.strip()
        if key in ("flags", "Features"):
            words = frozenset(value.split())
            flags = words if flags is None else flags & words
        elif key in ("model name", "Model", "Hardware", "CPU part"):
            names.setdefault(key, value)
    part = f"Arm part {names['CPU part']}" if "CPU part" in names else ""
    model = names.get("model name") or names.get("Model") or names.get("Hardware") or part
    return CpuInfo(model, flags or frozenset())


def installed_runtimes(names: Iterable[str] = RUNTIMES) -> dict[str, str]:
    """Runtime name → version, of those that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


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

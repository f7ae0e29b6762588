"""The machine that measures: for the report, as its numbers hold for it."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from edgemodel_api.hardware import RELEVANT_FEATURES, Hardware, classify, parse_cpuinfo

RUNTIMES = ("onnxruntime", "onnx", "numpy")
#: As a container sees its own; version 2, and below it the folders of version 1.
CGROUP = Path("/sys/fs/cgroup")


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


def cores(cgroup: Path = CGROUP) -> int:
    """Cores that this process may keep busy: those it may run on, and no more than its cgroup's CPU limit (at least one)."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, period = _numbers(cgroup / "cpu.max", 2)
    if period is None:
        (quota,), (period,) = (
            _numbers(cgroup / "cpu/cpu.cfs_quota_us", 1),
            _numbers(cgroup / "cpu/cpu.cfs_period_us", 1),
        )
    if quota is not None and period is not None and quota > 0 and period > 0:
        return max(1, min(allowed, quota // period))
    return allowed


def memory_limit(cgroup: Path = CGROUP) -> int:
    """Bytes that this process may take at most: the machine's, or less by its cgroup's limit."""
    found = [psutil.virtual_memory().total]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        (limit,) = _numbers(cgroup / name, 1)
        found += [limit] if limit is not None else []
    return min(found)


def memory_left(cgroup: Path = CGROUP) -> int:
    """Bytes that this process may take now: what is free on the machine, and below its cgroup's limit."""
    found = [psutil.virtual_memory().available]
    for limit_name, used_name in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        (limit,), (used,) = _numbers(cgroup / limit_name, 1), _numbers(cgroup / used_name, 1)
        found += [limit - used] if limit is not None and used is not None else []
    return max(0, min(found))


def _numbers(path: Path, count: int) -> tuple[int | None, ...]:
    """The first numbers of a file of the kernel's; None for `max`, and for what is not there."""
    try:
        words = path.read_text().split()[:count]
    except OSError:
        words = []
    found = tuple(int(w) if w.lstrip("-").isdigit() else None for w in words)
    return found + (None,) * (count - len(found))


def runtimes(besides: Iterable[str] = ()) -> dict[str, str]:
    """What compressed and measured, by version.

    Args:
        besides: names of packages.
    """
    found = {}
    for name in (*RUNTIMES, *besides):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found

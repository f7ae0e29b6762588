"""Hardware classes: the kinds of CPU on which one quantized file behaves one way. Pure.

A file that is right on one class is wrong or slower on another (`vpmaddubsw` saturates in 16 bits on x86
without VNNI; arm64 without dot products runs INT8 slower than float), so artifacts are chosen per class.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple

from .base import StatusModel


class HardwareClass(StrEnum):
    """Platform and integer instructions, as far as they change results or speed."""

    AMD64_VNNI = "amd64-vnni"
    AMD64_AVX2 = "amd64-avx2"
    AMD64_BASE = "amd64-base"
    ARM64_DOTPROD = "arm64-dotprod"
    ARM64_BASE = "arm64-base"
    ARM_V7 = "arm-v7"
    UNKNOWN = "unknown"


class Platform(StrEnum):
    """`os/architecture[/variant]`, as OCI writes it."""

    LINUX_AMD64 = "linux/amd64"
    LINUX_ARM64 = "linux/arm64"
    LINUX_ARM_V7 = "linux/arm/v7"


class Hardware(StatusModel):
    """What an agent found out about its machine."""

    platform: str
    hardware_class: HardwareClass
    cpu_model: str = ""
    features: tuple[str, ...] = ()
    cores: int = 1
    memory_bytes: int = 0


PLATFORM_OF: dict[HardwareClass, Platform] = {
    HardwareClass.AMD64_VNNI: Platform.LINUX_AMD64,
    HardwareClass.AMD64_AVX2: Platform.LINUX_AMD64,
    HardwareClass.AMD64_BASE: Platform.LINUX_AMD64,
    HardwareClass.ARM64_DOTPROD: Platform.LINUX_ARM64,
    HardwareClass.ARM64_BASE: Platform.LINUX_ARM64,
    HardwareClass.ARM_V7: Platform.LINUX_ARM_V7,
}

#: /proc/cpuinfo names that matter to integer kernels.
RELEVANT_FEATURES = frozenset(
    {"avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimd", "asimddp", "i8mm", "sve", "fphp", "asimdhp"}
)


def classify(architecture: str, features: Iterable[str]) -> tuple[str, HardwareClass]:
    """`platform.machine()` and CPU flags → (OCI platform, hardware class)."""
    flags = set(features)
    if architecture in ("x86_64", "amd64", "AMD64"):
        if flags & {"avx512_vnni", "avx_vnni", "amx_int8"}:
            return Platform.LINUX_AMD64, HardwareClass.AMD64_VNNI
        return Platform.LINUX_AMD64, HardwareClass.AMD64_AVX2 if "avx2" in flags else HardwareClass.AMD64_BASE
    if architecture in ("aarch64", "arm64"):
        dot = flags & {"asimddp", "i8mm"}
        return Platform.LINUX_ARM64, HardwareClass.ARM64_DOTPROD if dot else HardwareClass.ARM64_BASE
    if architecture in ("armv7l", "armv8l", "arm"):
        return Platform.LINUX_ARM_V7, HardwareClass.ARM_V7
    return f"linux/{architecture}", HardwareClass.UNKNOWN


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

"""Kinds of CPU that this machine can run a file on: its own, and named ones that QEMU's user mode emulates.

A named CPU, never QEMU's `max`: kernels would be chosen that no real machine runs (seen: 20.8 % error of dynamic INT8
under `max` that no real arm64 CPU shows). Emulated are the instructions, so the answers are those of the real CPU; the
time is not, so nothing is timed.

========================  ===========  ==================================================================
amd64-avx2                Haswell      AVX2, no VNNI: `vpmaddubsw` saturates
amd64-base                Nehalem      SSE4.2, the least that numpy's wheels run on
arm64-dotprod             Neoverse-N1  dot products
arm64-base                Cortex-A72   none
amd64-vnni                none         QEMU's translator has neither AVX-512 nor AVX-VNNI: only a machine that has them
arm-v7                    none         onnxruntime has no build for it
========================  ===========  ==================================================================

Emulation takes some fifty times as long; `EDGEMODEL_EMULATION=off` leaves it out. An x86 CPU on an x86 machine runs
this very Python. For the other architecture `install` makes an environment.
"""

from __future__ import annotations

import functools
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType

from edgemodel_api.hardware import HardwareClass
from edgemodel_api.report import VerifiedHow
from edgemodel_compressor import host

from . import cpuinfo

#: Set to `off`: only this machine's own kind of CPU is verified.
SWITCH = "EDGEMODEL_EMULATION"
INSTALL = "python -m edgemodel_compressor.verify.install"
#: QEMU before that translates no AVX2: a "Haswell" would run the kernels of an older CPU, and say that all is well.
LEAST_QEMU = (7, 2)
#: Raised with each change of what `install` puts into an environment.
LAYOUT = 1
#: `platform.machine()` → Debian's name.
ARCHITECTURES = {"x86_64": "amd64", "amd64": "amd64", "AMD64": "amd64", "aarch64": "arm64", "arm64": "arm64"}
QEMU = {"amd64": "qemu-x86_64", "arm64": "qemu-aarch64"}
CANNOT = {
    HardwareClass.AMD64_VNNI: "no emulator has VNNI (QEMU translates neither AVX-512 nor AVX-VNNI): only a machine that has it can tell",
    HardwareClass.ARM_V7: "onnxruntime has no build for arm/v7, so no ONNX file runs there",
    HardwareClass.UNKNOWN: "nothing is known of such a machine",
}


@dataclass(frozen=True)
class Named:
    """A CPU that stands for a hardware class.

    Attributes:
        cpu: as `qemu -cpu` has it.
        architecture: `amd64` or `arm64`.
    """

    cpu: str
    architecture: str


NAMED: Mapping[HardwareClass, Named] = MappingProxyType(
    {
        HardwareClass.AMD64_AVX2: Named("Haswell", "amd64"),
        HardwareClass.AMD64_BASE: Named("Nehalem", "amd64"),
        HardwareClass.ARM64_DOTPROD: Named("neoverse-n1", "arm64"),
        HardwareClass.ARM64_BASE: Named("cortex-a72", "arm64"),
    }
)


@dataclass(frozen=True)
class Machine:
    """One way to run a file on a kind of CPU.

    Attributes:
        hardware_class: the kind.
        how: on such a CPU itself, or under an emulator.
        cpu: its name, for people: this CPU's, or `qemu 7.2.22 Haswell`.
        command: starts a Python that has onnxruntime; its arguments follow.
        environment: variables that it needs.
    """

    hardware_class: HardwareClass
    how: VerifiedHow
    cpu: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Machines:
    """What can be verified here.

    Attributes:
        found: one for each kind of CPU that can be had, this machine's own first.
        missing: for each other kind one line: why not, and what to do.
    """

    found: tuple[Machine, ...]
    missing: Mapping[HardwareClass, str]

    @property
    def here(self) -> Machine:
        """The machine that this runs on."""
        return self.found[0]

    def of(self, hardware_class: str) -> Machine | None:
        """The one for a kind of CPU."""
        return next((m for m in self.found if m.hardware_class == hardware_class), None)


def machines(cache: Path | None = None) -> Machines:
    """Look what is there; nothing is run but `qemu --version`.

    Args:
        cache: where `install` puts things; None: `cache_dir()`.
    """
    cache = cache or cache_dir()
    native = host.detect()
    found = [Machine(native.hardware_class, VerifiedHow.NATIVE, native.cpu_model or "this CPU", (sys.executable,))]
    missing: dict[HardwareClass, str] = {}
    for kind in HardwareClass:
        if kind == native.hardware_class:
            continue
        made = _emulated(kind, cache)
        if isinstance(made, Machine):
            found.append(made)
        else:
            missing[kind] = made
    return Machines(tuple(found), MappingProxyType(missing))


def cache_dir() -> Path:
    """Where QEMU and environments lie: `$EDGEMODEL_CACHE/emulation`, default below ~/.cache/edgemodel."""
    base = os.environ.get("EDGEMODEL_CACHE") or os.path.join(os.path.expanduser("~"), ".cache", "edgemodel")
    return Path(base).absolute() / "emulation"


def environment_dir(cache: Path, architecture: str) -> Path:
    """An environment for one architecture with the very versions that run here."""
    return cache / f"{architecture}-onnxruntime-{version('onnxruntime')}-numpy-{version('numpy')}-{LAYOUT}"


def find_qemu(architecture: str, cache: Path) -> tuple[Path, str] | str:
    """The user mode emulator of an architecture and its version, or one line on what is missing."""
    name = QEMU[architecture]
    places = [
        shutil.which(f"{name}-static"),
        shutil.which(name),
        *sorted(map(str, cache.glob(f"qemu-*/usr/bin/{name}-static"))),
    ]
    old = ""
    for place in filter(None, places):
        said = _version(place)
        numbers = tuple(map(int, re.findall(r"\d+", said)[:2]))
        if numbers >= LEAST_QEMU:
            return Path(place), said
        old = f"{place} is {said or 'broken'}, "
    need = ".".join(map(str, LEAST_QEMU))
    return f"{old}{name} {need} or newer is needed: run `{INSTALL}`, or install the package qemu-user-static"


def architecture() -> str:
    """Debian's name for this machine's, or what Python calls it."""
    return ARCHITECTURES.get(platform.machine(), platform.machine())


@functools.cache
def _version(program: str) -> str:
    try:
        said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=20, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
    match = re.search(r"version (\d+\.\d+(?:\.\d+)?)", said)
    return match[1] if match else ""


def _emulated(kind: HardwareClass, cache: Path) -> Machine | str:
    named = NAMED.get(kind)
    if named is None:
        return CANNOT[kind]
    if os.environ.get(SWITCH, "").lower() in ("off", "0", "no", "false"):
        return f"emulation is turned off by {SWITCH}={os.environ[SWITCH]}"
    if not sys.platform.startswith("linux"):
        return f"emulating a {named.cpu} needs Linux (QEMU's user mode)"
    qemu = find_qemu(named.architecture, cache)
    if isinstance(qemu, str):
        return qemu
    program, number = qemu
    name = f"qemu {number} {named.cpu}"
    start = (str(program), "-cpu", named.cpu)
    if named.architecture == architecture():
        return Machine(kind, VerifiedHow.EMULATED, name, (*start, sys.executable))
    folder = environment_dir(cache, named.architecture)
    python = next(iter(sorted((folder / "root" / "usr" / "bin").glob("python3.*[0-9]"))), None)
    if python is None:
        return f"an {named.architecture} Python with onnxruntime {version('onnxruntime')} is needed: run `{INSTALL}`"
    # QEMU looks for every file below -L first: for this CPU's /proc/cpuinfo too, which runtimes read.
    prefix = folder / "cpu" / named.cpu
    if not (prefix / "proc" / "cpuinfo").is_file():
        return f"{folder} is incomplete: remove it and run `{INSTALL}`"
    return Machine(
        kind,
        VerifiedHow.EMULATED,
        name,
        (*start, "-L", str(prefix), str(prefix / "usr" / "bin" / python.name)),
        {"PYTHONPATH": str(folder / "site")},
    )


def write_cpuinfo(folder: Path) -> None:
    """For each named CPU of an environment a view of its root with that CPU's /proc/cpuinfo."""
    for named in NAMED.values():
        text = cpuinfo.TEXTS.get(named.cpu)
        if text is None:
            continue
        view = folder / "cpu" / named.cpu
        (view / "proc").mkdir(parents=True, exist_ok=True)
        (view / "proc" / "cpuinfo").write_text(text)
        for name in ("bin", "etc", "lib", "lib64", "usr"):
            link = view / name
            if (folder / "root" / name).exists() and not link.is_symlink():
                link.symlink_to(Path("..", "..", "root", name))

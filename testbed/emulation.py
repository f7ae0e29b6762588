"""arm64 programs on this machine: QEMU in the kernel's table of interpreters, with the flag that makes it work in containers."""

from __future__ import annotations

import os
from pathlib import Path

import settings as s
from processes import StartError, run

TABLE = Path("/proc/sys/fs/binfmt_misc")
ENTRY = TABLE / "qemu-aarch64"
RULE = Path("/usr/lib/binfmt.d/qemu-aarch64.conf")
#: A CPU that exists: with QEMU's `max`, kernels are chosen that no real one would run.
CPU = "neoverse-n1"
#: Libraries read it to choose their kernels, and some crash if it is another CPU's.
CPUINFO = "".join(
    f"""processor\t: {core}
BogoMIPS\t: 243.75
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x3
CPU part\t: 0xd0c
CPU revision\t: 1

"""
    for core in range(os.cpu_count() or 1)
)


def native() -> bool:
    """Whether this machine is one itself."""
    return run("uname", "-m").strip() == "aarch64"


def register(bed: s.Bed) -> None:
    """Add the entry unless there is one; remember what is ours to remove.

    Raises:
        StartError: there is one that does not reach into containers, or the kernel cannot do it.
    """
    if native():
        return
    if not (TABLE / "register").exists():
        run("mount", "-t", "binfmt_misc", "binfmt_misc", TABLE)
        _mark(bed, "mounted").touch()
    if ENTRY.exists():
        if "F" not in ENTRY.read_text().partition("flags:")[2].splitlines()[0]:
            raise StartError(f"{ENTRY} has no F flag, so containers cannot use it: remove it (echo -1 > {ENTRY})")
        return
    if not RULE.exists():
        raise StartError(f"{RULE} is missing: install the package qemu-user-static")
    (TABLE / "register").write_text(next(line for line in RULE.read_text().splitlines() if line.startswith(":")))
    _mark(bed, "registered").touch()


def unregister(bed: s.Bed) -> None:
    """What `register` did; another bed that is up needs it, and undoes it in the end."""
    for other in (s.Bed(s.beds_root(number)) for number in range(10)):
        if other != bed and other.root.is_dir():
            for what in ("registered", "mounted"):
                if _mark(bed, what).exists():
                    _mark(other, what).touch()
            return
    if _mark(bed, "registered").exists() and ENTRY.exists():
        ENTRY.write_text("-1")
    if _mark(bed, "mounted").exists() and TABLE.is_mount():
        run("umount", TABLE)


def _mark(bed: s.Bed, what: str) -> Path:
    return bed.root / f"binfmt-{what}"

"""/proc/cpuinfo of the arm64 CPUs that are emulated: QEMU before 8.1 shows the machine's own, and runtimes crash on that."""

from __future__ import annotations


def _core(part: str, variant: str, revision: int, features: str, bogomips: str) -> str:
    return (
        f"processor\t: 0\nBogoMIPS\t: {bogomips}\nFeatures\t: {features}\nCPU implementer\t: 0x41\n"
        f"CPU architecture: 8\nCPU variant\t: {variant}\nCPU part\t: {part}\nCPU revision\t: {revision}\n\n"
    )


TEXTS = {
    "cortex-a72": _core("0xd08", "0x0", 3, "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid", "108.00"),
    "neoverse-n1": _core(
        "0xd0c",
        "0x3",
        1,
        "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp",
        "243.75",
    ),
}

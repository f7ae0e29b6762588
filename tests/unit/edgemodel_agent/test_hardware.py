import time
from importlib.metadata import version

import pytest

from edgemodel_agent import hardware
from edgemodel_agent.hardware import CpuInfo, detect, installed_runtimes, memory_limit, parse_cpuinfo

XEON = """processor : 0
model name\t: Intel(R) Xeon(R) Gold 6230
flags\t\t: fpu sse4_2 avx2 avx512f avx512_vnni

processor : 1
model name\t: Intel(R) Xeon(R) Gold 6230
flags\t\t: fpu sse4_2 avx2 avx512f avx512_vnni
"""
HASWELL = "model name : Intel(R) Core(TM) i5-4570\nflags : fpu sse4_2 avx avx2 fma\n"
ATOM = "model name : Intel(R) Atom(TM) CPU E3845\nflags : fpu sse4_2\n"
PI5 = """processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer\t: 0x41
CPU part\t: 0xd0b

Revision\t: c04170
Model\t\t: Raspberry Pi 5 Model B Rev 1.0
"""
PI4 = """processor\t: 0
Features\t: fp asimd evtstrm crc32 cpuid
CPU part\t: 0xd08

Model\t\t: Raspberry Pi 4 Model B Rev 1.4
"""
BIG_LITTLE = """processor\t: 0
Features\t: fp asimd asimddp
CPU part\t: 0xd05

processor\t: 4
Features\t: fp asimd
CPU part\t: 0xd08
"""
PI2 = """processor\t: 0
model name\t: ARMv7 Processor rev 5 (v7l)
Features\t: half thumb fastmult vfp edsp neon vfpv3 tls vfpv4 idiva idivt vfpd32 lpae evtstrm
"""

CASES = {
    "server with VNNI": (XEON, "x86_64", "linux/amd64", "amd64-vnni", "Intel(R) Xeon(R) Gold 6230"),
    "AVX2 only": (HASWELL, "x86_64", "linux/amd64", "amd64-avx2", "Intel(R) Core(TM) i5-4570"),
    "old Atom": (ATOM, "x86_64", "linux/amd64", "amd64-base", "Intel(R) Atom(TM) CPU E3845"),
    "Arm with dot products": (PI5, "aarch64", "linux/arm64", "arm64-dotprod", "Raspberry Pi 5 Model B Rev 1.0"),
    "Arm without": (PI4, "aarch64", "linux/arm64", "arm64-base", "Raspberry Pi 4 Model B Rev 1.4"),
    "Arm, only some cores have them": (BIG_LITTLE, "aarch64", "linux/arm64", "arm64-base", "Arm part 0xd05"),
    "32-bit Arm": (PI2, "armv7l", "linux/arm/v7", "arm-v7", "ARMv7 Processor rev 5 (v7l)"),
    "unknown": ("", "riscv64", "linux/riscv64", "unknown", ""),
    "no cpuinfo at all": (None, "aarch64", "linux/arm64", "arm64-base", ""),
}


@pytest.mark.parametrize("name", CASES)
def test_detect(tmp_path, name):
    text, architecture, platform, hardware_class, model = CASES[name]
    path = tmp_path / "cpuinfo"
    if text is not None:
        path.write_text(text)
    found = detect(cpuinfo=path, architecture=architecture)
    assert (found.platform, found.hardware_class, found.cpu_model) == (platform, hardware_class, model)
    assert found.cores >= 1
    assert found.memory_bytes > 0


def test_only_relevant_features_are_reported(tmp_path):
    path = tmp_path / "cpuinfo"
    path.write_text(XEON)
    assert detect(cpuinfo=path, architecture="x86_64").features == ("avx2", "avx512_vnni", "avx512f")


def test_rubbish_is_no_cpu():
    assert parse_cpuinfo("\0\0no colon here\n: :\n") == CpuInfo("", frozenset())


def test_runtimes_that_are_not_installed_are_left_out():
    found = installed_runtimes(("numpy", "no-such-runtime"))
    assert list(found) == ["numpy"]


def test_a_runtime_that_cannot_be_imported_counts_as_not_installed(monkeypatch):
    assert set(installed_runtimes()) == {"onnxruntime", "ai-edge-litert"}
    monkeypatch.setitem(hardware.MODULES, "ai-edge-litert", "ai_edge_litert.no_such_module")
    assert set(installed_runtimes()) == {"onnxruntime"}
    monkeypatch.setitem(hardware.MODULES, "ai-edge-litert", "os; os.kill(os.getpid(), 11)")
    assert set(installed_runtimes()) == {"onnxruntime"}, "it may end the process that imports it"
    monkeypatch.setattr(hardware, "IMPORT_SECONDS", 0.2)
    monkeypatch.setitem(hardware.MODULES, "ai-edge-litert", "time; time.sleep(30)")
    assert set(installed_runtimes()) == {"onnxruntime"}


def test_a_runtime_that_a_busy_node_is_slow_to_import_joins_later(monkeypatch, caplog):
    monkeypatch.setattr(hardware, "IMPORT_SECONDS", 0.5)
    monkeypatch.setitem(hardware.MODULES, "ai-edge-litert", "time; time.sleep(1.0)")
    runtimes = hardware.Runtimes()
    seen = []
    deadline = time.monotonic() + 60
    while "ai-edge-litert" not in (runtimes.found or {}) and time.monotonic() < deadline:
        seen.append(runtimes.found)
        time.sleep(0.02)
    assert {"onnxruntime": version("onnxruntime")} in seen, "the first report does not wait for it"
    assert set(runtimes.found) == {"onnxruntime", "ai-edge-litert"}
    assert "ai-edge-litert: its import took longer than 0 s; once more" in caplog.text


def test_a_runtime_whose_import_never_ends_is_given_up(monkeypatch, caplog):
    monkeypatch.setattr(hardware, "IMPORT_SECONDS", 0.05)
    monkeypatch.setattr(hardware, "IMPORT_TRIES", 3)
    monkeypatch.setitem(hardware.MODULES, "ai-edge-litert", "time; time.sleep(30)")
    hardware.Runtimes()
    deadline = time.monotonic() + 60
    while "is not used" not in caplog.text and time.monotonic() < deadline:
        time.sleep(0.02)
    assert caplog.text.count("once more") == 2
    assert "ai-edge-litert: its import took longer than" in caplog.text


@pytest.mark.parametrize(
    ("files", "expected"),
    [({"memory.max": "1000\n"}, 1000), ({"memory.max": "max\n"}, 5000), ({}, 5000),
     ({"memory/memory.limit_in_bytes": "9223372036854771712"}, 5000)],
    ids=["limited", "v2 without limit", "no cgroups", "v1 without limit"],
)  # fmt: skip
def test_memory_limit_of_a_container(tmp_path, files, expected):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert memory_limit(5000, tmp_path) == expected

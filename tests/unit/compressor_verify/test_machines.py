"""Which kinds of CPU can be had, from what lies about."""

from __future__ import annotations

import shutil
import sys

import pytest

from edgemodel_api.hardware import HardwareClass, classify, parse_cpuinfo
from edgemodel_api.report import VerifiedHow
from edgemodel_compressor import host
from edgemodel_compressor.verify import cpuinfo, install, machines
from edgemodel_compressor.verify.machines import CANNOT, NAMED, environment_dir, find_qemu, write_cpuinfo


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """An x86 machine with VNNI and an empty cache; QEMU is not installed."""
    native = host.detect().replace(platform="linux/amd64", hardware_class=HardwareClass.AMD64_VNNI, cpu_model="Example")
    monkeypatch.setattr(host, "detect", lambda: native)
    monkeypatch.delenv("EDGEMODEL_EMULATION", raising=False)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(shutil, "which", lambda _: None)
    return tmp_path / "cache"


def qemu(cache, architecture, number="7.2.22"):
    """A program that says its version, where `install` puts it."""
    name = {"amd64": "qemu-x86_64-static", "arm64": "qemu-aarch64-static"}[architecture]
    path = cache / f"qemu-{number}" / "usr" / "bin" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{name} version {number} (Debian)'\n")
    path.chmod(0o755)
    return path


def test_without_qemu_each_kind_says_what_is_missing(bare):
    found = machines(bare)
    assert [(m.hardware_class, m.how, m.cpu) for m in found.found] == [
        (HardwareClass.AMD64_VNNI, VerifiedHow.NATIVE, "Example")
    ]
    assert found.here.command == (sys.executable,)
    assert set(found.missing) == set(HardwareClass) - {HardwareClass.AMD64_VNNI}
    assert (
        "qemu-x86_64 7.2 or newer is needed: run `python -m edgemodel_compressor.verify.install`"
        in found.missing[HardwareClass.AMD64_AVX2]
    )
    assert found.missing[HardwareClass.ARM_V7] == CANNOT[HardwareClass.ARM_V7]
    assert all("\n" not in why for why in found.missing.values())


def test_vnni_cannot_be_emulated(bare, monkeypatch):
    old = host.detect().replace(hardware_class=HardwareClass.AMD64_AVX2)
    monkeypatch.setattr(host, "detect", lambda: old)
    qemu(bare, "amd64")
    found = machines(bare)
    assert found.here.hardware_class is HardwareClass.AMD64_AVX2
    assert "no emulator has VNNI" in found.missing[HardwareClass.AMD64_VNNI]


def test_x86_runs_this_python_and_arm_one_of_its_own(bare):
    program = qemu(bare, "amd64")
    found = machines(bare)
    avx2 = found.of("amd64-avx2")
    assert avx2.cpu == "qemu 7.2.22 Haswell"
    assert avx2.command == (str(program), "-cpu", "Haswell", sys.executable)
    assert found.of("arm64-base") is None

    qemu(bare, "arm64")
    assert "an arm64 Python with onnxruntime" in machines(bare).missing[HardwareClass.ARM64_BASE]
    folder = environment_dir(bare, "arm64")
    (folder / "root" / "usr" / "bin").mkdir(parents=True)
    (folder / "root" / "usr" / "bin" / "python3.11").touch()
    assert "is incomplete" in machines(bare).missing[HardwareClass.ARM64_BASE]
    write_cpuinfo(folder)
    write_cpuinfo(folder)
    arm = machines(bare).of("arm64-base")
    assert arm.cpu == "qemu 7.2.22 cortex-a72"
    assert arm.environment == {"PYTHONPATH": str(folder / "site")}
    prefix = folder / "cpu" / "cortex-a72"
    assert arm.command[-3:] == ("-L", str(prefix), str(prefix / "usr" / "bin" / "python3.11"))


def test_emulation_can_be_turned_off(bare, monkeypatch):
    qemu(bare, "amd64")
    monkeypatch.setenv("EDGEMODEL_EMULATION", "off")
    found = machines(bare)
    assert len(found.found) == 1
    assert found.missing[HardwareClass.AMD64_AVX2] == "emulation is turned off by EDGEMODEL_EMULATION=off"
    assert found.missing[HardwareClass.ARM_V7] == CANNOT[HardwareClass.ARM_V7]


@pytest.mark.parametrize(("number", "good"), [("7.1.0", False), ("7.2.22", True), ("10.0.2", True), ("6.2.0", False)])
def test_an_old_qemu_has_no_avx2_and_is_not_used(bare, number, good):
    program = qemu(bare, "amd64", number)
    found = find_qemu("amd64", bare)
    assert found == (program, number) if good else f"{program} is {number}, " in found


def test_the_emulated_cpus_say_what_they_are():
    for kind, named in NAMED.items():
        if named.architecture == "arm64":
            flags = parse_cpuinfo(cpuinfo.TEXTS[named.cpu]).flags
            assert classify("aarch64", flags) == ("linux/arm64", kind)


def test_install_without_apt_is_one_line(bare, capsys, monkeypatch):
    monkeypatch.setattr(install, "attempt", lambda _: False)
    assert install.main(["--cache", str(bare)]) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[-1].startswith("not complete: packages come by apt-get, which this system lacks")


def test_install_where_nothing_can_be_written(bare, capsys):
    bare.parent.mkdir(exist_ok=True)
    bare.write_text("a file")
    assert install.main(["--cache", str(bare)]) == 1
    assert "set EDGEMODEL_CACHE to a writable folder" in capsys.readouterr().out


def test_install_says_why_a_download_failed(tmp_path):
    with pytest.raises(install.InstallError, match=r"QEMU: failed: E: Unable to locate"):
        install._run(["sh", "-c", "echo 'E: Unable to locate package' ; exit 100"], tmp_path, "QEMU")
    with pytest.raises(install.InstallError, match="does not start"):
        install._run(["/no/such/program"], tmp_path, "QEMU")


def test_check_tries_each_cpu(bare, capsys):
    program = qemu(bare, "amd64")
    # Whatever it is asked to run, it says its version: as good as a Python with onnxruntime would.
    program.write_text("#!/bin/sh\necho 'onnxruntime version 7.2.22'\n")
    assert install.main(["--check", "--cache", str(bare)]) == 1  # arm64 is missing
    said = capsys.readouterr().out
    assert "amd64-avx2: qemu 7.2.22 Haswell: onnxruntime version" in said
    assert "arm64-base: qemu-aarch64 7.2 or newer is needed" in said

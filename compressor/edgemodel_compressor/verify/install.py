"""Fetch what emulation needs: QEMU's user mode, and for the other architecture a Python with onnxruntime.

    python -m edgemodel_compressor.verify.install           fetch what is missing, then try each CPU
    python -m edgemodel_compressor.verify.install --check   only try

Needs no root and changes nothing of the system: packages are fetched by apt with lists of its own and unpacked into
the cache ($EDGEMODEL_CACHE/emulation, default ~/.cache/edgemodel/emulation; about 75 MB for QEMU, 300 MB for the
environment). Wheels are fetched by pip, in the versions that run here. Works on Debian and its kin; elsewhere QEMU can
be installed by other means, and the CPUs of this machine's own architecture are then emulated.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

from edgemodel_api.report import VerifiedHow

from .machines import (
    NAMED,
    Machine,
    architecture,
    cache_dir,
    environment_dir,
    find_qemu,
    machines,
    write_cpuinfo,
)

#: What a Python with numpy and onnxruntime is linked against.
PACKAGES = ("python3", "libstdc++6", "libgcc-s1", "zlib1g")
WHEEL_TAGS = {"arm64": "aarch64", "amd64": "x86_64"}
#: glibc versions whose wheels Debian 12 and newer can run.
GLIBC = ("2_34", "2_28", "2_27", "2_17")
TRY_SECONDS = 180
PROGRESS_SECONDS = 15


class InstallError(Exception):
    """What is missing, in one line."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 if each CPU that can be emulated runs onnxruntime."""
    parser = argparse.ArgumentParser(
        prog="edgemodel_compressor.verify.install", description="Fetch what emulation needs."
    )
    parser.add_argument("--check", action="store_true", help="fetch nothing; only try each CPU")
    parser.add_argument("--cache", type=Path, default=None, help="folder; default $EDGEMODEL_CACHE/emulation")
    options = parser.parse_args(arguments)
    cache = options.cache or cache_dir()
    if not options.check:
        try:
            fetch(cache)
        except InstallError as error:
            print(f"not complete: {error}")
        except OSError as error:
            print(f"cannot write {cache} ({error.strerror}): set EDGEMODEL_CACHE to a writable folder")
            return 1
    return 0 if attempt(cache) else 1


def fetch(cache: Path) -> None:
    """Fetch what is missing.

    Raises:
        InstallError: what cannot be had.
    """
    if not sys.platform.startswith("linux"):
        raise InstallError("QEMU's user mode needs Linux")
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache):
        for target in sorted({named.architecture for named in NAMED.values()}):
            found = find_qemu(target, cache)
            if isinstance(found, str):
                _fetch_qemu(cache)
                found = find_qemu(target, cache)
            if isinstance(found, str):
                raise InstallError(found)
            print(f"QEMU {found[1]} for {target}: {found[0]}", flush=True)
            if target != architecture():
                _fetch_environment(cache, target)


def attempt(cache: Path) -> bool:
    """Start Python with onnxruntime on each CPU, one line each; whether all of them did."""
    found = machines(cache)
    good = True
    for machine in found.found:
        start = time.monotonic()
        said = _start(machine)
        good = good and said.startswith("onnxruntime")
        print(f"{machine.hardware_class}: {machine.cpu}: {said} ({time.monotonic() - start:.0f} s)", flush=True)
    for kind, why in found.missing.items():
        good = good and kind not in NAMED
        print(f"{kind}: {why}")
    return good


def _start(machine: Machine) -> str:
    code = "import numpy, onnxruntime; print('onnxruntime', onnxruntime.__version__, 'numpy', numpy.__version__)"
    try:
        done = subprocess.run(
            [*machine.command, "-s", "-P", "-c", code],
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", **machine.environment},
            capture_output=True,
            text=True,
            timeout=TRY_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"does not start: {error}"
    if done.returncode == 0:
        return done.stdout.strip()
    last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    how = "a native file" if machine.how is VerifiedHow.NATIVE else "its file"
    return f"does not start from {how}: {last[:200]}"


def _fetch_qemu(cache: Path) -> None:
    with _scratch(cache) as folder:
        apt = _apt(folder, architecture())
        _run([*apt, "download", "qemu-user-static"], folder, "QEMU (63 MB)")
        package = next(folder.glob("qemu-user-static_*.deb"), None)
        if package is None:
            raise InstallError("apt has no package qemu-user-static here")
        number = re.sub(r"[^0-9A-Za-z.+~-]", "-", package.name.split("_")[1])
        made = folder / "made"
        _run(["dpkg-deb", "-x", str(package), str(made)], folder, "QEMU: unpacking")
        for path in (made / "usr" / "bin").iterdir():
            if path.name not in ("qemu-x86_64-static", "qemu-aarch64-static"):
                path.unlink()
        shutil.rmtree(made / "usr" / "share", ignore_errors=True)
        _place(made, cache / f"qemu-{number}")


def _fetch_environment(cache: Path, target: str) -> None:
    place = environment_dir(cache, target)
    if (place / "cpu").is_dir():
        print(f"Python for {target}: {place}", flush=True)
        return
    with _scratch(cache) as folder:
        made = folder / "made"
        root, site = made / "root", made / "site"
        root.mkdir(parents=True)
        site.mkdir()
        apt = _apt(folder, target)
        _run([*apt, "install", "--yes", "--download-only", *PACKAGES], folder, f"Python for {target} (20 MB)")
        for package in sorted((folder / "apt" / "cache" / "archives").glob("*.deb")):
            _run(["dpkg-deb", "-x", str(package), str(root)], folder, f"Python for {target}: unpacking {package.name}")
        for name in ("doc", "man", "locale", "info"):
            shutil.rmtree(root / "usr" / "share" / name, ignore_errors=True)
        python = next(iter(sorted((root / "usr" / "bin").glob("python3.*[0-9]"))), None)
        if python is None:
            raise InstallError(f"apt's packages {', '.join(PACKAGES)} of {target} hold no Python")
        _fetch_wheels(folder, target, python.name.removeprefix("python"), site)
        write_cpuinfo(made)
        _place(made, place)
    print(f"Python for {target}: {place}", flush=True)


def _fetch_wheels(folder: Path, target: str, python: str, site: Path) -> None:
    wanted = [f"{name}=={version(name)}" for name in ("onnxruntime", "numpy")]
    tags = [f"--platform=manylinux_{glibc}_{WHEEL_TAGS[target]}" for glibc in GLIBC]
    wheels = folder / "wheels"
    _run(
        [
            sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
            "--only-binary=:all:", "--implementation=cp", f"--python-version={python}", *tags, "-d", str(wheels), *wanted,
        ],
        folder,
        f"{' and '.join(wanted)} for {target}, Python {python} (40 MB)",
    )  # fmt: skip
    for wheel in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)


def _apt(folder: Path, target: str) -> list[str]:
    """`apt-get` with lists and a status of its own, for another architecture; the system's sources."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise InstallError(
            "packages come by apt-get, which this system lacks: install QEMU's user mode (7.2 or newer) by its own means;"
            " then the CPUs of this machine's architecture are emulated, others are not"
        )
    base = folder / "apt"
    for name in ("state/lists/partial", "cache/archives/partial"):
        (base / name).mkdir(parents=True, exist_ok=True)
    (base / "status").touch()
    config = base / "apt.conf"
    options = {
        "Dir::State": base / "state",
        "Dir::State::status": base / "status",
        "Dir::Cache": base / "cache",
        "APT::Architecture": target,
        "APT::Install-Recommends": "false",
        "Acquire::Languages": "none",
        "Debug::NoLocking": "true",
        # Its own user could not write here.
        "APT::Sandbox::User": "root",
    }
    config.write_text("".join(f'{k} "{v}";\n' for k, v in options.items()) + f'APT::Architectures {{ "{target}"; }};\n')
    apt = ["env", f"APT_CONFIG={config}", "apt-get", "--quiet"]
    # Sources that do not have this architecture make it fail, though the others serve: what counts is the download.
    with contextlib.suppress(InstallError):
        _run([*apt, "update"], folder, f"lists of packages for {target}")
    return apt


def _run(command: list[str], folder: Path, what: str) -> None:
    """One program, with a line when it begins and each quarter of a minute."""
    start = time.monotonic()
    log = folder / "log"
    if "unpacking" not in what:
        print(f"{what} …", flush=True)
    with log.open("wb") as sink:
        try:
            process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink)
        except OSError as error:
            raise InstallError(f"{what}: {command[0]} does not start: {error.strerror}") from None
        try:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(PROGRESS_SECONDS)
                    break
                print(f"{what}: {time.monotonic() - start:.0f} s …", flush=True)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    if process.returncode:
        said = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
        errors = [line for line in said if line.startswith(("E:", "ERROR:"))] or said
        why = errors[-1][:300] if errors else "without a word"
        if "No module named pip" in why:
            why = f"this Python has no pip: {sys.executable} -m ensurepip"
        raise InstallError(f"{what}: failed: {why}")


def _place(made: Path, place: Path) -> None:
    """It appears whole or not at all."""
    shutil.rmtree(place, ignore_errors=True)
    os.replace(made, place)


@contextlib.contextmanager
def _scratch(cache: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=cache) as name:
        yield Path(name)


@contextlib.contextmanager
def _locked(cache: Path) -> Iterator[None]:
    """One at a time."""
    with (cache / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    sys.exit(main())

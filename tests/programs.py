"""Programs, ports and a cache for tests that start processes or bring files."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

#: Environments and downloads that tests share, outside of the checkout.
CACHE = Path(os.environ.get("EDGEMODEL_TEST_CACHE", Path.home() / ".cache" / "edgemodel-tests"))
INSTALL = Path(__file__).resolve().parents[1] / "tools" / "install"


def tool(name: str) -> str:
    """A program that tools/install builds: without it the test is skipped, or fails where tools are required."""
    command = [sys.executable, str(INSTALL), "--print-path", name]
    path = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    if os.access(path, os.X_OK):
        return path
    message = f"{name} is not there ({path}): run `make tools`"
    if os.environ.get("EDGEMODEL_REQUIRE_TOOLS") == "1":
        pytest.fail(message)
    pytest.skip(message)


def kept(name: str, make: Callable[[Path], None]) -> Path:
    """A folder of the cache, made once, whichever process of the tests needs it first; a half made one is made anew."""
    folder = CACHE / name
    CACHE.mkdir(parents=True, exist_ok=True)
    with FileLock(CACHE / f"{name}.lock"):
        if not (folder / "ready").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            (folder / "ready").touch()
    return folder


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])

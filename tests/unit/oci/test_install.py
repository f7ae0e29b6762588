"""tools/install says in one line what is wrong."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

INSTALL = Path(__file__).resolve().parents[3] / "tools" / "install"


@pytest.mark.parametrize(
    ("log", "message"),
    [
        (
            "go: oras.land/oras@v1.3.6 requires go >= 1.26.0 (running go 1.22.1; GOTOOLCHAIN=local)",
            "needs Go 1.26.0, this is Go 1.22.1",
        ),
        (
            "go: errors parsing go.mod:\ngo.mod:3: invalid go version '1.26.0': must match format 1.23",
            "needs Go 1.26.0",
        ),
        ('go: x: Get "https://proxy/x": dial tcp: lookup proxy: no such host', "cannot be reached"),
        ("write /x: no space left on device", "disk is full"),
        ("go: downloading a v1\nsomething else\n", "go install failed: something else"),
        ("", "no output"),
    ],
)
def test_one_line_for_a_failed_build(log, message):
    line = runpy.run_path(str(INSTALL))["explain"](log)
    assert message in line
    assert "\n" not in line


@pytest.mark.parametrize("require", [False, True])
def test_without_go(tmp_path, require):
    # An interpreter by its full path, so that nothing at all is on PATH.
    code = (
        "import runpy, shutil, sys; shutil.which = lambda name: None; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    command = [
        sys.executable,
        "-c",
        f"import sys; sys.argv = {[str(INSTALL), *(['--require'] if require else [])]}; {code}",
    ]
    done = subprocess.run(
        command, env={**os.environ, "EDGEMODEL_CACHE": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == require
    assert done.stdout.startswith("oras and registry")
    assert ": not built, Go is missing: install it" in done.stdout
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""


def test_where_the_programs_lie(tmp_path):
    def ask(*options: str) -> str:
        environment = {**os.environ, "EDGEMODEL_CACHE": str(tmp_path)}
        return subprocess.run(
            [sys.executable, str(INSTALL), *options], env=environment, capture_output=True, text=True, check=True
        ).stdout.strip()

    assert ask("--print-dir") == f"{tmp_path}/tools"
    assert Path(ask("--print-path", "oras")).is_relative_to(tmp_path / "tools")

"""Guards of the repository's shape."""

import operator
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def test_operator_folder_never_shadows_the_standard_library():
    assert not (ROOT / "operator" / "__init__.py").exists(), (
        "operator/__init__.py would shadow the standard library's operator"
    )
    assert not list((ROOT / "operator").rglob("test_*.py")), (
        "tests under operator/ break the interpreter in importlib mode"
    )
    assert ROOT not in Path(operator.__file__).parents


def test_standard_operator_wins_from_the_checkout():
    out = subprocess.run(
        [sys.executable, "-c", "import operator; print(operator.itemgetter(0)('x'))"],
        cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert out.stdout == "x\n"


def test_no_large_or_binary_files_are_tracked():
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.split(b"\0")
    too_large = [
        f for f in files if f and (ROOT / f.decode()).is_file() and (ROOT / f.decode()).stat().st_size > 1_000_000
    ]
    models = [f for f in files if f.endswith((b".onnx", b".npz", b".npy", b".tflite"))]
    assert too_large == []
    assert models == []

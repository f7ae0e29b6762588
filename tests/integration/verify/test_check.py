"""Verdicts for each kind of CPU, on machines that are made up."""

from __future__ import annotations

import sys

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgemodel_api.hardware import HardwareClass
from edgemodel_api.report import VerifiedHow
from edgemodel_compressor.verify import Samples, samples, verify
from edgemodel_compressor.verify.check import distance

AVX2, DOT = HardwareClass.AMD64_AVX2, HardwareClass.ARM64_DOTPROD


@pytest.fixture
def setting(v, tmp_path):
    """A classifier, its samples, and its file in an encoding."""
    rng = np.random.default_rng(0)
    # Large and of one sign, so that sums saturate; and each sample has a column of its own that is largest.
    source = v.model([v.node("MatMul", ["x", "w"], "y", "mm")], {"w": rng.uniform(0.6, 1.0, size=(128, 16))}, (128,))
    x = rng.uniform(0.5, 1.0, size=(60, 128)).astype(np.float32)
    labels = v.session(source).run(None, {"x": x})[0].argmax(axis=1)
    evaluator = v.evaluator(source, x, labels, tmp_path)

    def file(encoding):
        path = tmp_path / f"{encoding}.onnx"
        onnx.save(v.quantized(source, x, encoding), path)
        return path

    return samples(evaluator, limit=0.02, wanted=12), file, tmp_path


def test_holds_natively_and_elsewhere(v, setting):
    chosen, file, work = setting
    machines = v.fleet(v.machine(AVX2), missing={DOT: "install something"})
    rows = verify(file("float16-weights"), classes=["arm64-dotprod", "amd64-vnni", "amd64-avx2", "amd64-vnni"],
                  samples=chosen, machines=machines, work_dir=work)  # fmt: skip
    assert [r.hardware_class for r in rows] == ["arm64-dotprod", "amd64-vnni", "amd64-avx2"]
    again = verify(file("float16-weights"), classes=[r.hardware_class for r in rows], samples=chosen, machines=machines,
                   work_dir=work, workers=3)  # fmt: skip
    assert again == rows
    missing, here, there = rows
    assert (missing.how, missing.holds, missing.samples) == (VerifiedHow.NO, None, 0)
    assert missing.message == "not verified: install something"
    assert (here.how, here.holds, here.max_error, here.samples) == (VerifiedHow.NATIVE, True, 0.0, 12)
    assert (there.how, there.holds, there.max_error, there.message) == (VerifiedHow.EMULATED, True, 0.0, "")
    assert there.quality == here.quality
    assert there.quality_drop == here.quality_drop


def shim(tmp_path, text):
    """The child program of this machine, its answers spoilt as another CPU might."""
    path = tmp_path / "spoilt.py"
    path.write_text(
        f"import glob, os, runpy, sys\nimport numpy as np\nargs = sys.argv[1:]\nargs = args[args.index('-P') + 1:]\n"
        f"sys.argv = args\ntry:\n    runpy.run_path(args[0], run_name='__main__')\nexcept SystemExit as e:\n    code = e.code\n{text}\nsys.exit(code)\n"
    )
    return (sys.executable, str(path))


SPOIL = """
for f in glob.glob(os.path.join(args[3], "[0-9]*.npz")):
    a = dict(np.load(f)); np.savez(f, **{k: np.roll(v * 0.5, 1, axis=-1) for k, v in a.items()})
"""


def test_lost_quality_is_said_with_both_numbers(v, setting):
    chosen, file, work = setting
    machines = v.fleet(v.machine(AVX2, shim(work, SPOIL)))
    (row,) = verify(file("float16-weights"), classes=["amd64-avx2"], samples=chosen, machines=machines, work_dir=work)
    assert row.holds is False
    assert row.quality_drop > 0.5
    assert row.max_error > 0.3
    assert "quality drops by" in row.message
    assert "0.00% here, on the same 12 samples" in row.message


def test_no_worse_than_here_holds(v, setting):
    """A file over the budget on these samples everywhere is the pipeline's business, not this CPU's."""
    chosen, file, work = setting
    path = file("float16-weights")
    strict = Samples(chosen.feeds, lambda answers: type(chosen.judge(answers))(0.9, 0.1, over=True), chosen.rows)
    machines = v.fleet(v.machine(AVX2))
    here, there = verify(path, classes=["amd64-vnni", "amd64-avx2"], samples=strict, machines=machines, work_dir=work)
    assert (here.holds, there.holds) == (False, True)


@pytest.mark.parametrize(
    ("text", "holds", "how", "said"),
    [
        ("#!/bin/sh\nkill -ILL $$\n", None, VerifiedHow.NO, "not verified: pretended amd64-avx2 does not start"),
        ("#!/bin/sh\nsleep 30\n", None, VerifiedHow.NO, "took more than"),
        (
            '#!/bin/sh\necho \'{"stage": "start", "onnxruntime": "1"}\'\nkill -ILL $$\n',
            False,
            VerifiedHow.EMULATED,
            "SIGILL",
        ),
    ],
)
def test_what_cannot_run(v, setting, text, holds, how, said):
    chosen, file, work = setting
    program = work / "program"
    program.write_text(text)
    program.chmod(0o755)
    machines = v.fleet(v.machine(AVX2, (str(program),)))
    (row,) = verify(file("float16-weights"), classes=["amd64-avx2"], samples=chosen, machines=machines, work_dir=work,
                    seconds=5)  # fmt: skip
    assert (row.holds, row.how) == (holds, how)
    assert said in row.message


def test_a_file_that_runs_nowhere(v, setting):
    chosen, _, work = setting
    path = work / "broken.onnx"
    path.write_bytes(b"broken")
    machines = v.fleet(v.machine(AVX2))
    rows = verify(path, classes=["amd64-vnni", "amd64-avx2"], samples=chosen, machines=machines, work_dir=work)
    assert [r.holds for r in rows] == [False, False]
    assert all("loading the model fails there" in r.message for r in rows)


@pytest.mark.parametrize(
    ("encoding", "holds", "said"),
    [
        ("int8-static-u8s8", False, "1 of its layers leaves 16 bits there: 'mm' errs by"),
        ("int8-static-u8u8", None, "no sum leaves 16 bits there"),
    ],
)
def test_without_an_emulator_saturation_is_counted(v, setting, encoding, holds, said):
    chosen, file, work = setting
    machines = v.fleet(missing={AVX2: "QEMU is missing"})
    for classes in (["amd64-avx2"], ["amd64-vnni", "amd64-avx2"]):
        row = verify(file(encoding), classes=classes, samples=chosen, machines=machines, work_dir=work)[-1]
        assert (row.how, row.holds) == (VerifiedHow.NO, holds)
        assert row.message.startswith("not verified: QEMU is missing; counted")
        assert said in row.message


def test_distance_golden():
    here = [{"y": np.array([[3.0, 4.0]]), "k": np.array([1])}] * 2
    there = [{"y": np.array([[3.0, 4.5]]), "k": np.array([9])}, here[1]]
    assert distance(there, here) == pytest.approx(0.5 / np.sqrt(50))
    assert distance(there[:1], here) == pytest.approx(0.1)
    assert distance(here, here[:1]) is None
    assert distance([], here) is None
    assert distance([{"y": np.zeros((1, 3))}], [{"y": np.zeros((1, 2))}]) is None
    assert distance([{"y": np.array([np.nan])}], [{"y": np.array([1.0])}]) is None
    assert distance([{"k": np.array([1])}], [{"k": np.array([2])}]) is None


@given(st.floats(-2, 2), st.floats(0.1, 100))
def test_distance_of_a_scaled_answer(factor, scale):
    here = [{"y": np.array([[1.0, -2.0, 2.0]]) * scale}]
    there = [{"y": here[0]["y"] * factor}]
    assert distance(there, here) == pytest.approx(abs(factor - 1), abs=1e-9)

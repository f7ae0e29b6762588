"""What users pick instead, with its defaults: `onnxruntime.quantization` (dynamic, static) and onnxsim.

Run as `python peers.py TECHNIQUE MODEL CALIBRATION OUT` in an environment that has the technique's package, so that one peer's
needs never bend another's.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path


def ort_dynamic(model: Path, _calibration: Path, out: Path) -> None:
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(model, out)


def ort_static(model: Path, calibration: Path, out: Path) -> None:
    """The documented way: pre-process, then MinMax calibration with the data at hand."""
    import numpy as np
    from onnxruntime.quantization import CalibrationDataReader, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            with np.load(calibration, allow_pickle=False) as arrays:
                self.arrays = {name: arrays[name] for name in arrays.files}
            self.at = 0

        def get_next(self) -> dict[str, np.ndarray] | None:
            i, self.at = self.at, self.at + 1
            if i >= min(100, *(len(a) for a in self.arrays.values())):
                return None
            return {name: a[i : i + 1] for name, a in self.arrays.items()}

    prepared = out.with_suffix(".prepared.onnx")
    quant_pre_process(str(model), str(prepared), skip_symbolic_shape=True)
    quantize_static(prepared, out, Reader())
    prepared.unlink()


def onnxsim(model: Path, _calibration: Path, out: Path) -> None:
    import onnx
    import onnxsim as library

    simplified, same = library.simplify(onnx.load(model))
    if not same:
        sys.exit("onnxsim: its own check says that the simplified model answers differently")
    onnx.save(simplified, out)


TECHNIQUES: dict[str, Callable[[Path, Path, Path], None]] = {
    "ort-dynamic": ort_dynamic,
    "ort-static": ort_static,
    "onnxsim": onnxsim,
}

if __name__ == "__main__":
    technique, *paths = sys.argv[1:]
    TECHNIQUES[technique](*map(Path, paths))

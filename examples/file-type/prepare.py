"""Writes `data/{model.onnx,calibration.npz,validation.npz}`: magika's model from its package, and files of known type.

`python examples/file-type/prepare.py`. The same installation always gives the same bytes. Validation is labelled with
indices into the model's output; calibration has no labels, and shares no file with validation.
"""

from __future__ import annotations

import collections
import importlib.util
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
from features import features
from samples import samples

DATA = Path(__file__).parent / "data"
#: Files of each of about 70 types. More would settle the quality more exactly, and take longer for each candidate.
VALIDATION_PER_TYPE = 7
CALIBRATION_PER_TYPE = 2


def magika_folder() -> Path:
    """Where the installed magika keeps its newest model.

    Raises:
        SystemExit: magika is not installed, or keeps its model elsewhere.
    """
    found = importlib.util.find_spec("magika")
    folders = sorted(Path(found.origin).parent.glob("models/*/model.onnx")) if found and found.origin else []
    if not folders:
        raise SystemExit("no model of magika found: install the examples' packages (make setup, or pip install magika)")
    return folders[-1].parent


def type_names() -> list[str]:
    """What each number of the model's output stands for."""
    names: list[str] = json.loads((magika_folder() / "config.min.json").read_bytes())["target_labels_space"]
    return names


def datasets() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(calibration, validation): `bytes` int32 of shape (samples, 2048), and for validation `type` int64 (samples,)."""
    index = {name: i for i, name in enumerate(type_names())}
    seen: collections.Counter[str] = collections.Counter()
    calibration, validation, labels = [], [], []
    for kind, content in samples(VALIDATION_PER_TYPE + CALIBRATION_PER_TYPE):
        seen[kind] += 1
        # Rare kinds go to validation whole: a label there is worth more than one more file to see ranges on.
        if seen[kind] <= VALIDATION_PER_TYPE:
            validation.append(features(content))
            labels.append(index[kind])
        else:
            calibration.append(features(content))
    return {"bytes": np.stack(calibration)}, {"bytes": np.stack(validation), "type": np.array(labels, np.int64)}


def accuracy(model: Path, data: dict[str, np.ndarray]) -> float:
    """Share of the files whose type the model names."""
    options = ort.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # threads that wait leave the CPU alone
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    right = 0
    for start in range(0, len(data["type"]), 32):
        (scores,) = session.run(None, {"bytes": data["bytes"][start : start + 32]})
        right += int((scores.argmax(axis=1) == data["type"][start : start + 32]).sum())
    return right / len(data["type"])


def write(path: Path, fill: Callable[[Path], object]) -> None:
    """Whole or not at all: a broken-off run leaves no half file behind."""
    part = path.with_name(f".{path.name}")
    fill(part)
    os.replace(part, path)


def save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """An `.npz`; same arrays, same bytes."""
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)


def main() -> int:
    calibration, validation = datasets()
    model = magika_folder() / "model.onnx"
    DATA.mkdir(exist_ok=True)
    write(DATA / "model.onnx", lambda part: part.write_bytes(model.read_bytes()))
    write(DATA / "calibration.npz", lambda part: save(part, calibration))
    write(DATA / "validation.npz", lambda part: save(part, validation))
    labels = validation["type"]
    print(
        f"{DATA}: model.onnx ({model.stat().st_size / 2**20:.1f} MiB), {len(calibration['bytes'])} files to calibrate,"
        f" {len(labels)} files of {len(set(labels.tolist()))} types to validate"
    )
    print(f"The source names the type of {accuracy(DATA / 'model.onnx', validation):.2%} of them.")
    return 0


if __name__ == "__main__":
    sys.exit(main())

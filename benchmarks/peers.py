"""What users pick instead, with what its documentation says to begin with. One tool, one model, in an environment of its own.

    python peers.py TASK.json

TASK.json: `technique`, `model` (a file of the tool's own format), `calibration` and `validation` (npz), `labels` (an array's
name, or null), `metric` (Top1 or Cosine), `drop` (a fraction), `out`. Nothing of EdgeModel's is imported here: only the
technique's packages are there, so that one peer's needs never bend another's.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

#: Rows that calibrate, at most: what the tools' own examples take.
CALIBRATION_ROWS = 100


@dataclass(frozen=True)
class Task:
    """One line of the benchmark; see above."""

    technique: str
    model: Path
    calibration: Path
    validation: Path
    labels: str | None
    metric: str
    drop: float
    out: Path

    @classmethod
    def read(cls, path: Path) -> Task:
        found = json.loads(path.read_text())
        return cls(
            **{k: Path(v) if k in ("model", "calibration", "validation", "out") else v for k, v in found.items()}
        )

    def rows(self, path: Path, most: int | None = None) -> list[dict[str, np.ndarray]]:
        """Single requests."""
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files if name != self.labels}
        count = min(len(a) for a in found.values())
        return [{name: a[i : i + 1] for name, a in found.items()} for i in range(min(most or count, count))]


def ort_dynamic(task: Task) -> None:
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(task.model, task.out)


def ort_static(task: Task) -> None:
    """Its defaults: int8 weights and activations, a scale for each tensor, MinMax."""
    _ort_static(task)


def ort_static_u8(task: Task) -> None:
    """What its documentation recommends for x86 without VNNI: unsigned activations, 7-bit weights, by channel."""
    from onnxruntime.quantization import QuantType

    _ort_static(
        task, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, per_channel=True, reduce_range=True
    )


def ort_static_u8u8(task: Task) -> None:
    """What it recommends where that still saturates: unsigned weights too."""
    from onnxruntime.quantization import QuantType

    _ort_static(task, activation_type=QuantType.QUInt8, weight_type=QuantType.QUInt8)


def _ort_static(task: Task, **how: Any) -> None:
    from onnxruntime.quantization import CalibrationDataReader, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(task.rows(task.calibration, CALIBRATION_ROWS))

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.left, None)

    prepared = task.out.with_suffix(".prepared.onnx")
    quant_pre_process(str(task.model), str(prepared), skip_symbolic_shape=True)
    quantize_static(prepared, task.out, Reader(), **how)
    prepared.unlink()


def ort_int4(task: Task) -> None:
    """Weight-only int4 of MatMul and Gather, in blocks: its tool for language models."""
    import onnx
    from onnxruntime.quantization import matmul_nbits_quantizer as tool

    quantizer = tool.MatMulNBitsQuantizer(onnx.load(task.model))
    quantizer.process()
    quantizer.model.save_model_to_file(str(task.out))


def onnxsim(task: Task) -> None:
    import onnx
    import onnxsim as library

    simplified, same = library.simplify(onnx.load(task.model))
    if not same:
        sys.exit("onnxsim's own check says that the simplified model answers differently")
    onnx.save(simplified, task.out)


def nncf_ptq(task: Task) -> None:
    import nncf
    import onnx

    model = onnx.load(task.model)
    onnx.save(nncf.quantize(model, nncf.Dataset(task.rows(task.calibration))), task.out)


def nncf_accuracy(task: Task) -> None:
    """`quantize_with_accuracy_control`: layers go back to float until the drop on the validation data is met."""
    import nncf
    import onnx

    model = onnx.load(task.model)
    rows = task.rows(task.validation)
    score = _scores(task, model)

    def validate(candidate: Any, items: Iterable[Any]) -> tuple[float, list[float]]:
        # Items are numbers of rows: what is right for a row, NNCF does not hand on.
        numbers = [int(i) for i in items]
        run = _session(candidate)
        each = [score(run(rows[i]), i) for i in numbers]
        return float(np.mean(each)), each

    made = nncf.quantize_with_accuracy_control(
        model,
        calibration_dataset=nncf.Dataset(task.rows(task.calibration)),
        validation_dataset=nncf.Dataset(range(len(rows)), lambda i: rows[i]),
        validation_fn=validate,
        max_drop=task.drop,
        drop_type=nncf.DropType.RELATIVE,
    )
    onnx.save(made, task.out)


def nncf_weights(task: Task) -> None:
    import nncf
    import onnx

    onnx.save(nncf.compress_weights(onnx.load(task.model)), task.out)


def _session(model: Any) -> Callable[[dict[str, np.ndarray]], np.ndarray]:
    """The first output of a model in memory, as a server runs it."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    content = model if isinstance(model, bytes) else model.SerializeToString()
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    name = session.get_outputs()[0].name
    return lambda feeds: np.asarray(session.run([name], feeds)[0])


def _scores(task: Task, source: Any) -> Callable[[np.ndarray, int], float]:
    """How good one row's answer is: by its label, else by the source's answer."""
    if task.labels:
        with np.load(task.validation, allow_pickle=False) as arrays:
            labels = arrays[task.labels]
        return lambda answer, i: float((answer.argmax(-1) == labels[i]).mean())
    run = _session(source)
    truth = [run(row) for row in task.rows(task.validation)]
    if task.metric == "Cosine":
        # An answer that is nothing has no direction: the same floor as the yardstick's.
        more = 1e-6 * float(np.mean([np.square(t.astype(np.float64)).sum() for t in truth]))
        return lambda answer, i: _cosine(answer, truth[i], more)
    return lambda answer, i: float((answer.argmax(-1) == truth[i].argmax(-1)).mean())


def _cosine(a: np.ndarray, b: np.ndarray, more: float) -> float:
    x, y = a.ravel().astype(np.float64), b.ravel().astype(np.float64)
    return float((x @ y + more) / np.sqrt((x @ x + more) * (y @ y + more)))


def aeq_dynamic(task: Task) -> None:
    from ai_edge_quantizer import recipe

    _aeq(task, recipe.dynamic_wi8_afp32())


def aeq_weights(task: Task) -> None:
    from ai_edge_quantizer import recipe

    _aeq(task, recipe.weight_only_wi8_afp32())


def aeq_weights4(task: Task) -> None:
    from ai_edge_quantizer import recipe

    _aeq(task, recipe.weight_only_wi4_afp32())


def aeq_static(task: Task) -> None:
    from ai_edge_quantizer import recipe

    _aeq(task, recipe.static_wi8_ai8())


def _aeq(task: Task, recipe: Any) -> None:
    from ai_edge_quantizer import quantizer

    tool = quantizer.Quantizer(str(task.model), recipe)
    found = None
    if tool.need_calibration:
        found = tool.calibrate({"serving_default": task.rows(task.calibration, CALIBRATION_ROWS)})
    tool.quantize(found).export_model(task.out)


def coreml_int8(task: Task) -> None:
    import coremltools.optimize.coreml as tool

    config = tool.OptimizationConfig(tool.OpLinearQuantizerConfig(mode="linear_symmetric"))
    _coreml(task, lambda model: tool.linear_quantize_weights(model, config))


def coreml_palette(task: Task) -> None:
    import coremltools.optimize.coreml as tool

    config = tool.OptimizationConfig(tool.OpPalettizerConfig(mode="kmeans", nbits=4))
    _coreml(task, lambda model: tool.palettize_weights(model, config))


def coreml_palette6(task: Task) -> None:
    import coremltools.optimize.coreml as tool

    config = tool.OptimizationConfig(tool.OpPalettizerConfig(mode="kmeans", nbits=6))
    _coreml(task, lambda model: tool.palettize_weights(model, config))


def _coreml(task: Task, tool: Callable[[Any], Any]) -> None:
    import coremltools

    tool(coremltools.models.MLModel(str(task.model), skip_model_load=True)).save(str(task.out))


def olive_dynamic(task: Task) -> None:
    _olive(task, {"type": "OnnxDynamicQuantization"})


def olive_static(task: Task) -> None:
    _olive(task, {"type": "OnnxStaticQuantization", "data_config": "calibration"})


def _olive(task: Task, quantization: dict[str, Any]) -> None:
    """Its workflow for an ONNX model: peephole optimizer, then quantization."""
    from olive.data.registry import Registry
    from olive.workflows import run

    class Rows:
        def __init__(self) -> None:
            self.rows = task.rows(task.calibration, CALIBRATION_ROWS)

        def __len__(self) -> int:
            return len(self.rows)

        def __getitem__(self, i: int) -> tuple[dict[str, np.ndarray], int]:
            return {name: a[0] for name, a in self.rows[i].items()}, 0

    Registry.register_dataset("edgemodel_rows")(lambda **_: Rows())
    folder = task.out.with_suffix(".olive")
    run(
        {
            "input_model": {"type": "ONNXModel", "model_path": str(task.model)},
            "systems": {"here": {"type": "LocalSystem", "accelerators": [{"device": "cpu"}]}},
            "data_configs": [
                {
                    "name": "calibration",
                    "type": "DummyDataContainer",
                    "load_dataset_config": {"type": "edgemodel_rows"},
                    "pre_process_data_config": {"type": "skip_pre_process"},
                    "dataloader_config": {"type": "default_dataloader", "batch_size": 1},
                }
            ],
            "passes": {"peephole": {"type": "OnnxPeepholeOptimizer"}, "quantization": quantization},
            "host": "here",
            "target": "here",
            "cache_dir": str(folder / "cache"),
            "output_dir": str(folder / "out"),
        }
    )
    (made,) = list((folder / "out").rglob("*.onnx"))
    shutil.copyfile(made, task.out)
    shutil.rmtree(folder)


TECHNIQUES: dict[str, Callable[[Task], None]] = {
    "onnxsim": onnxsim,
    "ort-dynamic": ort_dynamic,
    "ort-static": ort_static,
    "ort-static-u8": ort_static_u8,
    "ort-static-u8u8": ort_static_u8u8,
    "ort-int4": ort_int4,
    "nncf": nncf_ptq,
    "nncf-accuracy": nncf_accuracy,
    "nncf-weights": nncf_weights,
    "aeq-dynamic": aeq_dynamic,
    "aeq-weights": aeq_weights,
    "aeq-weights4": aeq_weights4,
    "aeq-static": aeq_static,
    "coreml-int8": coreml_int8,
    "coreml-palette6": coreml_palette6,
    "coreml-palette4": coreml_palette,
    "olive-dynamic": olive_dynamic,
    "olive-static": olive_static,
}

if __name__ == "__main__":
    given = Task.read(Path(sys.argv[1]))
    TECHNIQUES[given.technique](given)

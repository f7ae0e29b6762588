"""Peak memory of compressing a large model, over the model's size: ours, and what a user would pick instead.

    nice -n 15 .venv/bin/python benchmarks/memory.py --gigabytes 3 --dir /tmp/memory

A stack of transformer blocks is generated with its weights as external data (seeded, so that every run has the same
bytes). Each recipe is a whole compression Job in a process of its own: fetch, check, first run, steps, quality, clocks,
packing and storing. Its memory is sampled with all of its children: the sum of their proportional set sizes (Pss: pages
that two processes share count once), every 50 ms or, where a sample takes long, every sixteen times that. Pages of mapped files count, though the kernel may take them back.

Peers run in processes of their own, with the same sampling, and are ended when they take more than --limit. They only
transform: no check, no quality, no clocks, no artifact.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
from onnx import TensorProto, helper, numpy_helper

from edgemodel_api.edgemodel import Step
from edgemodel_compressor.memory import predict, sizes_of

WIDTH, LENGTH, WORDS, CLASSES, HEADS = 1024, 8, 1000, 10, 8
#: float32 bytes of one block: 4 matrices of attention and 2 of the feed-forward part.
BLOCK_BYTES = 4 * 12 * WIDTH * WIDTH
SAMPLE_SECONDS = 0.05
#: Between two samples, over the time that one takes.
LEAST_REST = 15.0
ALIGNMENT = 4096

RECIPES: dict[str, list[dict[str, Any]]] = {
    "prune 60 %": [{"prune": {"sparsity": "60%"}}],
    "int8 weights": [{"quantize": {"precision": "Int8", "activations": "None"}}],
    "float16 weights": [{"quantize": {"precision": "Float16"}}],
}
PEERS = {
    "onnxruntime quantize_dynamic": (
        "from onnxruntime.quantization import quantize_dynamic\n"
        "quantize_dynamic(source, target, use_external_data_format=True)"
    ),
    "onnxruntime quant_pre_process": (
        "from onnxruntime.quantization.shape_inference import quant_pre_process\n"
        "quant_pre_process(source, target, skip_symbolic_shape=True, save_as_external_data=True)"
    ),
    "onnx load and save": (
        "import onnx\nonnx.save(onnx.load(source), target, save_as_external_data=True, location='saved.data')"
    ),
}


@dataclass(frozen=True)
class Measured:
    """What a process and its children took.

    Attributes:
        peak: bytes, the sum of their Pss.
        seconds: wall time.
        ending: empty: it did its work; else why not.
    """

    peak: int
    seconds: float
    ending: str


def generate(path: Path, blocks: int, *, seed: int = 0) -> int:
    """Write the stack; bytes of its weights. Never more than one matrix is in memory."""
    rng = np.random.default_rng(seed)
    nodes: list[Any] = []
    tensors: list[Any] = []
    with path.with_name(path.name + ".data").open("wb") as data:

        def weight(name: str, *shape: int) -> str:
            data.write(bytes(-data.tell() % ALIGNMENT))
            tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape, data_location=TensorProto.EXTERNAL)
            values = rng.standard_normal(shape, dtype=np.float32) / np.float32(np.sqrt(shape[0]))
            found = {"location": path.name + ".data", "offset": str(data.tell()), "length": str(values.nbytes)}
            for key, value in found.items():
                tensor.external_data.add(key=key, value=value)
            data.write(values.tobytes())
            tensors.append(tensor)
            return name

        def constant(name: str, values: Any) -> str:
            tensors.append(numpy_helper.from_array(np.asarray(values), name))
            return name

        def node(op: str, inputs: list[str], output: str, **attributes: Any) -> str:
            nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
            return output

        def product(x: str, rows: int, columns: int, output: str) -> str:
            return node("MatMul", [x, weight(f"{output}.weight", rows, columns)], output)

        heads = constant("heads", np.array([0, 0, HEADS, WIDTH // HEADS]))
        joined = constant("joined", np.array([0, 0, WIDTH]))
        scale = constant("scale", np.float32(1 / np.sqrt(WIDTH // HEADS)))
        gain = constant("gain", np.ones(WIDTH, np.float32))
        shift = constant("shift", np.zeros(WIDTH, np.float32))
        x = node("Gather", [weight("embedding", WORDS, WIDTH), "ids"], "embedded")
        for b in range(blocks):
            y = node("LayerNormalization", [x, gain, shift], f"{b}.norm1")
            q, k, v = (
                node(
                    "Transpose",
                    [node("Reshape", [product(y, WIDTH, WIDTH, f"{b}.{part}"), heads], f"{b}.{part}.heads")],
                    f"{b}.{part}.turned",
                    perm=[0, 2, 3, 1] if part == "key" else [0, 2, 1, 3],
                )
                for part in ("query", "key", "value")
            )
            scores = node("Mul", [node("MatMul", [q, k], f"{b}.products"), scale], f"{b}.scores")
            mixed = node("MatMul", [node("Softmax", [scores], f"{b}.shares", axis=-1), v], f"{b}.mixed")
            flat = node("Reshape", [node("Transpose", [mixed], f"{b}.back", perm=[0, 2, 1, 3]), joined], f"{b}.flat")
            x = node("Add", [x, product(flat, WIDTH, WIDTH, f"{b}.out")], f"{b}.attended")
            y = node("LayerNormalization", [x, gain, shift], f"{b}.norm2")
            inner = node("Relu", [product(y, WIDTH, 4 * WIDTH, f"{b}.up")], f"{b}.relu")
            x = node("Add", [x, product(inner, 4 * WIDTH, WIDTH, f"{b}.down")], f"{b}.fed")
        pooled = node("ReduceMean", [x], "pooled", axes=[1], keepdims=0)
        product(pooled, WIDTH, CLASSES, "logits")
        graph = helper.make_graph(
            nodes,
            "stack",
            [helper.make_tensor_value_info("ids", TensorProto.INT64, ["N", LENGTH])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", CLASSES])],
            tensors,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        path.write_bytes(model.SerializeToString(deterministic=True))
        return data.tell()


def measure(
    command: list[str],
    *,
    limit: int,
    log: Path,
    cwd: Path,
    seconds: float = math.inf,
    environment: dict[str, str] | None = None,
) -> Measured:
    """Run it to its end, or until it takes more than `limit` bytes or `seconds`."""
    started, peak, ending = time.monotonic(), 0, ""
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            stdout=out,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            cwd=cwd,
            env=environment,
            start_new_session=True,
        )
        while process.poll() is None:
            looked = time.monotonic()
            peak = max(peak, sum(_sizes(process.pid)))
            looked = time.monotonic() - looked
            if peak > limit:
                os.killpg(process.pid, signal.SIGKILL)
                ending = f"ended at the limit of {limit / 2**30:.1f} GiB"
            elif time.monotonic() - started > seconds:
                os.killpg(process.pid, signal.SIGKILL)
                ending = f"ended after {seconds:.0f} s"
            # Looking must not slow down what is looked at; nor is resting part of its time.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(SAMPLE_SECONDS, LEAST_REST * looked))
    if process.returncode and not ending:
        lines = log.read_text(errors="replace").strip().splitlines()
        ending = lines[-1][:300] if lines else f"exit code {process.returncode}"
    return Measured(peak, time.monotonic() - started, ending)


def _sizes(pid: int) -> Iterator[int]:
    """Proportional set size of a process and each of its children."""
    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.Error:
        return
    for process in family:
        try:
            text = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
        except OSError:
            continue
        yield from (int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss:"))


def run_recipe(
    name: str, model: Path, folder: Path, *, limit: int, keep: bool = False
) -> tuple[Measured, dict[str, Any]]:
    """A Job with these steps, and its result; `keep`: the artifact stays in the folder `layout`."""
    work = folder / "job"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    data = folder / "validation.npz"
    np.savez(data, ids=np.random.default_rng(1).integers(0, WORDS, (8, LENGTH)))
    job = {
        "namespace": "default",
        "name": "stack",
        "revision": "memory",
        "source": {"uri": model.as_uri()},
        "data": {"validation": {"uri": data.as_uri()}},
        "compression": {"steps": RECIPES[name], "budget": {"maxQualityDrop": "100%"}},
        "platforms": ["linux/amd64"],
        "output": f"oci-layout://{folder / 'layout'}",
        "workDir": str(work),
    }
    (folder / "job.json").write_text(json.dumps(job))
    result = folder / "result.json"
    result.unlink(missing_ok=True)
    command = [sys.executable, "-m", "edgemodel_compressor", "--job", str(folder / "job.json"), "--result", str(result)]
    found = measure(command, limit=limit, log=folder / "job.log", cwd=folder)
    shutil.rmtree(work, ignore_errors=True)
    if not keep:
        shutil.rmtree(folder / "layout", ignore_errors=True)
    return found, json.loads(result.read_text()) if result.exists() else {}


def run_peer(name: str, model: Path, folder: Path, *, limit: int) -> Measured:
    """A peer's transformation."""
    out = folder / "peer"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    script = f"source, target = {str(model)!r}, {str(out / 'model.onnx')!r}\n{PEERS[name]}\n"
    found = measure([sys.executable, "-c", script], limit=limit, log=folder / "peer.log", cwd=out)
    shutil.rmtree(out, ignore_errors=True)
    return found


def main() -> int:
    """Print the table; 1: one of ours took more than --bound."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=3.0, help="of float32 weights (10^9 bytes)")
    parser.add_argument("--dir", type=Path, required=True, help="for model and work: six times the model's size")
    parser.add_argument("--limit", type=float, default=8.0, help="GiB at which a process is ended")
    parser.add_argument("--bound", type=float, default=1.5, help="of our peak over the model's size")
    parser.add_argument("--only", default="", help="recipes and peers whose names contain this")
    given = parser.parse_args()
    folder = given.dir.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    model = folder / "model.onnx"
    size = generate(model, max(1, round(given.gigabytes * 1e9 / BLOCK_BYTES))) + model.stat().st_size
    limit = int(given.limit * 2**30)
    print(f"source: {size} bytes, onnx {onnx.__version__}", flush=True)
    print("| what | peak (GB) | peak / source | predicted / source | seconds | ended |", flush=True)
    print("|---|---|---|---|---|---|", flush=True)
    worst, failed = 0.0, False
    for name in (n for n in RECIPES if given.only in n):
        found, result = run_recipe(name, model, folder, limit=limit)
        steps = [Step.model_validate(s) for s in RECIPES[name]]
        _row(f"edgemodel {name}", found, size, f"{predict(sizes_of(model), steps).peak / size:.2f}")
        worst = max(worst, found.peak / size)
        failed |= result.get("outcome") not in ("Succeeded", "Refused")
        print(f"  {result.get('outcome')}: {result.get('message', '') or found.ending}", file=sys.stderr)
    for name in (n for n in PEERS if given.only in n):
        _row(name, run_peer(name, model, folder, limit=limit), size)
    for path in (model, model.with_name(model.name + ".data")):
        path.unlink()
    return int(failed or worst > given.bound)


def _row(name: str, found: Measured, size: int, predicted: str = "") -> None:
    numbers = f"{found.peak / 1e9:.2f} | {found.peak / size:.2f} | {predicted} | {found.seconds:.0f}"
    print(f"| {name} | {numbers} | {found.ending} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())

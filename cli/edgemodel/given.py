"""What Python hands over, models and arrays, as the files that a Job reads."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgemodel_api.errors import InputError
from edgemodel_cli.model_options import name_of

LABELS = "labels"


def as_path(value: Any) -> Path | None:
    """The absolute path that a value is; None: it is none."""
    if isinstance(value, str | os.PathLike):
        return Path(os.fspath(value)).expanduser().absolute()
    return None


def model_file(model: Any, folder: Path, what: str = "model") -> Path:
    """The model as a file: the given one, or a new one in the folder.

    Raises:
        InputError: it is neither a path nor an onnx.ModelProto; or it is too large for one message.
    """
    path = as_path(model)
    if path is not None:
        return path
    import onnx

    if not isinstance(model, onnx.ModelProto):
        raise InputError(
            f"{what} is a {type(model).__module__}.{type(model).__qualname__}: give the path of an ONNX or TFLite file, or an"
            " onnx.ModelProto (torch.onnx.export and skl2onnx.to_onnx make one)"
        )
    if not model.HasField("graph"):
        raise InputError(f"{what} is an empty onnx.ModelProto, without a graph: give one that was loaded or exported")
    name = name_of(Path(f"{model.graph.name.replace('/', '-')}.onnx")) if model.graph.name else what
    dest = folder / f"{name}.onnx"
    try:
        dest.write_bytes(model.SerializeToString(deterministic=True))
    except Exception as error:  # protobuf's own kinds of error, by its implementation
        raise InputError(
            f"{what} cannot be written as one message ({error}): save it with onnx.save_model(…, save_as_external_data=True)"
            " and give its path"
        ) from None
    return dest


def data_file(data: Any, labels: Any, *, what: str, folder: Path, model: Path) -> tuple[Path | None, str | None]:
    """The data as an `.npz` file, and the name of the labels in it.

    Args:
        data: a path, arrays by name, one array, or None.
        labels: the name of an array in the data, or the labels themselves, or None.
        what: validation, calibration or training.
        folder: where arrays are written.
        model: whose input one array is for.

    Raises:
        InputError: what was given is no array of numbers or texts.
    """
    if data is None or as_path(data) is not None:
        if labels is not None and not isinstance(labels, str):
            there = "is a file" if data is not None else "is not given"
            raise InputError(
                f"{what}: the labels are an array, but {what} {there}: give the name of the array in the file"
            )
        return as_path(data), labels
    arrays = dict(data) if isinstance(data, Mapping) else {_only_input(model, what): data}
    if labels is not None and not isinstance(labels, str):
        name = LABELS
        while name in arrays:
            name += "_"
        arrays[name] = labels
        labels = name
    if isinstance(labels, str) and labels not in arrays:
        raise InputError(f"{what}: there are no labels {labels!r} among {', '.join(map(repr, arrays)) or 'no arrays'}")
    dest = folder / f"{what}.npz"
    _write(dest, arrays, what)
    return dest, labels


def _only_input(model: Path, what: str) -> str:
    """The name of a model's only input."""
    hint = f"{what}: give arrays by the names of the model's inputs, such as {what}={{'input': array}}"
    if model.suffix.lower() != ".onnx":
        raise InputError(hint)
    import onnx

    try:
        graph = onnx.load(model, load_external_data=False).graph
    except Exception:  # whatever is wrong with it, the Job says it better
        raise InputError(f"{hint} (the inputs of {model} cannot be read)") from None
    constants = {t.name for t in graph.initializer}
    names = [i.name for i in graph.input if i.name not in constants]
    if len(names) != 1:
        raise InputError(f"{hint}: the model has {len(names)}: {', '.join(names)}")
    return str(names[0])


def _write(dest: Path, arrays: Mapping[Any, Any], what: str) -> None:
    """An npz; the same arrays give the same bytes. numpy.savez would not take an array that is called `file`."""
    import numpy as np

    with zipfile.ZipFile(dest, "w", zipfile.ZIP_STORED) as archive:
        for name, value in sorted(arrays.items(), key=lambda item: str(item[0])):
            if not isinstance(name, str) or not name:
                raise InputError(
                    f"{what}: {name!r} is no name of an input: give arrays by the names of the model's inputs"
                )
            try:
                array = np.asarray(value)
            except Exception as error:  # of the array's own library: on a GPU, sparse, ragged
                raise InputError(f"{what}: {name!r} cannot be made a numpy array: {error}") from None
            if array.dtype.hasobject:
                raise InputError(
                    f"{what}: {name!r} holds Python objects ({type(value).__name__}), no numbers or texts of one type: are its"
                    " rows of equal length?"
                )
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)

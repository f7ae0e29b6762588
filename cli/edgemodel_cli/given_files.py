"""Files that a command line names: what is plainly something else is told at once, with what to do about it."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import BinaryIO

from edgemodel_api.errors import InputError

ZIP_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")
#: What other frameworks write, and how ONNX comes of it.
_EXPORTS = {
    "PyTorch": ((".pt", ".pth", ".ckpt", ".pt2"), "torch.onnx.export(model, example_inputs, 'model.onnx')"),
    "safetensors": ((".safetensors",), "optimum-cli export onnx --model FOLDER OUT, or torch.onnx.export"),
    "Keras": ((".h5", ".hdf5", ".keras"), "model.export('model.onnx', format='onnx'), or python -m tf2onnx.convert"),
    "TensorFlow": ((".pb", ".pbtxt"), "python -m tf2onnx.convert --saved-model FOLDER --output model.onnx"),
    "scikit-learn or Python": ((".pkl", ".pickle", ".joblib"), "skl2onnx.to_onnx(model, X[:1])"),
    "Core ML": ((".mlmodel", ".mlpackage"), "the framework that the model was trained with"),
    "OpenVINO": ((".bin", ".xml"), "the framework that the model was trained with"),
    "Paddle": ((".pdmodel", ".pdiparams"), "paddle2onnx"),
}
MODEL_SUFFIXES = (".onnx", ".tflite")


def check_model(path: Path, shown: Path, option: str) -> None:
    """A model file is there and may be one; whether it is good the Job says.

    Args:
        path: where it is.
        shown: as it was given.
        option: before it in messages; empty for the model itself.

    Raises:
        InputError: it is missing, a folder, or of another framework.
    """
    suffix = shown.suffix.lower()
    for framework, (suffixes, how) in _EXPORTS.items():
        if suffix in suffixes:
            raise InputError(f"{option}{shown} is a {framework} file, and ONNX or TFLite is read: export it with {how}")
    _check_there(path, shown, option, "model", MODEL_SUFFIXES)


def check_data(path: Path, shown: Path, option: str) -> None:
    """An `.npz` is there; what is in it the Job says.

    Raises:
        InputError: it is missing, a folder, or something else.
    """
    _check_there(path, shown, f"{option} ", ".npz", (".npz",))
    with _opened(path, shown, option) as file:
        magic = file.read(4)
    if magic not in ZIP_MAGIC:
        raise InputError(
            f"{option} {shown} is no .npz file: write one with numpy.savez('data.npz', NAME=array, …), an array for each of"
            " the model's inputs, named as it, first axis = samples; labels are one more array"
        )


def _check_there(path: Path, shown: Path, option: str, what: str, suffixes: tuple[str, ...]) -> None:
    try:
        if path.is_dir():
            inside = _listed(path, suffixes)
            raise InputError(
                f"{option}{shown} is a folder: name the {what} file{f' in it: {inside}' if inside else ''}"
            )
        if not path.exists():
            near = _listed(path.parent, suffixes, path.name)
            raise InputError(f"{option}{shown}: there is no such file{f'; beside it: {near}' if near else ''}")
    except (OSError, ValueError) as error:
        raise InputError(f"{option}{str(shown)[:300]!r} is no file name: {error}") from None


def _opened(path: Path, shown: Path, option: str) -> BinaryIO:
    if not path.is_file():
        raise InputError(f"{option} {shown} is no regular file: name a file")
    try:
        return open(path, "rb")
    except OSError as error:
        raise InputError(f"{option} {shown} cannot be read: {error.strerror}; make it readable for you") from None


def _listed(folder: Path, suffixes: tuple[str, ...], like: str = "", limit: int = 5) -> str:
    """Files of the kind in a folder, those first whose names are near."""
    try:
        names = sorted(p.name for p in folder.iterdir() if p.suffix.lower() in suffixes and p.is_file())
    except OSError:
        return ""
    near = difflib.get_close_matches(like, names, n=limit) if like else []
    return ", ".join([*near, *(n for n in names if n not in near)][:limit])

"""TFLite models, by LiteRT (package ai-edge-litert), or by its predecessor tflite-runtime where only that has a wheel.

An interpreter runs one inference at a time, so those that run at once have one each. They are made when they are needed:
XNNPACK lays the weights out anew for each, which a node with one client need not hold twice, and one whose memory is
limited may have no room for: then requests wait for each other.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from edgemodel_api.errors import InputError

from .base import DATATYPES, Array, Arrays, TensorSpec

#: Of a file with several signatures, the one that is served: what converters call the model's own.
SIGNATURE = "serving_default"
#: Interpreters of one model at most: each holds the weights once more.
MAX_COPIES = 4
_DATATYPE_OF = {dtype: name for name, dtype in DATATYPES.items() if name != "BYTES"}


class Library(NamedTuple):
    """A package that has an `Interpreter`: its name in the index, the module, and what metadata call it."""

    package: str
    module: str
    platform: str


#: The first that is installed is used.
LIBRARIES = (
    Library("ai-edge-litert", "ai_edge_litert.interpreter", "litert_tflite"),
    Library("tflite-runtime", "tflite_runtime.interpreter", "tflite_runtime_tflite"),
)


class Pool:
    """Interpreters of one file, made when they are needed: at most `copies`, and no further one where memory is short."""

    def __init__(self, make: Callable[[], Any], first: Any, *, copies: int, room: Callable[[], bool]) -> None:
        """Args:
        make: another one.
        first: the one that is there.
        copies: at most.
        room: whether there is memory for another one.
        """
        self._make, self._idle, self._there, self._room = make, [first], 1, room
        self._copies = max(1, min(copies, MAX_COPIES))
        self._changed = threading.Condition()

    @contextmanager
    def one(self) -> Iterator[Any]:
        """The one that rested last, else a new one, else the next that is free. One that fails is not used again."""
        found = self._take()
        try:
            if found is None:
                found = self._make()
            yield found
        except BaseException:
            with self._changed:
                self._there -= 1
                self._changed.notify()
            raise
        with self._changed:
            self._idle.append(found)
            self._changed.notify()

    def _take(self) -> Any | None:
        with self._changed:
            while not self._idle:
                if self._there == 0 or (self._there < self._copies and self._room()):
                    self._there += 1
                    return None
                self._changed.wait()
            return self._idle.pop()


class TfliteRuntime:
    """One file, and as many interpreters of it as run at once."""

    def __init__(
        self, make: Callable[[], Any], *, platform: str, version: str, copies: int = 1, memory: int | None = None
    ) -> None:
        """Args:
        make: a new interpreter of the file.
        platform: as metadata call the library.
        version: of the library.
        copies: interpreters at most.
        memory: bytes that the process should not grow beyond for more than one; None: no limit.

        Raises:
            InputError: the file has no signature, or a tensor that cannot be served.
        """
        self.platform, self.version = platform, version
        before = resident_bytes()
        first = make()
        key = _signature(first)
        try:
            # Laid out for the smallest batch: a file whose graph cannot be run does not count as loaded.
            first.allocate_tensors()
            runner = first.get_signature_runner(key)
            inputs, outputs = runner.get_input_details(), runner.get_output_details()
            self.inputs = _specs("input", inputs, first.get_input_details())
            self.outputs = _specs("output", outputs, first.get_output_details())
        except (ValueError, RuntimeError, MemoryError) as error:
            raise InputError(f"its graph cannot be prepared: {_words(error)}") from None
        grown = max(0, resident_bytes() - before)
        self._names = [o.name for o in self.outputs]
        self._ranks = {name: len(detail["shape_signature"]) for name, detail in inputs.items()}
        # An interpreter is held by its runner.
        self._pool = Pool(
            lambda: make().get_signature_runner(key),
            runner,
            copies=copies,
            room=lambda: memory is None or resident_bytes() + grown <= memory,
        )

    @classmethod
    def load(cls, path: Path, *, threads: int, copies: int = 1, memory: int | None = None) -> Self:
        """Open the file with the library that is here.

        Raises:
            InputError: there is none, or it cannot read the file.
        """
        library, interpreter = _library()
        said = f"{library.package} {_version(library)}"

        def make() -> Any:
            try:
                return interpreter(model_path=str(path), num_threads=threads)
            except (ValueError, RuntimeError, OSError, TypeError) as error:
                raise InputError(f"{said} cannot load it: {_words(error)}") from None

        return cls(make, platform=library.platform, version=_version(library), copies=copies, memory=memory)

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None) -> Arrays:
        """One inference; inputs are resized to the batch that is given.

        Raises:
            InputError: the model does not accept the feeds.
        """
        given = {spec.name: self._checked(spec, feeds) for spec in self.inputs}
        names = self._names if outputs is None else list(outputs)
        with self._pool.one() as runner:
            try:
                found = runner(**given)
            except (ValueError, RuntimeError, MemoryError) as error:
                raise InputError(f"the model does not accept these inputs: {_words(error)}") from None
        return {name: np.asarray(found[name]) for name in names}

    def _checked(self, spec: TensorSpec, feeds: Mapping[str, Array]) -> Array:
        if spec.name not in feeds:
            raise InputError(f"the model does not accept these inputs: {spec.name!r} is missing")
        array = feeds[spec.name]
        if array.dtype != DATATYPES[spec.datatype]:
            raise InputError(
                f"the model does not accept these inputs: {spec.name!r} is {array.dtype}, not {spec.datatype}"
            )
        # A scalar's spec admits every shape; the kernels' own checks of what they divide by are not to be relied on.
        if array.ndim != self._ranks[spec.name] or not spec.admits(array.shape) or array.size == 0:
            raise InputError(
                f"the model does not accept these inputs: {spec.name!r} has shape {list(array.shape)}, and it takes"
                f" {[-1 if d is None else d for d in spec.shape]} (-1: any from 1 on)"
            )
        return array if array.flags.c_contiguous else np.ascontiguousarray(array)


def _library() -> tuple[Library, Callable[..., Any]]:
    for library in LIBRARIES:
        try:
            return library, import_module(library.module).Interpreter
        except (ImportError, AttributeError):
            continue
    names = " nor ".join(library.package for library in LIBRARIES)
    raise InputError(f"this is a TFLite model, and neither {names} is installed on this node: install one of them")


def _version(library: Library) -> str:
    try:
        return version(library.package)
    except PackageNotFoundError:
        return "of unknown version"


def _signature(interpreter: Any) -> str:
    keys = list(interpreter.get_signature_list())
    if SIGNATURE in keys:
        return SIGNATURE
    if len(keys) == 1:
        return str(keys[0])
    has = f"has {len(keys)} signatures, none of them {SIGNATURE!r}" if keys else "has no signature"
    raise InputError(f"the TFLite model {has}, so its inputs have no names: convert it again")


def _specs(
    what: str, details: Mapping[str, Mapping[str, Any]], graph: Sequence[Mapping[str, Any]]
) -> tuple[TensorSpec, ...]:
    """In the order of the graph: a signature's own is that of the names."""
    order = {int(d["index"]): place for place, d in enumerate(graph)}
    found = sorted(details.items(), key=lambda item: order.get(int(item[1]["index"]), len(order)))
    return tuple(_spec(what, name, detail) for name, detail in found)


def _spec(what: str, name: str, detail: Mapping[str, Any]) -> TensorSpec:
    datatype = _DATATYPE_OF.get(np.dtype(detail["dtype"]))
    if datatype is None:
        raise InputError(
            f"{what} {name!r} is a tensor of {np.dtype(detail['dtype'])}, which cannot be served: convert the model with"
            " tensors of numbers"
        )
    return TensorSpec(name, datatype, tuple(int(d) if d > 0 else None for d in detail["shape_signature"]))


def resident_bytes() -> int:
    """Of this process; 0 where the kernel does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def _words(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__

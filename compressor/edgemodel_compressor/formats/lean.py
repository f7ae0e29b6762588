"""Sessions of large models: as little memory as their answers allow, and one of them at a time in a process.

onnxruntime maps external data (pages of the file, read when they are needed), so what takes memory beside them is what
it makes of the weights when it loads a model: packed copies for its kernels, and the results of constant folding, which
turns stored int8 weights back into float32 (measured: 2.6 times the float32 source at the peak). Both are left out
here: the same numbers come out, more slowly. Whoever wants clocks must take a process that loads as a server does.

Models with integer kernels keep their optimizations: their QDQ nodes only become such kernels by them, and their weights
stay small.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import onnx
import onnxruntime as ort

from . import datafile, kept

#: Nodes that only optimization turns into integer kernels.
_QDQ = frozenset({"QuantizeLinear", "DynamicQuantizeLinear"})


def session_of(model: Any, options: Any) -> Any:
    """A session of a ModelProto. The weights of a large one are mapped from their files, not copied.

    Args:
        model: a ModelProto; its kept tensors lie in one folder.
        options: of the session; changed for a large model.

    Raises:
        Whatever onnxruntime does.
    """
    if not any(True for _ in kept.kept_tensors(model)):
        return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    _frugal(options)
    with datafile.beside(model) as path:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _frugal(options: Any) -> None:
    # The arena keeps the peak of every run; weights are large here, activations are not.
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.disable_prepacking", "1")


@dataclass(frozen=True)
class Place:
    """An input or output. (onnxruntime's own objects keep their whole session alive.)"""

    name: str
    shape: tuple[Any, ...]
    type: str


class LeanSession:
    """The part of `onnxruntime.InferenceSession` that is used here, opened anew when another one was used meanwhile.

    Args:
        path: a model with external data beside it.
        options: of the session; changed.
    """

    _lock: ClassVar[threading.RLock] = threading.RLock()
    _open: ClassVar[tuple[LeanSession, Any] | None] = None

    def __init__(self, path: Path, options: Any) -> None:
        self.path, self._options = path, options
        _frugal(options)
        graph = onnx.load(str(path), load_external_data=False).graph
        if not any(node.op_type in _QDQ for node in graph.node):
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        with self._lock:
            session = self._session()
            self._inputs = tuple(Place(a.name, tuple(a.shape), a.type) for a in session.get_inputs())
            self._outputs = tuple(Place(a.name, tuple(a.shape), a.type) for a in session.get_outputs())

    def get_inputs(self) -> Any:
        """As onnxruntime's."""
        return self._inputs

    def get_outputs(self) -> Any:
        """As onnxruntime's."""
        return self._outputs

    def run(self, names: Sequence[str] | None, feeds: dict[str, Any]) -> Any:
        """As onnxruntime's; one run at a time among all lean sessions."""
        with self._lock:
            return self._session().run(names, feeds)

    def end_profiling(self) -> str:
        """As onnxruntime's: of the session that is open now."""
        with self._lock:
            return str(self._session().end_profiling())

    @classmethod
    def close_all(cls) -> None:
        """Give the memory back; a session that is used again opens again."""
        with cls._lock:
            cls._open = None

    def _session(self) -> Any:
        opened = LeanSession._open
        if opened is not None and opened[0] is self:
            return opened[1]
        # First the other one's memory goes, then this one's comes.
        del opened
        LeanSession._open = None
        session = ort.InferenceSession(str(self.path), self._options, providers=["CPUExecutionProvider"])
        LeanSession._open = (self, session)
        return session

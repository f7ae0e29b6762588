"""An interpreter of ML programs in numpy, for machines without Core ML.

It reads what was saved (the protobuf and weight.bin), not what the converter had in mind, and computes each operation
as MIL's documentation has it. Values take the type and must have the shape that the program declares; 16-bit floats are
rounded after every operation, with sums in single precision within it. That is one of the roundings that Core ML may
choose, so answers in float16 are close to a device's, not equal to them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from edgemodel_api.errors import InputError

from . import mil_constexpr, mil_elementwise, mil_network, mil_tensor
from .mil import IMPLEMENTATIONS, Arguments, Array
from .program import MilProgram, Operation, TensorType

#: For reports: what checked the file.
RAN_WITH = "MIL interpreter of EdgeModel (not run on Core ML)"
_FAMILIES = (mil_constexpr, mil_elementwise, mil_network, mil_tensor)


def supported() -> frozenset[str]:
    """The MIL operations that the interpreter knows."""
    return frozenset(IMPLEMENTATIONS) | {"const"}


def interpreter(program: MilProgram) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
    """A function of the program's inputs; constants are unpacked once.

    Raises:
        InputError: an operation that the interpreter does not know, or a damaged constant.
    """
    unknown = sorted({o.kind for o in program.operations} - supported())
    if unknown:
        raise InputError(f"the MIL interpreter does not know {', '.join(unknown)}")
    fixed: dict[str, Array] = {}
    steps: list[Operation] = []
    for operation in program.operations:
        if operation.kind == "const":
            fixed[operation.outputs[0].name] = operation.attributes["val"]
        elif operation.kind.startswith("constexpr_"):
            _compute(operation, fixed)
        else:
            steps.append(operation)

    def run(feeds: Mapping[str, Array]) -> dict[str, Array]:
        values = dict(fixed)
        for wanted in program.inputs:
            if wanted.name not in feeds:
                raise InputError(f"input {wanted.name!r} is missing", reason="InvalidInput")
            declared = program.features.get(wanted.name, wanted)
            values[wanted.name] = _typed(np.asarray(feeds[wanted.name]).astype(declared.dtype), wanted, "input")
        for operation in steps:
            _compute(operation, values)
        return {name: values[name] for name in program.outputs}

    return run


def decompressed(program: MilProgram) -> dict[str, Array]:
    """All weights as the operations see them: constants and unpacked compressed constants, by name."""
    values: dict[str, Array] = {}
    for operation in program.operations:
        if operation.kind == "const":
            values[operation.outputs[0].name] = operation.attributes["val"]
        elif operation.kind.startswith("constexpr_"):
            _compute(operation, values)
    return values


def _compute(operation: Operation, values: dict[str, Array]) -> None:
    sources: Mapping[str, tuple[str | Array, ...]] = {**operation.attributes_as_inputs(), **operation.inputs}
    label = f"{operation.kind} {operation.outputs[0].name if operation.outputs else ''}"
    try:
        several = {
            name: tuple(_widened(values[b] if isinstance(b, str) else b) for b in bindings)
            for name, bindings in sources.items()
        }
        single = {name: found[0] for name, found in several.items() if len(found) == 1}
        with np.errstate(all="ignore"):
            result = IMPLEMENTATIONS[operation.kind](Arguments(single, several))
            results = result if isinstance(result, tuple) else (result,)
            for declared, value in zip(operation.outputs, results, strict=False):
                values[declared.name] = _typed(value, declared, label)
    except InputError as error:
        raise InputError(f"{label}: {error}", reason=error.reason) from None
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, MemoryError) as error:
        raise InputError(f"{label}: cannot be computed ({error})") from None


def _widened(value: Array) -> Array:
    return value.astype(np.float32) if value.dtype == np.float16 else value


def _typed(value: Array, declared: TensorType, label: str) -> Array:
    shape = np.shape(value)
    if len(shape) != len(declared.shape) or any(
        d is not None and d != s for d, s in zip(declared.shape, shape, strict=True)
    ):
        raise InputError(f"{label}: shape {list(shape)}, but the program declares {list(declared.shape)}")
    return np.asarray(value).astype(declared.dtype)

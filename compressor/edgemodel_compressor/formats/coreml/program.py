"""The ML program of a package as plain Python: what its protobuf says, with constants as arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from edgemodel_api.errors import InputError
from edgemodel_api.quantities import counted

from .blob import WeightFile
from .package import Package

Array = npt.NDArray[Any]

#: `DataType` of MIL.proto.
_DTYPES: Mapping[int, np.dtype[Any]] = MappingProxyType(
    {
        1: np.dtype(np.bool_),
        2: np.dtype(np.str_),
        10: np.dtype(np.float16),
        11: np.dtype(np.float32),
        12: np.dtype(np.float64),
        21: np.dtype(np.int8),
        22: np.dtype(np.int16),
        23: np.dtype(np.int32),
        24: np.dtype(np.int64),
        31: np.dtype(np.uint8),
        32: np.dtype(np.uint16),
        33: np.dtype(np.uint32),
        34: np.dtype(np.uint64),
    }
)
#: `ArrayDataType` of FeatureTypes.proto.
_FEATURE_DTYPES: Mapping[int, np.dtype[Any]] = MappingProxyType(
    {
        65552: np.dtype(np.float16),
        65568: np.dtype(np.float32),
        65600: np.dtype(np.float64),
        131104: np.dtype(np.int32),
    }
)
_WEIGHT_FILE_NAME = "@model_path/weights/weight.bin"
_MAX_ELEMENTS = 2**31


@dataclass(frozen=True)
class TensorType:
    """Name, element type and shape (None: free) of a value."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class Operation:
    """One operation.

    Attributes:
        kind: such as `conv`.
        inputs: by parameter; each a name in the program or a constant, or several of them (`concat`).
        outputs: in order.
        attributes: constants; `const` has its value here under `val`.
    """

    kind: str
    inputs: dict[str, tuple[str | Array, ...]]
    outputs: tuple[TensorType, ...]
    attributes: dict[str, Array] = field(repr=False)

    def attributes_as_inputs(self) -> dict[str, tuple[str | Array, ...]]:
        """Compressed constants have their parameters as attributes."""
        return {name: (value,) for name, value in self.attributes.items() if name != "name"}


@dataclass(frozen=True)
class MilProgram:
    """The function `main`.

    Attributes:
        inputs: as the function takes them.
        outputs: names, in order.
        operations: in order.
        opset: such as `CoreML6`.
        features: the model's declared inputs and outputs, as the caller sees them.
        metadata: userDefined strings.
    """

    inputs: tuple[TensorType, ...]
    outputs: tuple[str, ...]
    operations: tuple[Operation, ...]
    opset: str
    features: dict[str, TensorType]
    metadata: dict[str, str]

    def constants(self) -> dict[str, Array]:
        """Values of all `const`, by name."""
        return {o.outputs[0].name: o.attributes["val"] for o in self.operations if o.kind == "const"}


def decode(package: Package) -> MilProgram:
    """All of a package's program.

    Raises:
        InputError: no ML program with one function `main`, or a damaged one.
    """
    spec = package.spec
    if spec.WhichOneof("Type") != "mlProgram":
        raise InputError(f"a Core ML model of kind {spec.WhichOneof('Type')}, but only mlProgram can be read")
    functions = spec.mlProgram.functions
    if "main" not in functions:
        raise InputError("an ML program without the function main: convert the model again")
    main = functions["main"]
    if main.opset not in main.block_specializations:
        raise InputError(f"an ML program without a block for {main.opset!r}: convert the model again")
    block = main.block_specializations[main.opset]
    described = (*spec.description.input, *spec.description.output)
    program = MilProgram(
        inputs=tuple(_tensor_type(i.name, i.type) for i in main.inputs),
        outputs=tuple(block.outputs),
        operations=tuple(_operation(o, package.weights) for o in block.operations),
        opset=main.opset,
        features={d.name: _feature(d) for d in described},
        metadata=dict(spec.description.metadata.userDefined),
    )
    _check_names(program)
    return program


def _check_names(program: MilProgram) -> None:
    """What is used was made before, and what is given back is made."""
    known = {i.name for i in program.inputs}
    for operation in program.operations:
        for name in (b for bindings in operation.inputs.values() for b in bindings if isinstance(b, str)):
            if name not in known:
                raise InputError(
                    f"operation {operation.kind}: nothing before it makes {name!r}: the package is damaged"
                )
        if operation.kind == "const" and (len(operation.outputs) != 1 or "val" not in operation.attributes):
            raise InputError("a const without its one name or its value: the package is damaged")
        known |= {o.name for o in operation.outputs}
    lost = [name for name in program.outputs if name not in known or name not in program.features]
    if lost:
        raise InputError(f"output {lost[0]!r} is not made or not described: the package is damaged")


def _operation(proto: Any, weights: WeightFile) -> Operation:
    if proto.blocks:
        raise InputError(f"operation {proto.type}: control flow cannot be interpreted")
    inputs = {}
    for name, argument in proto.inputs.items():
        inputs[name] = tuple(
            b.name if b.WhichOneof("binding") == "name" else _value(b.value, weights) for b in argument.arguments
        )
    return Operation(
        kind=proto.type,
        inputs=inputs,
        outputs=tuple(_tensor_type(o.name, o.type) for o in proto.outputs),
        attributes={name: _value(value, weights) for name, value in proto.attributes.items()},
    )


def _tensor_type(name: str, proto: Any) -> TensorType:
    if proto.WhichOneof("type") != "tensorType":
        raise InputError(f"{name}: a value of kind {proto.WhichOneof('type')}, but only tensors can be interpreted")
    tensor = proto.tensorType
    dtype = _DTYPES.get(tensor.dataType)
    if dtype is None:
        raise InputError(f"{name}: element type {tensor.dataType} of MIL cannot be interpreted")
    shape = tuple(int(d.constant.size) if d.WhichOneof("dimension") == "constant" else None for d in tensor.dimensions)
    if np.prod([float(d or 1) for d in shape]) > _MAX_ELEMENTS:
        raise InputError(f"{name}: shape {list(shape)} has more than {_MAX_ELEMENTS} elements")
    return TensorType(name, dtype, shape)


def _feature(description: Any) -> TensorType:
    kind = description.type.WhichOneof("Type")
    if kind != "multiArrayType":
        raise InputError(f"{description.name}: a {kind}, but only multi-arrays can be given to the interpreter")
    array = description.type.multiArrayType
    dtype = _FEATURE_DTYPES.get(array.dataType)
    if dtype is None:
        raise InputError(f"{description.name}: element type {array.dataType} is not known")
    return TensorType(description.name, dtype, tuple(int(d) for d in array.shape))


def _value(proto: Any, weights: WeightFile) -> Array:
    kind = _tensor_type("constant", proto.type)
    shape: Sequence[int] = [d or 0 for d in kind.shape]
    if proto.WhichOneof("value") == "blobFileValue":
        blob = proto.blobFileValue
        if blob.fileName != _WEIGHT_FILE_NAME:
            raise InputError(f"a constant in the file {blob.fileName!r}, but only {_WEIGHT_FILE_NAME} is read")
        return _shaped(weights.read(int(blob.offset)), kind.dtype, shape)
    tensor = proto.immediateValue.tensor
    field_name = tensor.WhichOneof("value")
    if field_name is None:
        return _shaped(np.zeros(0, kind.dtype), kind.dtype, shape)
    values = getattr(tensor, field_name).values
    if field_name == "bytes":
        # Types that protobuf lacks are kept as their little-endian bytes.
        if len(values) % kind.dtype.itemsize:
            raise InputError(
                f"a constant of {counted(len(values), 'byte')}, which is no {kind.dtype}: the package is damaged"
            )
        return _shaped(np.frombuffer(values, kind.dtype.newbyteorder("<")), kind.dtype, shape)
    try:
        return _shaped(np.array(list(values), dtype=kind.dtype), kind.dtype, shape)
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(f"a constant that is no {kind.dtype} ({error}): the package is damaged") from None


def _shaped(values: Array, dtype: np.dtype[Any], shape: Sequence[int]) -> Array:
    if values.size == 1 and not shape:
        return values.astype(dtype).reshape(())
    if values.size != int(np.prod(shape)):
        raise InputError(
            f"a constant of shape {list(shape)} with {counted(values.size, 'value')}: the package is damaged"
        )
    return values.astype(dtype).reshape(shape)

"""Open Inference Protocol v2 over REST: request bytes → feeds, outputs → response bytes, metadata. Pure.

A request with the binary tensor extension is a JSON object of `Inference-Header-Content-Length` bytes followed by the
tensors' bytes in the order of `inputs`; each such input has `parameters.binary_data_size` instead of `data`. An output
is answered so when it has `parameters.binary_data`, or the request `parameters.binary_data_output`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgemodel_agent.runtimes.base import Arrays, Runtime, TensorSpec
from edgemodel_api.errors import InputError

from .tensors import check_shape, from_binary, from_json, to_binary, to_json

HEADER_LENGTH = "Inference-Header-Content-Length"
EXTENSIONS = ("binary_tensor_data",)
JSON_TYPE, BINARY_TYPE = "application/json", "application/octet-stream"


@dataclass(frozen=True)
class Wanted:
    """One output that the client asks for."""

    name: str
    binary: bool


@dataclass(frozen=True)
class InferRequest:
    """A decoded request: arrays that fit the model, and what the answer shall hold."""

    feeds: Arrays
    outputs: tuple[Wanted, ...]
    id: str | None = None


@dataclass(frozen=True)
class Body:
    """A response's bytes; `header_length` is set when binary tensors follow the JSON."""

    content: bytes
    header_length: int | None = None

    @property
    def headers(self) -> dict[str, str]:
        """HTTP headers that belong to it."""
        if self.header_length is None:
            return {"Content-Type": JSON_TYPE}
        return {"Content-Type": BINARY_TYPE, HEADER_LENGTH: str(self.header_length)}


def decode_request(
    body: bytes, header_length: str | None, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> InferRequest:
    """Read an inference request.

    Args:
        body: the HTTP body.
        header_length: value of `Inference-Header-Content-Length`; None: all of it is JSON.
        inputs: the model's.
        outputs: the model's.

    Raises:
        InputError: what is wrong with it, and what to send instead.
    """
    size = _header_size(header_length, len(body))
    message, binary = _object(body[:size]), _Binary(memoryview(body)[size:])
    given = message.get("inputs")
    if not isinstance(given, list):
        raise InputError("the request has no list of inputs: send inputs[{name, shape, datatype, data}]")
    specs = {s.name: s for s in inputs}
    feeds: Arrays = {}
    for tensor in given:
        name, array = _input(tensor, specs, binary)
        if name in feeds:
            raise InputError(f"input {name!r} is given twice")
        feeds[name] = array
    if missing := [n for n in specs if n not in feeds]:
        raise InputError(f"input {missing[0]!r} is missing: the model needs {', '.join(specs)}")
    binary.check_end()
    request_id = message.get("id")
    if request_id is not None and not isinstance(request_id, str):
        raise InputError("id must be a string")
    return InferRequest(feeds, _wanted(message, outputs), request_id)


def _header_size(text: str | None, total: int) -> int:
    if text is None:
        return total
    # int() would take " 5", "5_0" and digits of other scripts too.
    size = int(text) if text.isascii() and text.isdigit() and len(text) < 16 else -1
    if not 0 <= size <= total:
        raise InputError(f"{HEADER_LENGTH} {text[:40]!r} is not a number of bytes within the body of {total} bytes")
    return size


def _object(raw: bytes) -> dict[str, Any]:
    try:
        message = json.loads(raw)
    except (ValueError, RecursionError):
        # ValueError covers bad UTF-8 and numbers of too many digits too.
        raise InputError(
            f"the request's JSON cannot be read; with binary tensors, set {HEADER_LENGTH} to the bytes of its JSON"
        ) from None
    if not isinstance(message, dict):
        raise InputError("the request is not a JSON object")
    return message


class _Binary:
    """The bytes behind the JSON, taken from the front."""

    def __init__(self, rest: memoryview) -> None:
        self._rest = rest

    def take(self, size: Any, what: str) -> memoryview:
        if type(size) is not int or not 0 <= size <= len(self._rest):
            raise InputError(f"{what}: binary_data_size {size!r} is not within the {len(self._rest)} bytes that follow")
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken

    def check_end(self) -> None:
        if len(self._rest):
            raise InputError(f"{len(self._rest)} bytes follow the last binary input: set each binary_data_size")


def _input(tensor: Any, specs: Mapping[str, TensorSpec], binary: _Binary) -> tuple[str, Any]:
    if not isinstance(tensor, dict) or not isinstance(tensor.get("name"), str):
        raise InputError("each input must be an object with a name")
    name = tensor["name"]
    spec, what = specs.get(name), f"input {name[:100]!r}"
    if spec is None:
        raise InputError(f"{what} is not one of the model's: {', '.join(specs)}")
    if tensor.get("datatype") != spec.datatype:
        given = tensor.get("datatype")
        raise InputError(f"{what}: datatype {str(given)[:40]!r}, the model needs {spec.datatype}")
    shape = check_shape(tensor.get("shape"), what)
    if not spec.admits(shape):
        wants = ", ".join("any" if d is None else str(d) for d in spec.shape)
        raise InputError(f"{what}: shape {list(shape)} does not fit the model's [{wants}]")
    parameters = _parameters(tensor, what)
    if "binary_data_size" in parameters:
        if "data" in tensor:
            raise InputError(f"{what} has both data and binary_data_size: send one of them")
        return name, from_binary(binary.take(parameters["binary_data_size"], what), spec.datatype, shape, what)
    if "data" not in tensor:
        raise InputError(f"{what} has no data and no parameters.binary_data_size")
    return name, from_json(tensor["data"], spec.datatype, shape, what)


def _parameters(part: Mapping[str, Any], what: str) -> Mapping[str, Any]:
    parameters = part.get("parameters", {})
    if not isinstance(parameters, dict):
        raise InputError(f"{what}: parameters must be an object")
    return parameters


def _flag(parameters: Mapping[str, Any], name: str, what: str, *, default: bool = False) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise InputError(f"{what}: {name} must be true or false")
    return value


def _wanted(message: Mapping[str, Any], outputs: Sequence[TensorSpec]) -> tuple[Wanted, ...]:
    binary = _flag(_parameters(message, "the request"), "binary_data_output", "the request")
    asked = message.get("outputs")
    if asked is None or asked == []:
        return tuple(Wanted(o.name, binary) for o in outputs)
    if not isinstance(asked, list):
        raise InputError("outputs must be a list of objects with a name")
    names = [o.name for o in outputs]
    found: dict[str, Wanted] = {}
    for one in asked:
        name = one.get("name") if isinstance(one, dict) else None
        if not isinstance(name, str) or name not in names:
            raise InputError(f"output {str(name)[:100]!r} is not one of the model's: {', '.join(names)}")
        if name in found:
            raise InputError(f"output {name!r} is asked for twice")
        parameters = _parameters(one, f"output {name!r}")
        if parameters.get("classification"):
            raise InputError(f"output {name!r}: the classification extension is not supported: ask for the scores")
        found[name] = Wanted(name, _flag(parameters, "binary_data", f"output {name!r}", default=binary))
    return tuple(found.values())


def encode_response(
    model: str, version: str, request: InferRequest, results: Arrays, outputs: Sequence[TensorSpec]
) -> Body:
    """The answer to a request, its outputs in the order in which they were asked for."""
    datatypes = {o.name: o.datatype for o in outputs}
    described: list[dict[str, Any]] = []
    tail: list[bytes] = []
    for wanted in request.outputs:
        array, datatype = results[wanted.name], datatypes[wanted.name]
        entry: dict[str, Any] = {"name": wanted.name, "datatype": datatype, "shape": list(array.shape)}
        if wanted.binary:
            tail.append(to_binary(array, datatype))
            entry["parameters"] = {"binary_data_size": len(tail[-1])}
        else:
            entry["data"] = to_json(array, datatype)
        described.append(entry)
    message: dict[str, Any] = {"model_name": model, "model_version": version}
    if request.id is not None:
        message["id"] = request.id
    head = dump({**message, "outputs": described})
    return Body(head + b"".join(tail), len(head)) if any(w.binary for w in request.outputs) else Body(head)


def error_body(message: str) -> Body:
    """`{"error": "…"}`."""
    return Body(dump({"error": message}))


def dump(value: Any) -> bytes:
    """Compact JSON. Lone surrogates (a client's own id may hold them) stay escaped."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def server_metadata(version: str) -> dict[str, Any]:
    """Answer of `GET /v2`."""
    return {"name": "edgemodel", "version": version, "extensions": list(EXTENSIONS)}


def model_metadata(name: str, version: str, runtime: Runtime) -> dict[str, Any]:
    """Answer of `GET /v2/models/{name}`; −1 is any size."""
    return {
        "name": name,
        "versions": [version],
        "platform": runtime.platform,
        "inputs": [_described(s) for s in runtime.inputs],
        "outputs": [_described(s) for s in runtime.outputs],
    }


def _described(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": [-1 if d is None else d for d in spec.shape]}

"""The nodes of the embedded mode: `--nodes N`, or `--nodes-file F` with a name, labels and more for each."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, field_validator

from edgemodel_agent.faults import Rehearsal
from edgemodel_api.base import ApiModel, ListMap
from edgemodel_api.complaints import nearest
from edgemodel_api.edgemodel import EdgeModelSpec, LabelSelector, LabelValue, ServingMode
from edgemodel_api.errors import InputError
from edgemodel_api.meta import DNS_NAME_PATTERN, DnsName
from edgemodel_api.yaml_text import Document, parse
from edgemodel_api.yaml_text import Path as YamlPath

from .manifest_file import read_text

#: Each node is a process or two.
MAX_NODES = 1000
DEFAULT_NODES = 3
EXAMPLE = "nodes: [{name: gateway-1, labels: {site: north}}]"


class LocalNode(ApiModel):
    """One local node.

    Attributes:
        name: of its EdgeNode.
        labels: what `spec.nodePool.selector` looks at.
        address: IP address that clients use; servers listen there if it is a loopback address, else everywhere.
        rehearse: a fault that this node shall have, to see that a rollout stops.
        threads: of each of its model servers.
    """

    name: DnsName
    labels: dict[str, LabelValue] = Field(default_factory=dict)
    address: str = "127.0.0.1"
    rehearse: Rehearsal | None = None
    threads: Annotated[int, Field(ge=1, le=256)] | None = None

    @field_validator("address")
    @classmethod
    def _is_address(cls, value: str) -> str:
        try:
            return str(ipaddress.ip_address(value))
        except ValueError:
            raise ValueError(f"{value!r} is not an IP address, such as 127.0.0.1") from None


class NodesFile(ApiModel):
    """The whole file."""

    nodes: Annotated[tuple[LocalNode, ...], Field(min_length=1, max_length=MAX_NODES), ListMap(("name",))]


#: Fields by depth of the path of one that is unknown.
_KNOWN = {1: tuple(NodesFile.model_fields), 3: tuple(LocalNode.model_fields)}
_REHEARSAL = tuple(Rehearsal.model_fields)


def load_nodes(content: bytes | str, *, file: str) -> tuple[LocalNode, ...]:
    """Nodes from YAML text.

    Raises:
        InputError: one line for each thing that is wrong: `file:line: field: what, and what to change`.
    """
    documents = parse(content, file=file)
    if len(documents) != 1:
        raise InputError(f"{file}: {len(documents)} YAML documents, but one is needed, such as {EXAMPLE}")
    document = documents[0]
    if not isinstance(document.value, dict):
        raise InputError(f"{file}:{document.line(())}: expected a mapping, such as {EXAMPLE}")
    try:
        return NodesFile.model_validate(document.value, by_name=False).nodes
    except ValidationError as error:
        raise InputError(_message(error, document, file)) from None


def read_nodes(path: Path) -> tuple[LocalNode, ...]:
    """`load_nodes` of a file.

    Raises:
        InputError: as there, or the file cannot be read.
    """
    content, name = read_text(path, "--nodes-file")
    return load_nodes(content, file=name)


def numbered_nodes(count: int, selector: LabelSelector) -> tuple[LocalNode, ...]:
    """`node-1` … `node-N`, with labels that `selector` wants, so that a cluster's manifest runs here as it is.

    Raises:
        InputError: `count` is out of range.
    """
    if not 1 <= count <= MAX_NODES:
        raise InputError(f"--nodes {count} is not between 1 and {MAX_NODES}: each node is a process on this machine")
    labels = labels_for(selector)
    width = len(str(count)) if count >= 100 else 1
    return tuple(LocalNode(name=f"node-{i:0{width}}", labels=labels) for i in range(1, count + 1))


def labels_for(selector: LabelSelector) -> dict[str, str]:
    """Labels that `selector` matches, where there are any: what it names, the first value of each `In`."""
    labels = dict(selector.match_labels)
    for r in selector.match_expressions:
        if r.operator == "In":
            labels.setdefault(r.key, r.values[0])
        elif r.operator == "Exists":
            labels.setdefault(r.key, "")
    return labels


def choose_nodes(count: int | None, file: Path | None, selector: LabelSelector) -> tuple[LocalNode, ...]:
    """The nodes that the command line asks for; three if it does not say.

    Raises:
        InputError: both are given, or one is wrong.
    """
    if file is not None:
        if count is not None:
            raise InputError("--nodes and --nodes-file exclude each other: give one of them")
        return read_nodes(file)
    return numbered_nodes(DEFAULT_NODES if count is None else count, selector)


def check_port(nodes: Sequence[LocalNode], spec: EdgeModelSpec) -> None:
    """A fixed port can be had once for each address of this machine.

    Raises:
        InputError: two nodes of the pool would need the same one.
    """
    if spec.serving.port is None or spec.serving.mode is not ServingMode.SERVER:
        return
    holders: dict[str, str] = {}
    for node in nodes:
        if not spec.node_pool.selector.matches(node.labels):
            continue
        address = node.address if ipaddress.ip_address(node.address).is_loopback else "any"
        other = next((holders[a] for a in holders if address == a or "any" in (address, a)), None)
        if other is not None:
            raise InputError(
                f"spec.serving.port {spec.serving.port}: {other} and {node.name} are both on this machine, and only one"
                " can have it: leave port out, give --nodes 1, or an address of its own to each in --nodes-file"
                " (127.0.0.1, 127.0.0.2, …)"
            )
        holders[address] = node.name


def _message(error: ValidationError, document: Document, file: str) -> str:
    lines: dict[tuple[int, str], str] = {}
    for item in error.errors(include_url=False):
        if item["type"] == "too_short" and item["input"]:
            continue  # pydantic counts only the good items; the bad ones have their own sentence
        path = tuple(item["loc"])
        where = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in path).removeprefix(".")
        prefix = f"{file}:{document.line(path)}: " + (f"{where}: " if where else "")
        lines[(document.line(path), where)] = prefix + _sentence(item, path)
    return "\n".join(text for _, text in sorted(lines.items())[:20])


def _sentence(item: Any, path: YamlPath) -> str:
    given = item.get("input")
    match item["type"]:
        case "extra_forbidden":
            known = _KNOWN.get(len(path), _REHEARSAL)
            match = nearest(str(path[-1]), known)
            return (
                f"unknown field; did you mean {match}?" if match else f"unknown field; allowed here: {', '.join(known)}"
            )
        case "missing":
            return f"required, but missing, such as {EXAMPLE}"
        case "value_error":
            return str(item["ctx"]["error"])
        case "string_pattern_mismatch" if item["ctx"]["pattern"] == DNS_NAME_PATTERN:
            return f"{given!r} is not a name of lower-case letters, digits, '-' and '.', such as gateway-1"
        case "string_type" if isinstance(given, bool | int | float):
            shown = str(given).lower() if isinstance(given, bool) else str(given)
            return f'{shown} is no text: put it in quotes, "{shown}"'
        case "enum":
            return f"{given!r} is not allowed; use one of {item['ctx']['expected']}"
        case _:
            return f"{given!r}: {item['msg'][0].lower()}{item['msg'][1:]}"

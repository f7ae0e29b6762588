"""YAML as the API server understands it, with the line of every field, and nothing that a hostile file can abuse.

Differences from `yaml.safe_load`: one value per key, no timestamps and no base-60 numbers (Kubernetes reads both as
text), aliases bounded after expansion, and plain messages with line numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml.reader import ReaderError

from .errors import InputError

MAX_BYTES = 2**20
MAX_VALUES = 50_000
MAX_DEPTH = 64

Path = tuple[str | int, ...]


@dataclass
class Document:
    """One document: plain data, and the 1-based line of each path in it (for a field, that of its key)."""

    value: Any
    lines: dict[Path, int] = field(default_factory=dict)

    def line(self, path: Path) -> int:
        """The line of `path`, or of the nearest thing around it that the file really has."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


class _Loader(yaml.SafeLoader):
    """Scalars as Kubernetes reads them, and no brackets deeper than any manifest has them."""

    def fetch_flow_collection_start(self, token_class: Any) -> None:
        # Each open bracket might be a key, and is looked at anew with each token: thousands take seconds.
        if self.flow_level > MAX_DEPTH + 2:  # `_Reader` is stricter, and knows the line
            raise RecursionError
        super().fetch_flow_collection_start(token_class)


_TAG = "tag:yaml.org,2002:"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in pairs if tag.removeprefix(_TAG) not in ("timestamp", "int", "float")]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    _TAG + "int",
    re.compile(r"^[-+]?(0b[01_]+|0x[0-9a-fA-F_]+|0[0-7_]+|0|[1-9][0-9_]*)$"),
    list("-+0123456789"),
)
_Loader.add_implicit_resolver(
    _TAG + "float",
    re.compile(r"^[-+]?((\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?|\.(inf|Inf|INF))$|^\.(nan|NaN|NAN)$"),
    list("-+0123456789."),
)
# kubectl's YAML also takes these for true and false (YAML 1.1), which PyYAML does not.
_Loader.bool_values = {**yaml.SafeLoader.bool_values, "y": True, "n": False}
_Loader.add_implicit_resolver(_TAG + "bool", re.compile(r"^[yYnN]$"), list("yYnN"))


class _Dumper(yaml.SafeDumper):
    """Text that would be read as something else is written in quotes."""


_Dumper.add_implicit_resolver(_TAG + "bool", re.compile(r"^[yYnN]$"), list("yYnN"))


def dump(value: Any) -> str:
    """YAML that kubectl reads back as `value`; fields in their order."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def parse(content: bytes | str, *, file: str = "manifest") -> list[Document]:
    """Every document that is not empty.

    Raises:
        InputError: not UTF-8, larger than 1 MiB, not YAML, a key twice, or more values than `MAX_VALUES`; with the
            line where that can be known.
    """
    text = _decoded(content, file)
    documents = []
    try:
        loader = _Loader(text)
        while (node := loader.get_node() if loader.check_node() else None) is not None:
            document = Document(None)
            document.value = _Reader(file, loader, document).read(node, (), depth=0)
            if document.value is not None:
                documents.append(document)
    except yaml.MarkedYAMLError as error:
        raise InputError(_explained(error, text, file)) from None
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise InputError(f"{file}:{line}: the character U+{error.character:04X} is not allowed in YAML") from None
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"{file}: not YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise InputError(f"{file}: nested deeper than {MAX_DEPTH} levels: no manifest needs that") from None
    return documents


def _decoded(content: bytes | str, file: str) -> str:
    size = len(content) if isinstance(content, bytes) else len(content.encode(errors="surrogatepass"))
    if size > MAX_BYTES:
        raise InputError(
            f"{file}: {size} bytes is more than a manifest may have ({MAX_BYTES}): is this the right file?"
        )
    if isinstance(content, str):
        return content
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{file}:{line}: byte {error.start} is not UTF-8: save the manifest as UTF-8 text (is this the right file?)"
        ) from None


def _explained(error: yaml.MarkedYAMLError, text: str, file: str) -> str:
    mark = error.problem_mark or error.context_mark
    if mark is None:
        return f"{file}: not YAML: {error.problem}"
    where = f"{file}:{mark.line + 1}"
    lines = text.splitlines()
    shown = lines[mark.line] if mark.line < len(lines) else ""
    if shown[: mark.column + 1].lstrip(" ").startswith("\t"):
        return f"{where}: a tab cannot indent YAML: use spaces"
    return f"{where}: not YAML: {error.problem or error.context}" + (
        f"; the line is: {shown.strip()[:80]}" if shown.strip() else ""
    )


@dataclass
class _Reader:
    """Nodes → plain data. Aliases are expanded, so what counts is how many values come out."""

    file: str
    loader: _Loader
    document: Document
    count: int = 0

    def read(self, node: yaml.Node, path: Path, *, depth: int) -> Any:
        self._count(node, depth)
        self.document.lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            return {
                key: self._field(key, key_node, value, (*path, key), depth)
                for key, key_node, value in self._items(node, depth)
            }
        if isinstance(node, yaml.SequenceNode):
            return [self.read(item, (*path, i), depth=depth + 1) for i, item in enumerate(node.value)]
        if node.tag.removeprefix(_TAG) not in ("str", "int", "float", "bool", "null"):
            tag = node.tag.replace(_TAG, "!!")
            raise self._error(node, f"the tag {tag} has no meaning in a manifest: leave it out")
        return self.loader.construct_object(node)

    def _field(self, key: str, key_node: yaml.Node, value: yaml.Node, path: Path, depth: int) -> Any:
        self.document.lines[path] = key_node.start_mark.line + 1
        return self.read(value, path, depth=depth + 1)

    def _items(self, node: yaml.MappingNode, depth: int) -> Iterator[tuple[str, yaml.Node, yaml.Node]]:
        """A mapping's own keys, then those of its `<<` that it does not have."""
        own: dict[str, yaml.Node] = {}
        merged: list[yaml.Node] = []
        for key_node, value in node.value:
            if key_node.tag == _TAG + "merge":
                merged += value.value if isinstance(value, yaml.SequenceNode) else [value]
                continue
            key = self._key(key_node)
            if key in own:
                first = own[key].start_mark.line + 1
                raise self._error(key_node, f"{key!r} is given twice (first on line {first}): keep one")
            own[key] = key_node
            yield key, key_node, value
        for source in merged:
            self._count(source, depth)
            if not isinstance(source, yaml.MappingNode):
                raise self._error(source, "<< takes a mapping")
            for key, key_node, value in self._items(source, depth + 1):
                if key not in own:
                    own[key] = key_node
                    yield key, key_node, value

    def _key(self, node: yaml.Node) -> str:
        if isinstance(node, yaml.ScalarNode) and node.tag == _TAG + "str":
            return str(node.value)
        shown = node.value if isinstance(node, yaml.ScalarNode) else "a list or mapping"
        raise self._error(node, f"{shown} is no text and cannot be a key: put it in quotes")

    def _count(self, node: yaml.Node, depth: int) -> None:
        self.count += 1
        if self.count > MAX_VALUES:
            raise self._error(node, f"more than {MAX_VALUES} values with its aliases expanded: no manifest needs that")
        if depth > MAX_DEPTH:
            raise self._error(node, f"nested deeper than {MAX_DEPTH} levels: no manifest needs that")

    def _error(self, node: yaml.Node, message: str) -> InputError:
        return InputError(f"{self.file}:{node.start_mark.line + 1}: {message}")

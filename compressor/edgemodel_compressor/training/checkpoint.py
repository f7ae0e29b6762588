"""Where learning was after its last epoch, so that a Job that was killed goes on from there.

One file, replaced whole after each epoch. It holds a magic, the content key (sha256 over everything that decides the
result), the sha256 of its body, and the body: a JSON header and the arrays' bytes. Types and shapes are not read from
the file: they are those of the state that learning starts with, so a file of another size is refused unread, nothing
is ever unpickled, and reading takes no more memory than the state itself.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgemodel_api.errors import InputError
from edgemodel_oci.files import open_regular, put, replacing, writing

Array = npt.NDArray[Any]

_MAGIC = b"EMCKPT01"
_HEADER = struct.Struct("<8s32s32sQ")
#: The JSON part: a line an epoch, a thousand epochs at most.
MAX_JSON = 4 * 2**20


def content_key(*parts: object) -> str:
    """sha256 (hex) of parts that are text, numbers, None, or tuples and dicts of those."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


@dataclass(frozen=True)
class Checkpoint:
    """One file in the work folder.

    Attributes:
        folder: where it lies.
        key: content key, hex; part of the file's name, too, so that Jobs with other settings do not disturb it.
        what: "distill" or "recover".
    """

    folder: Path
    key: str
    what: str

    @property
    def path(self) -> Path:
        """The file."""
        return self.folder / f"{self.what}-{self.key[:16]}.checkpoint"

    def save(self, header: Mapping[str, Any], arrays: Sequence[Array]) -> None:
        """Replace the file.

        Args:
            header: JSON.
            arrays: in an order that `load` gets as a template.

        Raises:
            InputError: the disk refuses.
        """
        text = json.dumps(header, sort_keys=True).encode()
        digest = hashlib.sha256(text)
        for array in arrays:
            digest.update(np.ascontiguousarray(array).tobytes())
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(self.path) as file:
            put(file, _HEADER.pack(_MAGIC, bytes.fromhex(self.key), digest.digest(), len(text)), self.path)
            put(file, text, self.path)
            for array in arrays:
                put(file, np.ascontiguousarray(array).tobytes(), self.path)

    def load(self, template: Sequence[Array]) -> tuple[dict[str, Any], list[Array]] | str | None:
        """What was saved.

        Args:
            template: arrays of the types and shapes that are expected.

        Returns:
            The header and the arrays; a sentence on why the file is ignored; None: there is none.
        """
        try:
            file = open_regular(self.path)
        except FileNotFoundError:
            return None
        except (OSError, InputError) as error:
            return self._ignored(f"it cannot be read ({error})")
        try:
            with file:
                return self._parse(file, sum(a.nbytes for a in template), template)
        except (OSError, ValueError, struct.error, RecursionError, UnicodeError) as error:
            return self._ignored(str(error))

    def _parse(self, file: Any, size: int, template: Sequence[Array]) -> tuple[dict[str, Any], list[Array]] | str:
        magic, key, digest, text_size = _HEADER.unpack(file.read(_HEADER.size))
        if magic != _MAGIC or key != bytes.fromhex(self.key):
            return self._ignored("it belongs to something else")
        if text_size > MAX_JSON or self.path.stat().st_size != _HEADER.size + text_size + size:
            return self._ignored("its size is wrong")
        text = file.read(text_size)
        found = hashlib.sha256(text)
        arrays = []
        for one in template:
            content = file.read(one.nbytes)
            found.update(content)
            arrays.append(np.frombuffer(content, dtype=one.dtype).reshape(one.shape).copy())
        if found.digest() != digest:
            return self._ignored("its content does not match its digest")
        header = json.loads(text)
        if not isinstance(header, dict):
            return self._ignored("its header is no JSON object")
        return header, arrays

    def _ignored(self, why: str) -> str:
        text = "".join(c if c.isprintable() else "?" for c in re.sub(r"\s+", " ", why))[:200]
        return f"the checkpoint {self.path.name} is ignored and learning begins anew: {text}"


def number(header: Mapping[str, Any], name: str, *, least: float = -math.inf, most: float = math.inf) -> float:
    """A finite number of a header.

    Raises:
        ValueError: missing, no number, or out of range.
    """
    value = header.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name} is missing or no number")
    if not least <= value <= most:
        raise ValueError(f"{name} is {value}, out of range")
    return value

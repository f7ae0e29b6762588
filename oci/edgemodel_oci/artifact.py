"""The artifact: an OCI index per revision with a ModelPack manifest per (platform, variant), and its report.

What lies where is said in `edgemodel_api.artifact`. Sources: OCI image spec 1.1 (index, manifest, referrers), CNCF
ModelPack model-spec (config, layers). Equal variants give equal bytes: no time, no revision, no host in a manifest.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from edgemodel_api.artifact import (
    ANNOTATION_CLASSES,
    ANNOTATION_ENCODING,
    ANNOTATION_FILEPATH,
    ANNOTATION_FORMAT,
    ANNOTATION_GOLDEN,
    ANNOTATION_PLATFORM,
    ANNOTATION_REVISION,
    ANNOTATION_VARIANT,
    GOLDEN_FILE,
    GOLDEN_LAYER,
    INDEX,
    MANIFEST,
    MODEL_ARTIFACT_TYPE,
    MODEL_CONFIG,
    MODEL_FILES,
    WEIGHT_LAYER,
    Golden,
)
from edgemodel_api.edgemodel import Format
from edgemodel_api.errors import InputError

from . import pack
from .descriptor import Descriptor, is_platform
from .files import measure
from .manifests import canonical
from .pack import ANNOTATION_TITLE, PackedFile, pack_file
from .reports import attach_report, read_report
from .repository import Repository
from .source import fetch_model_file
from .variants import Index, Variant, read_index, read_variant

__all__ = [
    "ArtifactWriter",
    "Index",
    "Variant",
    "attach_report",
    "fetch_model_file",
    "packed_size",
    "read_index",
    "read_report",
    "read_variant",
]


class ArtifactWriter:
    """Writes one revision: variants first, then the index. Equal files are packed and stored once.

    Args:
        repo: where to.
        work_dir: for packed files until they are stored; default: the system's temporary folder.
    """

    def __init__(self, repo: Repository, *, work_dir: Path | None = None) -> None:
        self._repo = repo
        self._work_dir = work_dir
        self._scratch: Path | None = None
        self._packed: dict[tuple[str, str], PackedFile] = {}
        self._stored: set[str] = set()
        self._variants: list[Descriptor] = []

    def add_variant(
        self,
        *,
        platform: str,
        name: str,
        model_file: Path,
        golden_file: Path,
        golden: Golden,
        classes: Iterable[str],
        encoding: str,
        source_name: str,
        model_format: Format = Format.ONNX,
    ) -> Descriptor:
        """Store one variant and remember it for the index.

        Args:
            platform: `os/architecture[/variant]`.
            name: unique among the platform's variants.
            model_file: the file; external data that an ONNX file declares (`companion`) must lie beside it.
            golden_file: its golden cases.
            golden: how to judge by them.
            classes: hardware classes that it is meant for.
            encoding: how its weights are stored.
            source_name: the model's name, for people.
            model_format: what `model_file` is.

        Returns:
            The descriptor of its manifest, with platform and annotations.

        Raises:
            InputError: a file cannot be read, the platform is none, or the name is taken.
            TransientError: the repository.
        """
        if not is_platform(platform):
            raise InputError(f"{platform!r} is no platform: write os/architecture[/variant], as linux/arm64")
        if not name:
            raise InputError("the variant has no name: give one")
        if any(v.platform == platform and v.annotations[ANNOTATION_VARIANT] == name for v in self._variants):
            raise InputError(f"the artifact has a variant {name} for {platform} already: name it otherwise")
        packed = self._pack(model_file, model_format)
        self._store_packed(packed)
        annotations = {
            ANNOTATION_VARIANT: name,
            ANNOTATION_PLATFORM: platform,
            ANNOTATION_CLASSES: ",".join(dict.fromkeys(str(c) for c in classes)),
            ANNOTATION_ENCODING: encoding,
            ANNOTATION_FORMAT: "" if model_format is Format.ONNX else model_format.value,
        }
        annotations = {key: value for key, value in annotations.items() if value}
        golden_layer = replace(
            self._repo.put_blob(golden_file, media_type=GOLDEN_LAYER),
            annotations={
                ANNOTATION_FILEPATH: GOLDEN_FILE,
                ANNOTATION_TITLE: GOLDEN_FILE,
                ANNOTATION_GOLDEN: canonical(golden.to_json()).decode(),
            },
        )
        config = {
            "descriptor": {"name": source_name or "model", "title": f"{source_name or 'model'} {name}"},
            "config": {"format": model_format.value.lower(), **({"precision": encoding} if encoding else {})},
            "modelfs": {"type": "layers", "diffIds": [packed.diff_id, golden_layer.digest]},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": MODEL_ARTIFACT_TYPE,
            "config": self._repo.put_blob(canonical(config), media_type=MODEL_CONFIG).to_json(),
            "layers": [packed.descriptor.to_json(), golden_layer.to_json()],
            "annotations": annotations,
        }
        stored = self._repo.put_manifest(canonical(manifest), MANIFEST)
        found = replace(stored, platform=platform, annotations=annotations, artifact_type=MODEL_ARTIFACT_TYPE)
        self._variants.append(found)
        return found

    def stored_size(self, model_file: Path, model_format: Format = Format.ONNX) -> int:
        """Bytes that a node will download for this file: its weight layer. The packed file is kept for `add_variant`.

        Raises:
            InputError: the file cannot be read.
        """
        return self._pack(model_file, model_format).descriptor.size

    def finish(self, *, revision: str, tag: str) -> Descriptor:
        """Store the index of all variants, in the order in which they were added, and tag it.

        Raises:
            InputError: there is no variant.
            TransientError: the repository.
        """
        if not self._variants:
            raise InputError("the artifact has no variant: nothing passed, so there is nothing to store")
        document = {
            "schemaVersion": 2,
            "mediaType": INDEX,
            "artifactType": MODEL_ARTIFACT_TYPE,
            "manifests": [v.to_json() for v in self._variants],
            "annotations": {ANNOTATION_REVISION: revision},
        }
        descriptor = self._repo.put_manifest(canonical(document), INDEX, tag)
        self.close()
        return descriptor

    def close(self) -> None:
        """Remove packed files that were not stored."""
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._scratch = None
        self._packed.clear()

    def _pack(self, model_file: Path, model_format: Format) -> PackedFile:
        digest, _ = measure(model_file)
        name = MODEL_FILES[model_format]
        if (digest, name) not in self._packed:
            packed = pack_file(model_file, self._scratch_file(digest, name), name=name)
            if packed.file_digest != digest:
                raise InputError(f"{model_file} changed while it was packed: let it rest and try again")
            self._packed[digest, name] = packed
        return self._packed[digest, name]

    def _store_packed(self, packed: PackedFile) -> None:
        if packed.descriptor.digest in self._stored:
            return
        path = self._scratch_file(packed.file_digest, packed.descriptor.annotations[ANNOTATION_FILEPATH])
        self._repo.put_blob(path, media_type=WEIGHT_LAYER)
        self._stored.add(packed.descriptor.digest)
        path.unlink(missing_ok=True)

    def _scratch_file(self, digest: str, name: str) -> Path:
        if self._scratch is None:
            try:
                self._scratch = Path(tempfile.mkdtemp(prefix="edgemodel-pack-", dir=self._work_dir))
            except OSError as error:
                raise InputError(
                    f"cannot make a temporary folder ({error.strerror}): set TMPDIR to a writable one with room"
                ) from None
            weakref.finalize(self, shutil.rmtree, self._scratch, ignore_errors=True)
        return self._scratch / f"{digest.partition(':')[2]}-{name}"


def packed_size(model_file: Path, model_format: Format = Format.ONNX) -> int:
    """Bytes of the weight layer that `ArtifactWriter.add_variant` would store for this file.

    Raises:
        InputError: the file cannot be read.
    """
    return pack.packed_size(model_file, name=MODEL_FILES[model_format])

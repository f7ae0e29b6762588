"""serving.mode Files: a verified model laid down under a name that never changes, for applications that load it themselves.

```
<folder>/versions/<hex12>/model.onnx   a hard link into the content store; model.tflite for a TFLite variant
<folder>/versions/<hex12>/<hex>.data   likewise: external data of a large model, under the name by which it knows them
<folder>/versions/<hex12>/variant.json what it is, and the name of its file
<folder>/current -> versions/<hex12>   switched by one rename
```
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from edgemodel_api.artifact import MODEL_FILE, MODEL_FILES
from edgemodel_api.edgenode import ArtifactTarget

from .files import TEMPORARY, sync_folder, write_json

CURRENT = "current"


def _version(target: ArtifactTarget) -> str:
    return target.digest.partition(":")[2][:12]


def lay_down(
    folder: Path, target: ArtifactTarget, model: Path, data: Path | None = None, *, name: str = MODEL_FILE
) -> Path:
    """Make `current` this variant, whose files were verified just now; the path that applications open, of that `name`."""
    version = folder / "versions" / _version(target)
    version.mkdir(parents=True, exist_ok=True)
    if data is not None:
        _link(data, version / data.name)
    _link(model, version / name)
    write_json(
        version / "variant.json",
        {"revision": target.revision, "variant": target.variant, "digest": target.digest, "file": name},
    )
    link = folder / f".{CURRENT}{TEMPORARY}"
    link.unlink(missing_ok=True)
    link.symlink_to(Path("versions") / version.name)
    os.replace(link, folder / CURRENT)
    sync_folder(folder)
    return folder / CURRENT / name


def current_file(folder: Path) -> Path:
    """The path that applications open now; whether anything lies there is another matter."""
    found = (folder / CURRENT / name for name in MODEL_FILES.values())
    return next((path for path in found if path.is_file()), folder / CURRENT / MODEL_FILE)


def _link(file: Path, path: Path) -> None:
    temporary = path.with_name(f".{path.name}{TEMPORARY}")
    temporary.unlink(missing_ok=True)
    try:
        os.link(file, temporary)
    except OSError:  # a file system without hard links
        shutil.copyfile(file, temporary)
    os.replace(temporary, path)


def laid_down(folder: Path, target: ArtifactTarget) -> bool:
    """Whether `current` is this variant."""
    try:
        return os.readlink(folder / CURRENT) == f"versions/{_version(target)}" and current_file(folder).is_file()
    except OSError:
        return False


def tidy(folder: Path, keep: list[ArtifactTarget]) -> None:
    """Remove the versions that are not in `keep`; `current` too, if it led to one of them."""
    names = {_version(t) for t in keep}
    for version in sorted((folder / "versions").glob("*")):
        if version.name not in names:
            shutil.rmtree(version, ignore_errors=True)
    current = folder / CURRENT
    if current.is_symlink() and not current.exists():
        current.unlink()

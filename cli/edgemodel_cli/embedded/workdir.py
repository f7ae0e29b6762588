"""The folder of the embedded mode, and what lies where in it.

```
registry/                                   the OCI image layout that artifacts are pushed to and pulled from
objects/edgemodels/<ns>/<name>/{spec,status}.json
objects/edgenodes/<node>/{meta,spec,status}.json
jobs/<revision>/{job,result,report}.json, log
nodes/<node>/                               what the node's agent stores
agents/<node>.{json,log}                    the node's agent: process and log
timeline.jsonl, report.html
lock, lock.json                             one `run` at a time, and who it is
```
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from pathlib import Path

from edgemodel_api.edgemodel import EdgeModel
from edgemodel_api.errors import EdgeModelError, InputError, TransientError

#: Default workdirs lie in this folder, beside the manifest.
DEFAULT_PARENT = ".edgemodel"
MARKER = "objects"


@dataclass(frozen=True)
class Workdir:
    """Paths below one root, which is absolute."""

    root: Path

    @property
    def registry(self) -> Path:
        """The image layout."""
        return self.root / "registry"

    @property
    def output(self) -> str:
        """The image layout as a reference for Jobs and nodes."""
        return f"oci-layout://{self.registry}"

    @property
    def objects(self) -> Path:
        """What a cluster would hold in its API server."""
        return self.root / "objects"

    @property
    def jobs(self) -> Path:
        """One folder a revision."""
        return self.root / "jobs"

    @property
    def nodes(self) -> Path:
        """One folder a node."""
        return self.root / "nodes"

    @property
    def agents(self) -> Path:
        """Process records and logs of agents."""
        return self.root / "agents"

    @property
    def timeline(self) -> Path:
        """What happened on the nodes, as JSON lines."""
        return self.root / "timeline.jsonl"

    @property
    def html(self) -> Path:
        """The report."""
        return self.root / "report.html"

    def job(self, revision: str) -> Path:
        """The folder of one revision's Job."""
        return self.jobs / revision

    def exists(self) -> bool:
        """Whether `run` worked here before."""
        return (self.root / MARKER).is_dir()

    def make(self) -> None:
        """Make the folders.

        Raises:
            InputError: the folder holds something else, or cannot be written.
        """
        try:
            if self.root.exists() and not self.root.is_dir():
                raise InputError(f"--workdir {self.root} is a file: name a folder")
            if self.root.is_dir() and not self.exists() and any(self.root.iterdir()):
                raise InputError(
                    f"--workdir {self.root} holds files of something else: name an empty or new folder, "
                    "or one that an earlier run made"
                )
            for folder in (self.objects, self.jobs, self.nodes, self.agents):
                folder.mkdir(parents=True, exist_ok=True)
            probe = self.root / ".writable"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise InputError(f"--workdir {self.root} cannot be used: {explained(error)}") from None


def explained(error: OSError) -> str:
    """What the file system said, and what to change."""
    hints = {
        errno.ENOSPC: "free some disk, or name a folder on another one",
        errno.EDQUOT: "free some of your quota, or name a folder on another disk",
        errno.EROFS: "name a folder that can be written with --workdir",
        errno.EACCES: "name a folder that you may write with --workdir",
        errno.ENOTDIR: "a part of the path is a file: name a folder",
    }
    return f"{error.strerror or error}; {hints.get(error.errno or 0, 'name another folder')}"


def disk_error(what: str, error: OSError) -> EdgeModelError:
    """The error to raise for one of the file system: bad input where the user has to change something.

    Args:
        what: the option and its value, such as `--workdir /data`.
        error: of a write.
    """
    message = f"{what} cannot be written: {explained(error)}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR):
        return InputError(message)
    return TransientError(message)


def workdir_for(model: EdgeModel, base_dir: Path, given: Path | None) -> Workdir:
    """`--workdir`, or `.edgemodel/<name>` beside the manifest (`.edgemodel/<namespace>/<name>` outside `default`)."""
    if given is not None:
        return Workdir(given.absolute())
    meta = model.metadata
    where = base_dir / DEFAULT_PARENT
    return Workdir((where if meta.namespace == "default" else where / meta.namespace) / meta.name)


def existing_workdir(given: Path | None, current: Path) -> Workdir:
    """For commands without a manifest: `--workdir`, or the only one below `.edgemodel` in the current folder.

    Raises:
        InputError: there is none, or more than one.
    """
    if given is not None:
        found = Workdir(given.absolute())
        if not found.exists():
            raise InputError(f"--workdir {found.root}: no edgemodel run worked there: check the path")
        return found
    parent = current / DEFAULT_PARENT
    candidates = [Workdir(p.parent) for depth in ("*", "*/*") for p in sorted(parent.glob(f"{depth}/{MARKER}"))]
    if len(candidates) == 1:
        return candidates[0]
    if not candidates:
        raise InputError(f"no workdir in {parent}: name one with --workdir, or the manifest with -f")
    names = ", ".join(str(w.root) for w in candidates)
    raise InputError(f"more than one workdir in {parent}: name one with --workdir: {names}")

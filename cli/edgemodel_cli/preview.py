"""What a rollout would do: nodes per wave, bytes per node, the least time that it takes. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from edgemodel_api.edgemodel import EdgeModel, Rollout
from edgemodel_api.edgenode import EdgeNode
from edgemodel_api.job import JobResult, Outcome
from edgemodel_api.quantities import counted, parse_duration, parse_percent
from edgemodel_operator.domain.waves import wave_members

from .results import pool


@dataclass(frozen=True)
class Download:
    """Bytes that a node has to fetch. `exact` False: at most so many; None: not known before the source is fetched."""

    node: str
    bytes: int | None
    exact: bool


@dataclass(frozen=True)
class WavePreview:
    """One wave's own nodes, and how long it must stay good."""

    nodes: tuple[str, ...]
    soak: timedelta


@dataclass(frozen=True)
class Preview:
    """A rollout that was not begun."""

    revision: str
    built: bool
    platforms: tuple[str, ...]
    waves: tuple[WavePreview, ...]
    downloads: tuple[Download, ...]
    notes: tuple[str, ...]

    @property
    def soak(self) -> timedelta:
        """All soaks: the rollout takes at least so long."""
        return sum((w.soak for w in self.waves), timedelta(0))

    @property
    def total(self) -> int | None:
        """Bytes over all nodes; None if any is unknown."""
        known = [d.bytes for d in self.downloads if d.bytes is not None]
        return sum(known) if len(known) == len(self.downloads) else None

    @property
    def exact(self) -> bool:
        """Whether the bytes are exact."""
        return all(d.exact for d in self.downloads)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        by_name = {d.node: d for d in self.downloads}
        return {
            "revision": self.revision,
            "built": self.built,
            "platforms": list(self.platforms),
            "waves": [
                {
                    "nodes": list(w.nodes),
                    "soakSeconds": w.soak.total_seconds(),
                    "bytes": _sum([by_name[n].bytes for n in w.nodes]),
                }
                for w in self.waves
            ],
            "nodes": [{"name": d.node, "bytes": d.bytes, "exact": d.exact} for d in self.downloads],
            "bytes": self.total,
            "bytesExact": self.exact,
            "minimumSeconds": self.soak.total_seconds(),
            "notes": list(self.notes),
        }


def _sum(values: Sequence[int | None]) -> int | None:
    known = [v for v in values if v is not None]
    return sum(known) if len(known) == len(values) else None


def preview(
    model: EdgeModel,
    nodes: Sequence[EdgeNode],
    *,
    revision: str,
    platforms: tuple[str, ...],
    job: JobResult | None,
    source_bytes: int | None,
    stored: Mapping[str, int],
    here: Mapping[str, Collection[str]] | None = None,
) -> Preview:
    """Look ahead.

    Args:
        model: with the status of the last run, if there was one.
        nodes: all of them, with their hardware.
        revision: that `model` asks for on these nodes.
        platforms: to build for.
        job: the revision's result, if it was built.
        source_bytes: size of the source, if it is known: no variant that is chosen is larger.
        stored: manifest digest → bytes that a node fetches for it (layer and golden cases).
        here: node → manifest digests whose bytes it has already.
    """
    chosen = pool(model, nodes)
    names = [n.metadata.name for n in chosen]
    members = wave_members(model.spec.rollout, names)
    soaks = [parse_duration(w.soak) for w in model.spec.rollout.waves]
    waves = tuple(WavePreview(m, s) for m, s in zip(members, soaks, strict=False))
    built = job is not None and job.outcome is Outcome.SUCCEEDED
    downloads = tuple(
        _download(
            model,
            n,
            revision=revision,
            job=job if built else None,
            source_bytes=source_bytes,
            stored=stored,
            here=(here or {}).get(n.metadata.name, ()),
        )
        for n in chosen
        if any(n.metadata.name in wave.nodes for wave in waves)
    )
    return Preview(revision, built, platforms, waves, downloads, tuple(_notes(model, chosen, downloads, built=built)))


def _download(
    model: EdgeModel,
    node: EdgeNode,
    *,
    revision: str,
    job: JobResult | None,
    source_bytes: int | None,
    stored: Mapping[str, int],
    here: Collection[str],
) -> Download:
    name, hardware = node.metadata.name, node.status.hardware
    if job is None or hardware is None:
        return Download(name, source_bytes, exact=False)
    status = model.status
    for v in status.variants if status.revision == revision else ():
        if v.hardware_class is hardware.hardware_class and v.digest in stored:
            return Download(name, 0 if v.digest in here else stored[v.digest], exact=True)
    # Not yet tried on this kind of hardware: the largest of those that it may come to.
    sizes = [stored.get(v.digest, v.size_bytes) for v in job.variants if v.digest and v.platform == hardware.platform]
    return Download(name, max(sizes, default=source_bytes), exact=False)


def short_of_all(rollout: Rollout) -> str:
    """What is said of waves that do not reach every node; empty: they do."""
    last = rollout.waves[-1].nodes
    if isinstance(last, str) and parse_percent(last) >= 1:
        return ""
    return f'spec.rollout.waves ends at {last}{"" if isinstance(last, str) else " nodes"}: add {{nodes: "100%"}}'


def _notes(model: EdgeModel, nodes: Sequence[EdgeNode], downloads: Sequence[Download], *, built: bool) -> list[str]:
    notes = []
    if not nodes:
        notes.append("spec.nodePool.selector selects none of these nodes: label them, or change the selector")
    if not built and nodes:
        notes.append("not built yet: bytes are at most those of the source; in fact they will be fewer")
    if not all(d.exact for d in downloads):
        notes.append("on top of that, one node of each hardware class fetches the other variants, to try them")
    rollout = model.spec.rollout
    if left := len(nodes) - len(downloads):
        notes.append(
            f"{left} of {counted(len(nodes), 'node')} {'gets' if left == 1 else 'get'} nothing: {short_of_all(rollout)}"
        )
    if rollout.approval == "Manual":
        notes.append("approval is Manual: the waves wait for --approve")
    if rollout.windows:
        notes.append("nodes switch only within spec.rollout.windows: waiting for them comes on top of the soaks")
    return notes

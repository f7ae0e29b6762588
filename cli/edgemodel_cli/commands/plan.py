"""`edgemodel plan`: a dry run."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from edgemodel_agent import hardware
from edgemodel_api.edgenode import EdgeNode, EdgeNodeStatus
from edgemodel_api.errors import EdgeModelError
from edgemodel_api.job import JobResult
from edgemodel_api.meta import ObjectMeta
from edgemodel_api.quantities import format_bytes, format_seconds
from edgemodel_cli.embedded.job_process import JobProcess
from edgemodel_cli.embedded.objects import ObjectStore
from edgemodel_cli.embedded.workdir import workdir_for
from edgemodel_cli.manifest_file import read_manifest
from edgemodel_cli.nodes_file import LocalNode, check_port, choose_nodes
from edgemodel_cli.preview import Preview, preview
from edgemodel_cli.tables import names, output_console
from edgemodel_operator.domain.plan import wanted_revision


def plan(file: Path, count: int | None, nodes_file: Path | None, workdir: Path | None, *, as_json: bool) -> int:
    """Print what a run would do; the exit code. Nothing is written.

    Raises:
        InputError: the manifest or the nodes are wrong.
    """
    manifest = read_manifest(file)
    local = choose_nodes(count, nodes_file, manifest.model.spec.node_pool.selector)
    check_port(local, manifest.model.spec)
    where = workdir_for(manifest.model, manifest.base_dir, workdir)
    store = ObjectStore(where.objects)
    meta = manifest.model.metadata
    before = store.read_model(meta.namespace, meta.name)
    model = manifest.model if before is None else manifest.model.replace(status=before.status)
    nodes = tuple(_as_node(n) for n in local)
    revision, platforms = wanted_revision(model, nodes)
    job = JobProcess(where.job(revision)).result() if revision else None
    source = next((f.size for f in manifest.files if f.field == "spec.source"), None)
    found = preview(
        model,
        nodes,
        revision=revision,
        platforms=platforms,
        job=job,
        source_bytes=source,
        stored=stored_bytes(job),
        here={n.name: _digests_of(where.nodes / n.name) for n in local},
    )
    if as_json:
        print(json.dumps(found.to_json(), indent=2, ensure_ascii=False))
    else:
        show(found, output_console())
    return 0


def _as_node(node: LocalNode) -> EdgeNode:
    """The node as it would report here: with this machine's hardware and runtimes."""
    status = EdgeNodeStatus(hardware=hardware.detect(), runtimes=hardware.installed_runtimes())
    return EdgeNode(metadata=ObjectMeta(name=node.name, labels=node.labels), status=status)


def _digests_of(root: Path) -> frozenset[str]:
    """Variants whose bytes a node has, as its agent's store keeps them (edgemodel_agent.store)."""
    return frozenset(f"sha256:{path.stem}" for path in (root / "variants").glob("*.json"))


def stored_bytes(job: JobResult | None) -> dict[str, int]:
    """Manifest digest → bytes that a node fetches for it, read from the registry; what cannot be read is left out."""
    if job is None or job.reference is None:
        return {}
    from edgemodel_oci import artifact
    from edgemodel_oci.reference import Reference
    from edgemodel_oci.repository import open_repository

    found = {}
    try:
        repository = open_repository(Reference.parse(job.reference))
        for v in job.variants:
            if v.digest is not None:
                variant = artifact.read_variant(repository, v.digest)
                found[v.digest] = variant.weight.size + variant.golden.size
    except (EdgeModelError, OSError):
        return {}
    return found


def show(found: Preview, console: Console) -> None:
    """As text."""
    state = "built before: it will not be built again" if found.built else "will be built"

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    say(f"Revision {found.revision or '(none: no node, no platform)'} {state if found.revision else ''}".rstrip())
    say(f"Platforms {', '.join(found.platforms) or 'none'}")
    by_name = {d.node: d for d in found.downloads}
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("Wave", justify="right")
    table.add_column("Nodes")
    table.add_column("Per node", justify="right")
    table.add_column("Soak", justify="right")
    for number, wave in enumerate(found.waves, start=1):
        largest = [by_name[n] for n in wave.nodes]
        each = {(_bytes(d.bytes, exact=d.exact)) for d in largest}
        table.add_row(str(number), names(wave.nodes), ", ".join(sorted(each)) or "–", _time(wave.soak))
    console.print(table)
    count = len(found.downloads)
    say(f"{count} {'node fetches' if count == 1 else 'nodes fetch'} {_bytes(found.total, exact=found.exact)} in all")
    say(f"At least {_time(found.soak)} of soaking, and the time that compression, downloads and checks take")
    for note in found.notes:
        say(f"note: {note}")


def _bytes(count: int | None, *, exact: bool) -> str:
    if count is None:
        return "unknown"
    return format_bytes(count) if exact else f"≤ {format_bytes(count)}"


def _time(duration: timedelta) -> str:
    return format_seconds(duration.total_seconds()) if duration else "0 s"

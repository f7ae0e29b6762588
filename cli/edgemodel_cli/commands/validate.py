"""`edgemodel validate`: is this manifest one that a run could begin with, and what does it say?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from edgemodel_api.edgemodel import EdgeModel, Format, PruneStep, RemoteFile, Step, Structure
from edgemodel_api.quantities import counted, format_bytes
from edgemodel_cli.embedded.secrets import VOLUMES_VARIABLE, secret_of
from edgemodel_cli.manifest_file import ManifestFile, read_manifest, remote_files
from edgemodel_cli.preview import short_of_all


def validate(file: Path, *, as_json: bool) -> int:
    """Print what was understood; the exit code.

    Raises:
        InputError: something is wrong; one line for each complaint.
    """
    manifest = read_manifest(file)
    if as_json:
        print(json.dumps(to_json(manifest), indent=2, ensure_ascii=False))
    else:
        print("\n".join(understood(manifest)))
    return 0


def to_json(manifest: ManifestFile) -> dict[str, object]:
    """The manifest with its defaults filled in, and the local files with their digests."""
    return {
        "valid": True,
        "namespace": manifest.model.metadata.namespace,
        "name": manifest.model.metadata.name,
        "spec": manifest.model.spec.to_json(),
        "files": [
            {"field": f.field, "path": str(f.path), "sizeBytes": f.size, "sha256": f.sha256} for f in manifest.files
        ],
        "notes": list(notes(manifest.model)),
    }


def understood(manifest: ManifestFile) -> Iterator[str]:
    """The manifest in sentences."""
    model, spec = manifest.model, manifest.model.spec
    yield f"{model.key} is valid."
    local = {f.field: f for f in manifest.files}
    for field, remote in remote_files(model):
        found = local.get(field)
        what = f"{format_bytes(found.size)}, sha256 {found.sha256[:12]}…" if found else "is read when the Job runs"
        yield f"  {field.removeprefix('spec.'):18} {remote.shown} ({what})"
    yield f"  {'quality':18} {_quality(model)}"
    budget = ", ".join(f"{k} {v}" for k, v in spec.compression.budget.to_json().items())
    yield f"  {'budget':18} {budget}"
    yield f"  {'steps':18} {_steps(spec.compression.steps)}, objective {spec.compression.objective}"
    waves = ", then ".join(f"{w.nodes} (soak {w.soak})" for w in spec.rollout.waves)
    yield f"  {'waves':18} {waves}"
    limits = (
        f"at most {spec.rollout.max_unavailable} unavailable, rolled back beyond"
        f" {spec.rollout.max_failures} failure{'' if spec.rollout.max_failures == 1 else 's'}"
    )
    yield f"  {'limits':18} {limits}; approval {spec.rollout.approval}"
    selector = spec.node_pool.selector.to_json()
    chosen = {k: v for k, v in selector.items() if v}
    yield f"  {'nodes':18} {json.dumps(chosen) if chosen else 'all'}"
    port = f" at port {spec.serving.port}" if spec.serving.port else ""
    yield f"  {'serving':18} {spec.serving.mode}{port}"
    yield from (f"note: {text}" for text in notes(model))


def _quality(model: EdgeModel) -> str:
    validation = model.spec.data.validation
    if validation is None:
        return "agreement with the source, on generated inputs (no data.validation)"
    if validation.labels is None:
        return "agreement with the source, on data.validation (it names no labels)"
    return f"{validation.metric} against the labels {validation.labels!r}"


def _steps(steps: tuple[Step, ...] | None) -> str:
    if not steps:  # an empty list asks for nothing, too
        return "searched for within the budget"
    return " then ".join(_step(s) for s in steps)


def _step(step: Step) -> str:
    if step.prune is not None:
        return _prune(step.prune)
    if step.quantize is not None:
        return f"quantize {step.quantize.precision} ({step.quantize.scope}, activations {step.quantize.activations})"
    if step.distill is not None:
        of = ", ".join(f"{k} {v}" for k, v in step.distill.student.to_json().items() if k != "sha256")
        return f"distill {step.distill.method} ({of}; {counted(step.distill.epochs, 'epoch')})"
    return "nothing"


def _prune(step: PruneStep) -> str:
    how = step.pattern or f"{step.sparsity} {'of the channels' if step.structure is Structure.CHANNELS else ''}".strip()
    recover = f"; {counted(step.recover.epochs, 'epoch')} of learning after it" if step.recover is not None else ""
    return f"prune {how} ({step.method}, {step.granularity}{recover})"


def notes(model: EdgeModel) -> Iterator[str]:
    """What a run will refuse, or looks for elsewhere."""
    spec = model.spec
    for index, step in enumerate(spec.compression.steps or ()):
        recovers = step.prune is not None and step.prune.recover is not None
        if (step.distill is not None or recovers) and spec.data.training is None and spec.data.calibration is None:
            what = "prune.recover" if recovers else "distill"
            yield f"spec.compression.steps[{index}].{what} has nothing to learn from: give data.training"
    others = [f for f in spec.formats if f is not Format.ONNX]
    if others:
        yield f"spec.formats: {', '.join(others)} not supported yet: a run will refuse it; leave ONNX"
    if spec.rollout.analysis:
        yield "spec.rollout.analysis needs a Prometheus, and so the operator on a cluster: edgemodel run will refuse it"
    if text := short_of_all(spec.rollout):
        yield f"other nodes than these get nothing: {text}"
    for field, remote in remote_files(model):
        yield from _about_file(field, remote)


def _about_file(field: str, remote: RemoteFile) -> Iterator[str]:
    """Where a run on this machine looks for what a cluster mounts."""
    if remote.uri.startswith("pvc:"):
        yield f"{field}.uri: a claim is mounted in a cluster; edgemodel run looks for it in the folder {VOLUMES_VARIABLE}"
    folder = secret_of(remote)
    if folder is not None:
        missing = "" if folder.is_dir() else ", which is not there yet"
        yield f"{field}.credentialsSecretRef: on this machine its keys are files in {folder}{missing}"
    elif remote.credentials_secret_ref is not None:
        scheme = remote.uri.partition(":")[0]
        yield f"{field}.credentialsSecretRef is not used: {scheme}: needs no credentials"

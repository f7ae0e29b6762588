"""The revision: a digest of everything that affects the artifact, so that the same one is never built twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

from .edgemodel import EdgeModelSpec

REVISION_LENGTH = 12
#: Grows when the compressor writes other bytes for the same spec.
ARTIFACT_EPOCH = 1


def revision_of(spec: EdgeModelSpec, platforms: Iterable[str]) -> str:
    """The name of the artifact that `spec` asks for on these platforms: 12 hex digits.

    Rollout, serving and the node pool do not count: changing them moves nodes, not bytes. Credentials do not
    count either. `file:` URIs are expected to carry a sha256 by now (the caller computes it), so that a changed
    file is another revision.
    """
    material = spec.model_dump(
        mode="json", by_alias=True, exclude_none=True, include={"source", "data", "compression", "formats"}
    )
    material["source"].pop("credentialsSecretRef", None)
    for part in material.get("data", {}).values():
        part.pop("credentialsSecretRef", None)
    # Where a file lies does not change its bytes: with a digest, the digest alone counts.
    students = (s["distill"]["student"] for s in material["compression"].get("steps", ()) if "distill" in s)
    for part in (material["source"], *material.get("data", {}).values(), *students):
        if "sha256" in part:
            part.pop("uri", None)
    material["platforms"] = sorted(set(platforms))
    material["epoch"] = ARTIFACT_EPOCH
    canonical = json.dumps(material, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:REVISION_LENGTH]

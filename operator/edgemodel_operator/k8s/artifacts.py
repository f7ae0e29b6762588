"""`spec.deletionPolicy: Delete`: what a deleted EdgeModel has in registries goes too. Bounded, and told in numbers."""

from __future__ import annotations

from datetime import timedelta

from edgemodel_api import reasons
from edgemodel_api.edgemodel import DeletionPolicy, EdgeModel
from edgemodel_api.errors import EdgeModelError
from edgemodel_api.quantities import counted, format_bytes
from edgemodel_oci.reference import Reference
from edgemodel_oci.remove import remove_all
from edgemodel_operator.domain.actions import Event
from edgemodel_operator.domain.text import shortened

#: For one repository. A registry that does not answer must not hold back a namespace that is being deleted.
WITHIN = timedelta(seconds=30)
#: EdgeModels that are remembered as tidied up, so that a pass that fails afterwards does not tell it twice.
_REMEMBERED = 1000


class Artifacts:
    """Deletes them, once for each EdgeModel. Threads may share it, as one EdgeModel has one pass at a time."""

    def __init__(self, within: timedelta = WITHIN) -> None:
        self.within = within
        self._done: dict[str, None] = {}

    def remove(self, model: EdgeModel, output: str) -> tuple[Event, ...]:
        """What there is to tell; nothing if all stays, or was deleted before. Never fails: what could not be is told."""
        uid = model.metadata.uid
        if model.spec.deletion_policy is not DeletionPolicy.DELETE or uid in self._done:
            return ()
        told = tuple(self._removed(where, known) for where, known in sorted(repositories(model, output).items()))
        self._done[uid] = None
        if len(self._done) > _REMEMBERED:
            del self._done[next(iter(self._done))]
        return told

    def _removed(self, where: str, known: frozenset[str]) -> Event:
        try:
            found = remove_all(Reference.parse(where), known, within=self.within)
        except EdgeModelError as error:
            text = f"artifacts may be left in {where}: {error.message}; remove them by hand, nobody tries again"
            return Event("Warning", reasons.ARTIFACTS_LEFT, shortened(text))
        return Event(
            "Normal",
            reasons.ARTIFACTS_DELETED,
            f"{counted(found.tags, 'revision')} deleted from {where} ({counted(found.manifests, 'manifest')} with layers of"
            f" {format_bytes(found.blob_bytes)}): the registry frees the space when it next collects its garbage",
        )


def repositories(model: EdgeModel, output: str) -> dict[str, frozenset[str]]:
    """Where the EdgeModel has artifacts, and the digests that its status knows there.

    More than the one repository, if the operator's output was another one in earlier days.
    """
    status = model.status
    found: dict[str, set[str]] = {output: set()}
    kept = [(status.artifact, status.candidates), *((h.artifact, h.candidates) for h in status.history)]
    for artifact, candidates in kept:
        if artifact is not None:
            found.setdefault(artifact.reference, set()).update({artifact.digest, *(c.digest for c in candidates)})
    return {where: frozenset(d for d in digests if d) for where, digests in found.items()}

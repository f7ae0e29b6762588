"""Actions → the node's new spec. Pure; adapters compare it with the old one and write only what changed."""

from __future__ import annotations

from collections.abc import Iterable

from edgemodel_api.edgenode import AssignedModel, AssignedTrial, EdgeNodeSpec

from .actions import Action, Assign, AssignTrial, Unassign, UnassignTrial


def apply_to_spec(spec: EdgeNodeSpec, actions: Iterable[Action]) -> EdgeNodeSpec:
    """The spec after this node's actions, in their order; entries are sorted by key.

    Actions of other kinds (StartJob) are left to the adapter. Applying the same actions again changes nothing.
    """
    models: dict[str, AssignedModel] = {m.key: m for m in spec.models}
    trials: dict[str, AssignedTrial] = {t.key: t for t in spec.trials}
    for action in actions:
        match action:
            case Assign(_, model):
                models[model.key] = model
            case Unassign(_, namespace, name):
                models.pop(f"{namespace}/{name}", None)
            case AssignTrial(_, trial):
                trials[trial.key] = trial
            case UnassignTrial(_, namespace, name):
                trials.pop(f"{namespace}/{name}", None)
            case _:
                pass
    return EdgeNodeSpec(
        models=tuple(models[key] for key in sorted(models)), trials=tuple(trials[key] for key in sorted(trials))
    )

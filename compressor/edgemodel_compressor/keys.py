"""What a recipe is, as text: equal recipes, equal text. Pure."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from .recipe import Action, Distill, Mixture, Quantize, Recipe


def recipe_key(recipe: Recipe) -> list[Any]:
    """JSON that says everything that is done. (A student's file is part of the cache's context.)"""
    return [_action(a) for a in recipe.actions]


def _action(action: Action) -> Any:
    if isinstance(action, Quantize):
        return ["quantize", action.step.to_json(), asdict(action.encoding), action.count]
    if isinstance(action, Mixture):
        return ["mixture", [_action(q) for q in action.ladder], action.moves]
    if isinstance(action, Distill):
        return ["distill", action.step.to_json(), action.index]
    return ["prune", action.to_json()]

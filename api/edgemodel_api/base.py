"""The base of all API types: camelCase names, unknown fields refused, and rules that hold in Python and in CEL."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, model_validator
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema


class Rule(NamedTuple):
    """One cross-field rule, said twice so that the API server and the command line refuse the same manifests.

    `cel` goes into the CRD as an `x-kubernetes-validations` rule; `holds` is the same test in Python.
    A table test runs both over the same manifests.
    """

    cel: str
    message: str
    holds: Callable[[Any], bool]


@dataclass(frozen=True)
class ListMap:
    """Annotation of a list whose items are told apart by `keys` (attribute names); without keys, by the item itself.

    The CRD carries it as `x-kubernetes-list-type`, and duplicates are refused here as the API server refuses them.
    """

    keys: tuple[str, ...] = ()

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._unique, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        found = handler(schema)
        if not self.keys:
            return {**found, "x-kubernetes-list-type": "set"}
        return {
            **found,
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": [to_camel(k) for k in self.keys],
        }

    def _unique(self, items: tuple[Any, ...]) -> tuple[Any, ...]:
        seen = set()
        for item in items:
            key = tuple(str(getattr(item, k)) for k in self.keys) or (str(item),)
            if key in seen:
                what = f" with {' and '.join(to_camel(k) for k in self.keys)}" if self.keys else ""
                raise ValueError(f"more than one item{what} {' and '.join(map(repr, key))}: keep one")
            seen.add(key)
        return items


class ApiModel(BaseModel):
    """Immutable, strict about unknown fields, written as camelCase JSON."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        use_enum_values=False,
        ser_json_inf_nan="null",
    )
    rules: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="after")
    def _rules_hold(self) -> Self:
        for rule in type(self).rules:
            if not rule.holds(self):
                raise ValueError(rule.message)
        return self

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types, camelCase, without fields that are None."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)

    def replace(self, **changes: Any) -> Self:
        """A copy with `changes` applied and validated again."""
        return type(self).model_validate({**vars(self), **changes})


class StatusModel(ApiModel):
    """Status and contract types: unknown fields are ignored, so that an older reader survives a newer writer."""

    model_config = ConfigDict(extra="ignore")

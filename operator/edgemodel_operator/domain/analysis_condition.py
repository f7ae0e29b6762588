"""`successCondition`: a small part of CEL over the numbers of a query's result. Parsed here, never evaluated as code.

Numbers, `true`, `false`, `value` (the only series' number), `values` (all), `values[0]`, `size(values)`,
`values.all(v, …)`, `values.exists(v, …)`; `+ - * /`, `< <= > >= == !=`, `&& || !` and parentheses. It means what it
means in CEL (a test asks both), with one ease: all numbers are doubles, so that `value * 100 < 5` needs no `100.0`.
CEL's own library is three times the size of the operator, and every role would carry it.
"""

from __future__ import annotations

import math
import operator as op
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

Kind = Literal["number", "true or false", "list"]
Scope = Mapping[str, Any]
#: Parentheses, operators and macros within each other.
DEPTH = 32

_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?)|(?P<name>[A-Za-z_][A-Za-z0-9_]*)"
    r"|(?P<sign>&&|\|\||<=|>=|==|!=|[-+*/<>!().,\[\]]))"
)
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "<": op.lt, "<=": op.le, ">": op.gt, ">=": op.ge, "==": op.eq, "!=": op.ne,
}  # fmt: skip


class ConditionError(ValueError):
    """The text is no condition; `column` counts from 1."""

    def __init__(self, column: int, message: str) -> None:
        super().__init__(f"column {column}: {message}")
        self.column = column


class UndefinedError(ArithmeticError):
    """It has no answer for these numbers: 0/0, or an index beyond the last series."""


@dataclass(frozen=True)
class Condition:
    """A condition that can be asked. `uses_value`: it speaks of the one number of a result that has one."""

    text: str
    uses_value: bool
    _test: Callable[[Scope], Any]

    def holds(self, values: tuple[float, ...]) -> bool:
        """For the numbers of a result; with `uses_value`, there is exactly one.

        Raises:
            UndefinedError: it has no answer.
        """
        return bool(self._test({"values": values, "value": values[0] if values else math.nan}))


def parse(text: str) -> Condition:
    """From a manifest.

    >>> parse("value < 0.01").holds((0.002,))
    True
    >>> parse("values.all(v, v >= 1) && size(values) > 2").holds((1.0, 2.0))
    False

    Raises:
        ConditionError: with the place and what would do.
    """
    return _Parser(text).condition()


class _Token(NamedTuple):
    column: int
    kind: str
    text: str


class _Term(NamedTuple):
    column: int
    kind: Kind
    of: Callable[[Scope], Any]


def _tokens(text: str) -> list[_Token]:
    found: list[_Token] = []
    at = 0
    while text[at:].strip():
        match = _TOKEN.match(text, at)
        if match is None:
            at += len(text[at:]) - len(text[at:].lstrip())
            raise ConditionError(at + 1, f"{text[at]!r} is not understood{_advice(text[at:])}")
        kind = match.lastgroup or ""
        found.append(_Token(match.start(kind) + 1, kind, match[kind]))
        at = match.end()
    return [*found, _Token(len(text) + 1, "end", "")]


def _advice(rest: str) -> str:
    return {"=": "; write == to compare", "&": "; write &&", "|": "; write ||", "%": "; write 5% as 0.05"}.get(
        rest[0], ""
    )


class _Parser:
    """Recursive descent; each method is one level of CEL's grammar."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = _tokens(text)
        self.depth = 0
        self.names: dict[str, Kind] = {"value": "number", "values": "list"}
        self.uses_value = False

    def condition(self) -> Condition:
        term = self.any_of()
        if self.next.kind != "end":
            advice = {"and": "; write &&", "or": "; write ||", "not": "; write !"}.get(self.next.text, "")
            self.refuse(f"{self.next.text!r} is not expected here{advice}")
        self.need(term, "true or false", "a condition says true or false, such as value < 0.01")
        return Condition(self.text, self.uses_value, term.of)

    # --- tokens

    @property
    def next(self) -> _Token:
        return self.tokens[0]

    def take(self, *texts: str) -> _Token | None:
        return self.tokens.pop(0) if self.next.kind != "end" and self.next.text in texts else None

    def must(self, text: str) -> None:
        if self.take(text) is None:
            self.refuse(f"{text!r} is missing here")

    def refuse(self, message: str) -> None:
        raise ConditionError(self.next.column, message)

    def need(self, term: _Term, kind: Kind, why: str) -> None:
        if term.kind != kind:
            raise ConditionError(term.column, f"this is {_article(term.kind)}, but {why}")

    # --- levels, from the loosest to the tightest

    def any_of(self) -> _Term:
        self.depth += 1
        if self.depth > DEPTH:
            self.refuse(f"more than {DEPTH} parentheses or signs within each other")
        left = self.all_of()
        while self.take("||"):
            left = self.joined(left, self.all_of(), "||")
        self.depth -= 1
        return left

    def all_of(self) -> _Term:
        left = self.relation()
        while self.take("&&"):
            left = self.joined(left, self.relation(), "&&")
        return left

    def joined(self, left: _Term, right: _Term, sign: str) -> _Term:
        for side in (left, right):
            self.need(side, "true or false", f"{sign} takes two comparisons")
        a, b = left.of, right.of
        both = sign == "&&"

        def test(scope: Scope) -> bool:
            # As in CEL: what one side decides is decided, whether or not the other has an answer.
            try:
                first = bool(a(scope))
            except UndefinedError:
                if bool(b(scope)) is both:
                    raise
                return not both
            return bool(b(scope)) if first is both else first

        return _Term(left.column, "true or false", test)

    def relation(self) -> _Term:
        left = self.sum()
        sign = self.take(*_COMPARE)
        if sign is None:
            return left
        right = self.sum()
        if self.next.text in _COMPARE:
            self.refuse("one comparison only: join two by &&, such as 0.1 < value && value < 0.5")
        kind: Kind = left.kind if sign.text in ("==", "!=") and left.kind != "list" else "number"
        for side in (left, right):
            self.need(
                side, kind, f"{sign.text} compares numbers here" if kind == "number" else f"the other side is {kind}"
            )
        test, a, b = _COMPARE[sign.text], left.of, right.of
        return _Term(left.column, "true or false", lambda scope: test(a(scope), b(scope)))

    def sum(self) -> _Term:
        left = self.product()
        while sign := self.take("+", "-"):
            left = self.calculated(left, sign.text, self.product())
        return left

    def product(self) -> _Term:
        left = self.signed()
        while sign := self.take("*", "/"):
            left = self.calculated(left, sign.text, self.signed())
        return left

    def calculated(self, left: _Term, sign: str, right: _Term) -> _Term:
        for side in (left, right):
            self.need(side, "number", f"{sign} takes numbers")
        a, b = left.of, right.of
        return _Term(left.column, "number", lambda scope: _calculate(a(scope), sign, b(scope)))

    def signed(self) -> _Term:
        sign = self.take("-", "!")
        if sign is None:
            return self.primary()
        self.depth += 1
        if self.depth > DEPTH:
            self.refuse(f"more than {DEPTH} parentheses or signs within each other")
        term = self.signed()
        self.depth -= 1
        of = term.of
        if sign.text == "-":
            self.need(term, "number", "- takes a number")
            return _Term(sign.column, "number", lambda scope: -of(scope))
        self.need(term, "true or false", "! takes a comparison in parentheses, such as !(value > 1)")
        return _Term(sign.column, "true or false", lambda scope: not of(scope))

    def primary(self) -> _Term:
        token = self.next
        if self.take("("):
            term = self.any_of()
            self.must(")")
            return term._replace(column=token.column)
        if token.kind == "number":
            self.tokens.pop(0)
            number = float(token.text)
            return _Term(token.column, "number", lambda _: number)
        if token.kind != "name":
            self.refuse(f"{token.text!r} is not expected here" if token.text else "something is missing at the end")
        self.tokens.pop(0)
        if token.text in ("true", "false"):
            answer = token.text == "true"
            return _Term(token.column, "true or false", lambda _: answer)
        if token.text == "size":
            self.must("(")
            self.must("values")
            self.must(")")
            return _Term(token.column, "number", lambda scope: float(len(scope["values"])))
        return self.named(token)

    def named(self, token: _Token) -> _Term:
        kind = self.names.get(token.text)
        if kind is None:
            raise ConditionError(
                token.column, f"{token.text!r} is not known here; there are value, values and size(values)"
            )
        self.uses_value = self.uses_value or token.text == "value"
        if kind == "list" and self.take("["):
            return self.indexed(token)
        if kind == "list" and self.take("."):
            return self.macro(token)
        name = token.text
        return _Term(token.column, kind, lambda scope: scope[name])

    def indexed(self, token: _Token) -> _Term:
        if not self.next.text.isdigit():
            self.refuse("write a whole number, such as values[0]")
        index = int(self.tokens.pop(0).text)
        self.must("]")

        def at(scope: Scope) -> float:
            values: tuple[float, ...] = scope["values"]
            if index >= len(values):
                raise UndefinedError(f"there is no values[{index}]: the result has {len(values)} series")
            return values[index]

        return _Term(token.column, "number", at)

    def macro(self, token: _Token) -> _Term:
        which = self.take("all", "exists")
        if which is None:
            self.refuse("after values. only all(v, …) and exists(v, …) can stand")
        every = which is not None and which.text == "all"
        self.must("(")
        name = self.next.text
        if self.next.kind != "name" or name in (*self.names, "size", "true", "false"):
            self.refuse("write a new name for each number, such as values.all(v, v < 1)")
        self.tokens.pop(0)
        self.must(",")
        self.names[name] = "number"
        inner = self.any_of()
        del self.names[name]
        self.must(")")
        self.need(inner, "true or false", "all and exists take a comparison, such as values.all(v, v < 1)")
        test = inner.of

        def over(scope: Scope) -> bool:
            undefined: UndefinedError | None = None
            for value in scope["values"]:
                try:
                    if bool(test({**scope, name: value})) is not every:
                        return not every
                except UndefinedError as error:
                    undefined = error
            if undefined is not None:
                raise undefined
            return every

        return _Term(token.column, "true or false", over)


def _article(kind: Kind) -> str:
    return {"number": "a number", "list": "a list of numbers"}.get(kind, kind)


def _calculate(a: float, sign: str, b: float) -> float:
    """IEEE 754, as CEL's doubles; what is not a number has no answer."""
    if sign == "/" and b == 0:
        found = math.nan if a == 0 or math.isnan(a) else math.copysign(math.inf, a) * math.copysign(1, b)
    else:
        found = {"+": op.add, "-": op.sub, "*": op.mul, "/": op.truediv}[sign](a, b)
    if math.isnan(found):
        raise UndefinedError(f"{a:g} {sign} {b:g} is not a number")
    return float(found)

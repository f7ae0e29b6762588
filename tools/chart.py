#!/usr/bin/env python3
"""Keep charts/edgemodel in step with the rest.

    tools/chart.py           copy crds/ into the chart, and write the table of values in its README.md
    tools/chart.py --check   change nothing; exit 1 if one of them differs

Helm cannot read files outside of a chart's folder, and does not upgrade what lies in its own crds/: so the chart has a
copy, as a template. A value's line in the table is the comment above it in values.yaml.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
CHART = ROOT / "charts" / "edgemodel"
BEGIN, END = "<!-- values:begin (tools/chart.py) -->", "<!-- values:end -->"


class ChartError(Exception):
    """What is wrong with the chart's files, in one line."""


def described(text: str) -> Iterator[tuple[str, str, Any]]:
    """`(path, description, default)` of each value that has a comment above it, in the file's order.

    Raises:
        ChartError: a value has no comment, or one that nothing follows.
    """
    node = yaml.compose(text)
    lines = text.splitlines()

    def walk(mapping: yaml.MappingNode, path: str) -> Iterator[tuple[str, str, Any]]:
        for key, value in mapping.value:
            name = f"{path}.{key.value}" if path else key.value
            above = lines[key.start_mark.line - 1].strip() if key.start_mark.line else ""
            if above.startswith("# "):
                yield name, above.removeprefix("# "), yaml.safe_load(yaml.serialize(value))
            elif isinstance(value, yaml.MappingNode) and value.value:
                yield from walk(value, name)
            else:
                raise ChartError(f"values.yaml: {name} (line {key.start_mark.line + 1}) has no comment above it")

    if not isinstance(node, yaml.MappingNode):
        raise ChartError("values.yaml is no mapping")
    yield from walk(node, "")


def table(text: str) -> str:
    """values.yaml as a table."""
    rows = ["| value | default | what |", "|---|---|---|"]
    for name, what, default in described(text):
        shown = json.dumps(default, ensure_ascii=False) if default not in ("", None) else ""
        code = f"`{shown}`" if shown else ""
        rows.append(f"| `{name}` | {code} | {what.replace('|', chr(92) + '|')} |")
    return "\n".join(rows)


def wanted(chart: Path = CHART, crds: Path = ROOT / "crds") -> dict[Path, str]:
    """Each file as it shall be.

    Raises:
        ChartError: as `described`; or README.md has no place for the table.
    """
    found = {chart / "files" / "crds" / path.name: path.read_text() for path in sorted(crds.glob("*.yaml"))}
    readme = (chart / "README.md").read_text()
    head, begin, rest = readme.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ChartError(f"README.md has no lines {BEGIN!r} and {END!r}")
    found[chart / "README.md"] = f"{head}{BEGIN}\n{table((chart / 'values.yaml').read_text())}\n{END}{tail}"
    return found


def main() -> int:
    """Exit code."""
    parser = argparse.ArgumentParser(description="Keep charts/edgemodel in step with the rest.")
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if something differs")
    options = parser.parse_args()
    try:
        files = wanted()
    except ChartError as error:
        print(f"charts/edgemodel: {error}", file=sys.stderr)
        return 1
    different = [p for p, text in files.items() if not p.is_file() or p.read_text() != text]
    strangers = [p for p in sorted((CHART / "files" / "crds").glob("*")) if p not in files]
    if options.check:
        names = ", ".join(str(p.relative_to(ROOT)) for p in [*different, *strangers])
        if names:
            print(f"{names}: not in step with crds/ and values.yaml; run `make manifests`", file=sys.stderr)
        return 1 if names else 0
    for path in different:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(files[path])
    for path in strangers:
        path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())

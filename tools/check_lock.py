"""Fail when requirements.lock does not satisfy pyproject.toml: run by `make verify`, mended by `make lock`."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    """0 when every requirement has a pinned version that fits, else 1 with one line for each that has none."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [*project["project"]["dependencies"]]
    for group in project["project"]["optional-dependencies"].values():
        wanted += group
    for group in project["dependency-groups"].values():
        wanted += group
    pins: dict[str, list[str]] = {}
    for match in re.finditer(r"(?m)^([a-z0-9._-]+)==([^\s;\\]+)", (ROOT / "requirements.lock").read_text()):
        pins.setdefault(match[1], []).append(match[2])
    problems = []
    for text in wanted:
        requirement = Requirement(text)
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if name == project["project"]["name"]:
            continue
        versions = pins.get(name, [])
        if not any(requirement.specifier.contains(v, prereleases=True) for v in versions):
            problems.append(f"{text}: the lock has {', '.join(versions) or 'no version'}; run `make lock`")
    print("\n".join(problems) or f"requirements.lock satisfies all {len(wanted)} requirements")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

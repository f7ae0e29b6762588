"""What Prometheus' own tool says of names, rules and queries."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from .test_docs import ROOT, expressions

RULES = ROOT / "charts/edgemodel/rules/edgemodel.rules.yaml"


def said(command: list[str | Path], content: bytes = b"") -> str:
    done = subprocess.run(command, input=content, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    assert done.returncode == 0, done.stdout.decode()
    return done.stdout.decode()


@pytest.mark.parametrize("program", ["operator", "agent", "server"])
def test_names(promtool, texts, program):
    assert said([promtool, "check", "metrics"], texts[program]) == ""


def test_rules_are_good(promtool):
    assert "SUCCESS" in said([promtool, "check", "rules", "--lint=all", "--lint-fatal", RULES])


def test_alerts_fire_and_do_not_fire(promtool, tmp_path):
    for path in (RULES, Path(__file__).parent / "rules_test.yaml"):
        shutil.copy(path, tmp_path)
    assert "SUCCESS" in said([promtool, "test", "rules", tmp_path / "rules_test.yaml"])


def test_every_query_can_be_parsed(promtool, tmp_path):
    """In documentation, rules and dashboard, with Grafana's variables filled in."""
    texts = [e.replace("$__rate_interval", "5m").replace("$namespace", "n").replace("$name", "m")
             for e in expressions().values()]  # fmt: skip
    rules = [{"record": f"query_{i}", "expr": e} for i, e in enumerate(texts)]
    path = tmp_path / "queries.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    assert f"SUCCESS: {len(rules)} rules found" in said([promtool, "check", "rules", path])

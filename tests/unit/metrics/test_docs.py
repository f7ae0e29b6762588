"""docs/metrics.md, docs/alerts.md, rules and dashboard beside the programs' own registries, and beside each other."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]
RULES = yaml.safe_load((ROOT / "charts/edgemodel/rules/edgemodel.rules.yaml").read_text())
ALL_RULES = [rule for group in RULES["groups"] for rule in group["rules"]]
DASHBOARD = json.loads((ROOT / "docs/dashboards/edgemodel.json").read_text())
TESTED = yaml.safe_load((Path(__file__).parent / "rules_test.yaml").read_text())["tests"]


@dataclass(frozen=True)
class Row:
    name: str
    type: str
    labels: tuple[str, ...]
    unit: str
    text: str
    by: tuple[str, ...]
    example: str


def rows() -> list[Row]:
    found = []
    for line in (ROOT / "docs/metrics.md").read_text().splitlines():
        cells = [c.strip() for c in line.strip("|").split("|")]
        if len(cells) == 7 and re.fullmatch(r"`[a-z_]+`", cells[0]):
            labels = tuple(re.findall(r"`(\w+)`", cells[2]))
            by = tuple(cells[5].split(", "))
            found.append(Row(cells[0].strip("`"), cells[1], labels, cells[3], cells[4], by, cells[6].strip("`")))
    return found


def names_in(expression: str) -> set[str]:
    """Names of series in PromQL, without what stands in strings and label lists; of histograms without their suffix."""
    bare = re.sub(r'"[^"]*"', "", expression)
    found = set(re.findall(r"\b(?:edgemodel|process|namespace_name:)[a-z0-9_:]*", bare))
    return {re.sub(r"_(bucket|sum|count)$", "", n) for n in found}


def expressions() -> dict[str, str]:
    """Everything that is PromQL, by where it stands."""
    found = {f"metrics.md: {r.name}": r.example for r in rows()}
    found |= {f"rules: {r.get('alert') or r['record']}": r["expr"] for r in ALL_RULES}
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", []):
            found[f"dashboard: {panel['title']} {target['refId']}"] = target["expr"]
    return found


def test_everything_exposed_is_documented_and_nothing_else(exposed):
    documented = {r.name: r for r in rows()}
    assert set(documented) == {s.name for s in exposed}
    assert len(documented) == len(rows())


def test_the_table_says_what_the_registries_say(exposed):
    by: dict[str, list[str]] = {}
    for s in exposed:
        by.setdefault(s.name, []).append(s.by)
    for s in exposed:
        row = next(r for r in rows() if r.name == s.name)
        assert (row.type, row.labels, row.text, list(row.by)) == (s.type, s.labels, s.text, by[s.name])


@pytest.mark.parametrize(
    ("end", "unit"),
    [("_timestamp_seconds", "Unix time, s"), ("_seconds", "s"), ("_seconds_total", "s"), ("_bytes", "bytes"),
     ("_bytes_total", "bytes"), ("_ratio", "0 … 1"), ("_info", "always 1")],
)  # fmt: skip
def test_units_are_in_the_names(end, unit):
    found = [r for r in rows() if r.name.endswith(end)]
    assert found
    for row in found:
        assert row.unit in (unit, "Unix time, s") if end == "_seconds" else row.unit == unit


def test_names_and_labels_keep_the_conventions(exposed):
    for s in exposed:
        assert s.name.startswith(("edgemodel_", "process_")), s.name
        assert s.name.endswith("_total") == (s.type == "counter"), s.name
        assert "digest" not in s.labels or s.name.endswith("_info"), s.name
    per_model = {s.name for s in exposed if "name" in s.labels}
    assert per_model == {s.name for s in exposed if "namespace" in s.labels}


def test_the_programs_series_do_not_collide(exposed):
    """An agent's scrape has its own and the servers': one name, one owner."""
    agent, server = ({s.name for s in exposed if s.by == by} for by in ("agent", "server"))
    assert not agent & server


def test_queries_ask_for_what_there_is():
    known = {r.name for r in rows()} | {r["record"] for r in ALL_RULES if "record" in r}
    for where, expression in expressions().items():
        names = names_in(expression)
        assert names, where
        assert names <= known, (where, names - known)


def test_each_example_is_of_its_own_row():
    for row in rows():
        assert row.name in names_in(row.example), row


def test_every_alert_has_a_runbook_and_every_runbook_an_alert():
    text = (ROOT / "docs/alerts.md").read_text()
    alerts = [r["alert"] for r in ALL_RULES if "alert" in r]
    assert re.findall(r"^### (\w+)$", text, re.MULTILINE) == alerts
    for rule in ALL_RULES:
        if "alert" in rule:
            assert rule["annotations"]["runbook"] == f"docs/alerts.md#{rule['alert'].lower()}"
            assert rule["labels"]["severity"] in ("critical", "warning", "info")
            assert {"summary", "description"} <= set(rule["annotations"])


def test_every_alert_is_tested_to_fire_and_not_to_fire():
    cases = [c for t in TESTED for c in t["alert_rule_test"]]
    for alert in (r["alert"] for r in ALL_RULES if "alert" in r):
        mine = [c["exp_alerts"] for c in cases if c["alertname"] == alert]
        quiet = alert == "EdgeModelRolledBack" or [] in mine  # that one: a good model stands beside the bad one
        assert any(mine), alert
        assert quiet, alert


def test_every_record_is_tested_and_used():
    asked = " ".join(e["expr"] for t in TESTED for e in t.get("promql_expr_test", []))
    used = " ".join(
        e for where, e in expressions().items() if not where.endswith(tuple(r.get("record", "-") for r in ALL_RULES))
    )
    for record in (r["record"] for r in ALL_RULES if "record" in r):
        assert record in asked
        assert record in used


def test_the_dashboard_is_whole():
    ids = [p["id"] for p in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    boxes = [p["gridPos"] for p in DASHBOARD["panels"]]
    cells = [(x, y) for b in boxes for x in range(b["x"], b["x"] + b["w"]) for y in range(b["y"], b["y"] + b["h"])]
    assert len(cells) == len(set(cells)), "panels overlap"
    assert max(b["x"] + b["w"] for b in boxes) <= 24
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", []):
            used = set(re.findall(r"\$(\w+)", target["expr"])) - {"__rate_interval"}
            assert used <= {v["name"] for v in DASHBOARD["templating"]["list"]}

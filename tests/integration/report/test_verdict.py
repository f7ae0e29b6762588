"""What stands at the top of the page, and how nodes are summed up."""

from __future__ import annotations

import pytest

from edgemodel_api.edgemodel_status import EdgeModelStatus
from edgemodel_api.edgenode import TargetState
from edgemodel_cli.report import rows, view
from edgemodel_cli.timeline import OFFLINE


@pytest.mark.parametrize(
    ("case", "tone", "word", "sentence"),
    [
        ("rolled out", "good", "Rolled out", "3 of 3 nodes serve it"),
        ("rolled back", "bad", "Rolled back", "node-2 failed"),
        ("refused", "bad", "Refused", "none within 0.5%"),
        ("stalled", "bad", "Stalled", "no nodes"),
        ("going on", "open", "In progress", "wave 1"),
        ("another revision", "good", "Compressed", "2 candidates of 4 within the budget."),
        ("compressed only", "good", "Compressed", "2 candidates of 4 within the budget."),
        ("all refused", "bad", "Refused", "None of 1 candidate is within the budget; the table says why."),
        ("no candidates", "open", "Measured", "Only the source was measured; there were no candidates."),
    ],
)
def test_verdict(make, case, tone, word, sentence):
    ready = make.condition("Ready", "False", "wave 1")
    stalled = {"refused": "BudgetExceeded", "stalled": "NoNodes"}
    status = {
        "rolled out": make.rolled_out(),
        "rolled back": make.rolled_out(back="node-2 failed"),
        "going on": EdgeModelStatus(revision=make.NEW, conditions=(ready,)),
        "another revision": make.rolled_out().replace(revision=make.OLD),
    }.get(case, EdgeModelStatus())
    if case in stalled:
        why = make.condition("Stalled", "True", sentence, stalled[case])
        status = EdgeModelStatus(revision=make.NEW, conditions=(ready, why))
    candidates = {"all refused": make.USUAL[2:3], "no candidates": ()}.get(case, make.USUAL)
    assert view.verdict(make.report_of(candidates), make.model_of(status)) == (tone, word, sentence)


def test_what_trials_chose_counts_more_than_what_the_compressor_chose(make):
    report = make.report_of(make.USUAL)
    assert view.chosen_names(report, make.model_of()) == {"int4"}
    variants = tuple(v.replace(name="source") for v in make.rolled_out().variants)
    status = make.rolled_out().replace(variants=variants)
    assert view.chosen_names(report, make.model_of(status)) == {"source"}
    refused = tuple(v.replace(name="", digest="", accepted=False) for v in variants)
    assert view.chosen_names(report, make.model_of(status.replace(variants=refused))) == {"int4"}


def test_nodes_in_trouble_first(make):
    nodes = [make.node_of("a"), make.node_of("b", TargetState.FAILED, "too slow"), make.node_of("c"), make.node_of("d")]
    changes = [make.change(0, "a", "Serving", 1), make.change(0, "c", "Serving", 0), make.change(3, "d", OFFLINE, 0)]
    found = rows.node_rows(make.model_of(), make.NEW, nodes, changes)
    assert [(r.name, r.state, r.tone) for r in found] == [
        ("b", "Failed", "bad"), ("d", "Offline", "open"), ("c", "Serving", "good"), ("a", "Serving", "good"),
    ]  # fmt: skip
    assert found[0].message == "too slow"


def test_groups_count_what_is_alike(make):
    nodes = [*(make.node_of(f"n{i}") for i in range(40)), make.node_of("z", TargetState.FAILED)]
    found = rows.groups(rows.node_rows(make.model_of(), make.NEW, nodes, ()))
    assert [(g.state, g.nodes) for g in found] == [("Failed", 1), ("Serving", 40)]


@pytest.mark.parametrize("text", ["nan?", "", "1e999", "-inf", "0x10"])
def test_a_node_may_report_anything(make, text):
    node = make.node_of("a")
    measured = node.status.models[0].measured.replace(latency_median_seconds=text, golden_error=text)
    model = node.status.models[0].replace(measured=measured, download_seconds=text)
    node = node.replace(status=node.status.replace(models=(model,)))
    (row,) = rows.node_rows(make.model_of(), make.NEW, [node], ())
    assert row.cells[3].text == "–"

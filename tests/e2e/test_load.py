"""A new revision while applications ask all nodes: no request fails, and every answer is right for one of the two."""

from __future__ import annotations

from .kube import wait
from .load import Load
from .model import steps


def test_no_request_fails_while_a_new_revision_rolls_out(rolled_out, digits, registry, nodes, tmp_path):
    model = rolled_out
    seen = {}

    def remember() -> None:
        """Revision → platform's right answers."""
        status = model.status()
        reference = status["artifact"]["reference"].removeprefix("oci://").partition("/")[2].partition("@")[0]
        with registry.outside() as host:
            for variant in status["variants"]:
                key = (status["revision"], variant["digest"])
                seen[key] = digits.expected(f"oci://{host}/{reference}", variant["digest"], tmp_path)

    remember()
    old = model.status()["revision"]
    before = {node: m["running"]["endpoint"] for node, m in model.on_nodes().items()}
    with Load(model.endpoints(), digits.request) as load:
        wait(lambda: {a.node for a in load.answers} == set(nodes), "an answer from each node")
        model.apply(compression=steps(55))
        wait(lambda: model.status().get("revision") not in (None, old), model.told, 20)
        model.ready()
        new = model.status()["revision"]
        after = len(load.answers)
        wait(
            lambda: {a.node for a in load.answers[after:] if a.revision == new} == set(nodes), "answers of the new one"
        )
    remember()

    assert load.failed() == [], load.failed()[:5]
    assert {node: m["running"]["endpoint"] for node, m in model.on_nodes().items()} == before
    for node in nodes:
        revisions = [a.revision for a in load.answers if a.node == node]
        assert set(revisions) == {old, new}, node
        assert len(revisions) >= 20
    wrong = [
        a for a in load.answers
        if not any(digits.is_right(a.row, a.values, e) for (revision, _), e in seen.items() if revision == a.revision)
    ]  # fmt: skip
    assert wrong == [], wrong[:3]
    # Nobody was served the old one once the new one had answered, over connections of their own or kept ones.
    assert len(model.jobs()) <= 2

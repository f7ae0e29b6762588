"""How a compression Job can end other than well: refused by a gate, short of memory. Each is named, with its numbers."""

from __future__ import annotations

from .model import COMPRESSION


def test_a_gates_refusal_is_told_with_its_numbers(model):
    model.apply(compression={**COMPRESSION, "budget": {"maxSize": "1Ki", "maxSlowdown": "9999%"}})
    refused = model.until("Compressed", "False", "BudgetExceeded")
    assert "1.0 KiB" in refused["message"] or "1024" in refused["message"] or "1 KiB" in refused["message"], refused
    assert model.says("Stalled")["reason"] == "BudgetExceeded"
    # For good: what was refused is not tried again.
    assert len(model.jobs()) == 1
    assert model.on_nodes() == {}


def test_a_job_that_runs_out_of_memory_is_told_apart_from_a_refusal(model, release):
    with release.changed({"compressor": {"job": {"memory": "48Mi"}}}):
        model.apply()
        short = model.until("Compressed", "False", "WaitingForRetry")
    assert "OutOfMemory" in short["message"], short
    assert "48Mi" in short["message"], short
    # Enough of it, and the next try is all right.
    model.ready()

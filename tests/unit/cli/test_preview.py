from datetime import timedelta

import pytest

from edgemodel_api.job import JobResult, Outcome, VariantSummary
from edgemodel_cli.preview import preview

WAVES = {"waves": [{"nodes": 1, "soak": "30s"}, {"nodes": "100%", "soak": "1m"}]}
BUILT = JobResult(
    outcome=Outcome.SUCCEEDED,
    variants=(
        VariantSummary(platform="linux/amd64", name="source", digest="sha256:a", size_bytes=4000),
        VariantSummary(platform="linux/amd64", name="int8", digest="sha256:b", size_bytes=1000),
        VariantSummary(platform="linux/arm64", name="big", digest="sha256:c", size_bytes=9000),
    ),
)
STORED = {"sha256:a": 4100, "sha256:b": 1100, "sha256:c": 9100}
CHOSEN = {
    "revision": "r2",
    "variants": [
        {
            "hardwareClass": "amd64-vnni",
            "platform": "linux/amd64",
            "name": "int8",
            "digest": "sha256:b",
            "sizeBytes": 1000,
        }
    ],
}


@pytest.fixture
def look(make_model, make_node):
    def look(*, status=None, job=None, source=5000, here=None, **spec):
        nodes = [make_node(f"n{i}", pool="a") for i in range(3)]
        model = make_model(status=status, **{"rollout": WAVES, **spec})
        return preview(
            model,
            nodes,
            revision="r2",
            platforms=("linux/amd64",),
            job=job,
            source_bytes=source,
            stored=STORED,
            here=here,
        )

    return look


def test_waves_with_names_and_the_least_time(look):
    found = look()
    assert [w.nodes for w in found.waves] == [("n0",), ("n1", "n2")]
    assert found.soak == timedelta(seconds=90)
    assert found.to_json()["minimumSeconds"] == 90


def test_nodes_that_no_wave_reaches_fetch_nothing_and_that_is_said(look):
    found = look(rollout={"waves": [{"nodes": 1, "soak": "1s"}, {"nodes": "50%"}]})
    assert [d.node for d in found.downloads] == ["n0", "n1"]
    assert found.total == 10_000
    assert '1 of 3 nodes gets nothing: spec.rollout.waves ends at 50%: add {nodes: "100%"}' in found.notes
    assert not any("nothing" in note for note in look().notes)


def test_not_built_is_bounded_by_the_source(look):
    found = look()
    assert (found.built, found.total, found.exact) == (False, 15000, False)
    assert "not built yet: bytes are at most those of the source" in found.notes[0]


def test_unknown_source_size_is_no_number(look):
    found = look(source=None)
    assert (found.total, found.to_json()["waves"][0]["bytes"]) == (None, None)


def test_built_but_not_tried_is_bounded_by_the_largest_variant_of_the_platform(look):
    found = look(job=BUILT)
    assert (found.built, found.total, found.exact) == (True, 3 * 4100, False)


def test_tried_is_exact(look):
    found = look(job=BUILT, status=CHOSEN)
    assert (found.total, found.exact, found.notes) == (3300, True, ())


def test_a_choice_of_another_revision_does_not_count(look):
    assert look(job=BUILT, status={**CHOSEN, "revision": "r1"}).exact is False


def test_what_is_here_is_not_fetched(look):
    found = look(job=BUILT, status=CHOSEN, here={"n0": {"sha256:b"}, "n1": {"sha256:a"}})
    assert [d.bytes for d in found.downloads] == [0, 1100, 1100]


def test_only_the_pool_counts(look):
    assert look(nodePool={"selector": {"matchLabels": {"pool": "b"}}}).downloads == ()
    assert len(look(nodePool={"selector": {"matchLabels": {"pool": "a"}}}).downloads) == 3


def test_a_refused_revision_is_not_built(look):
    assert look(job=JobResult(outcome=Outcome.REFUSED)).built is False

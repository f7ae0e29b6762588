"""The page as a whole: valid, self-contained, deterministic, of bounded size, and deaf to hostile names."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pytest

from edgemodel_api.edgemodel import Budget
from edgemodel_api.edgenode import TargetState
from edgemodel_api.formats import Format
from edgemodel_api.report import Conversion, Diagnosis, Layer, Measurement, Original, QualityBasis, QualityKind
from edgemodel_cli.html_report import render

VOID = {"meta", "link", "br", "hr", "img", "input"}


class Page(HTMLParser):
    """Checks nesting, and collects what tests look for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.ids: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == [], f"not closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for key, value in attrs if key == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for key, value in attrs if key == "id"]

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def count(self, tag: str) -> int:
        return sum(t == tag for t, _ in self.tags)


@pytest.fixture(scope="module")
def usual(make):
    nodes, changes = make.fleet(3)
    return render(make.report_of(make.USUAL, layers=4), make.model_of(make.rolled_out()), nodes, changes)


def test_says_what_happened(usual):
    text = Page(usual).text
    for expected in (
        "file-type", "3f2a9c81d0e4", "Rolled out", "3 of 3", "6.0× smaller", "99.05 %", "4.70 ms",
        "Quality is Top1 against the labels of 1 002 samples", "98.7–99.5 %",
        "quality drops by 59.8%, more than maxQualityDrop 0.5%: prune less", "no kernel for ConvInteger",
        "maxQualityDrop 0.5%", "maxSize 2M", "maxLatency 6ms", "maxSlowdown 0%", "the smallest of 2",
        "http://127.0.0.1:4000", "onnxruntime", "Example CPU", "wave 1", "wave 2", "dense3",
    ):  # fmt: skip
        assert expected in text, expected


def test_says_why_nothing_passed(make):
    found = Diagnosis(
        nearest="int4",
        missing={"maxQualityDrop": 0.231, "maxSize": float("inf")},
        costly_layers=("conv1", "<b>"),
        suggestions=("maxQualityDrop 1.24% would let int4 through",),
    )
    text = Page(render(make.report_of(make.USUAL, diagnosis=found), make.model_of(), (), ())).text
    for expected in (
        "Why no candidate keeps the budget", "it misses maxQualityDrop by 23.1 % of the limit", "conv1", "<b>",
        "maxQualityDrop 1.24% would let int4 through",
    ):  # fmt: skip
        assert expected in text, expected
    assert "maxSize by" not in text


def test_the_file_that_was_given_stands_below_what_was_read_from_it(make):
    given = Original(
        format=Format.TFLITE, sha256="", size_bytes=2_900_000, file_bytes=3_000_000, max_error=2e-7,
        cases=24, ran_with="LiteRT 2.3.0", notes=("the batch is fixed to the file's: <b>",),
    )  # fmt: skip
    text = Page(render(make.report_of(make.USUAL, original=given), make.model_of(), (), ())).text
    assert "source as read from TFLite" in text
    for expected in (
        "source (TFLite) as given", "2.8 MiB 1.0×", "read as ONNX: relative error 2e-07 on 24 rows, run by LiteRT 2.3.0",
        "the batch is fixed to the file's: <b>",
    ):  # fmt: skip
        assert expected in text, expected


def test_needs_nothing_from_outside(usual):
    page = Page(usual)
    for tag, attributes in page.tags:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base")
        for key, value in attributes.items():
            if key in ("src", "href", "xlink:href"):
                assert value.startswith("#"), f"{tag} {key}={value}"
    assert "@import" not in usual
    assert not re.search(r"url\((?!#)", usual)


def test_only_the_pages_own_script_may_run(usual):
    page = Page(usual)
    (policy,) = [a["content"] for t, a in page.tags if t == "meta" and a.get("http-equiv")]
    assert "default-src 'none'" in policy
    assert re.search(r"script-src 'sha256-[A-Za-z0-9+/]{43}='", policy)
    assert page.count("script") == 1
    assert not [key for _, attributes in page.tags for key in attributes if key.startswith("on")]


def test_figures_share_a_page(usual):
    page = Page(usual)
    assert page.count("svg") == 2
    assert len(page.ids) == len(set(page.ids))
    for reference in re.findall(r"(?:url\(|xlink:href=\")#([^)\"]+)", usual):
        assert reference in page.ids, reference
    assert "#0001" not in usual, "a stand-in colour that no CSS variable replaced"
    for figure in re.findall(r"<svg.*?</svg>", usual, re.DOTALL):
        assert "font-family" not in figure
        assert ET.fromstring(figure).get("aria-label")


def test_same_arguments_same_bytes(make, usual):
    nodes, changes = make.fleet(3)
    again = render(make.report_of(make.USUAL, layers=4), make.model_of(make.rolled_out()), nodes, changes)
    assert again == usual


def test_tables_are_whole_without_a_script(usual):
    before, _, _ = usual.partition("<script>")
    assert "sortable" in before
    assert '<td class="number" data-key="500000">488.3 KiB<small>6.0×</small></td>' in before


HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</style></script><svg onload=alert(1)>",
    "$\\frac{1}{",
    "{{ 7 * 7 }}",
    '#000101 url(#x) id="c-figure_1"',
    "控制\x00\x07\u202e名",
    "a" * 5000,
)  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_names_stay_text(make, name):
    candidates = [
        make.candidate(name, 700_000, on_front=True, notes=(name,), recipe=(name,)),
        make.refused("b", 5, 0.1, name),
    ]
    report = make.report_of(
        candidates,
        revision=name,
        warnings=(name,),
        runtimes={name: name},
        objective=name,
        quality=QualityBasis(kind=QualityKind.AGREEMENT, metric=name, samples=3),
    ).replace(layers=(Layer(name=name, node=name + "n", op=name, encoding=name),))
    # Node names are DNS names where the API server is asked; a file of the embedded mode is not the API server.
    node = make.node_of("n", TargetState.FAILED, name)
    node = node.model_copy(update={"metadata": node.metadata.model_copy(update={"name": name})})
    changes = [
        make.change(0, name, "Downloading", revision=name, variant=name),
        make.change(1, name, "Failed", revision=name, reason=name, message=name),
        make.change(1, "other", name, revision=name),
    ]
    page = Page(render(report, make.model_of(), (node,), changes))
    assert page.count("script") == 1
    assert page.count("img") == 0
    assert page.count("svg") == 2
    assert page.count("style") == 1
    assert not [key for _, attributes in page.tags for key in attributes if key.startswith("on")]
    assert "49" not in page.words


def test_nothing_but_the_source(make):
    page = Page(render(make.report_of(), make.model_of(), (), ()))
    assert "There were no candidates" in page.text
    assert "Rollout" not in page.text


def test_nothing_measured_at_all(make):
    report = make.report_of(
        quality=QualityBasis(kind=QualityKind.NONE, metric=""),
        source=Measurement(size_bytes=0, file_bytes=0),
        budget=Budget(),
        host=None,
    )
    page = Page(render(report, make.model_of(), (), ()))
    assert "Quality was not measured" in page.text
    assert page.count("svg") == 0


def test_agreement_says_what_it_is_not(make):
    basis = QualityBasis(kind=QualityKind.AGREEMENT, metric="Top1", samples=10)
    text = Page(render(make.report_of(make.USUAL, quality=basis), make.model_of(), (), ())).text
    assert "There were no labels. Quality is agreement with the source (Top1) on 10 samples" in text


@pytest.mark.parametrize("nodes", [1, 3, 36, 37, 500])
def test_any_number_of_nodes_in_bounded_height(make, nodes):
    pool, changes = make.fleet(nodes)
    text = render(make.report_of(make.USUAL), make.model_of(make.rolled_out()), pool, changes)
    page = Page(text)
    figures = re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text)
    assert len(figures) == 2
    assert float(figures[1][1]) < 0.95 * float(figures[1][0])
    assert ("<details>" in text) == (nodes > 24)
    assert f"{nodes} of {nodes}" in page.text


def test_many_layers_and_candidates_in_bounded_height(make):
    candidates = [make.candidate(f"variant-{i}", 500_000 + 5000 * i, 0.99 + i * 1e-5) for i in range(120)]
    text = render(make.report_of(candidates, layers=300), make.model_of(), (), ())
    page = Page(text)
    assert "dense299" in page.text
    assert "variant-119" in page.text
    assert text.count('<div class="box">') == 2
    assert len(text) < 2_000_000


ODD = (float("nan"), float("inf"), float("-inf"), 1e308, -1.0, 0.0, 1e-320)


@pytest.mark.parametrize("number", ODD)
def test_numbers_that_nothing_measured_are_drawn_as_none(make, number):
    odd = Measurement(
        size_bytes=10**25,
        file_bytes=-5,
        quality=number,
        quality_low=number,
        quality_high=number,
        quality_drop=number,
        latency_median_seconds=number,
        latency_p99_seconds=number,
        slowdown=number,
        peak_memory_bytes=-1,
        sparsity=number,
    )
    strange = make.candidate("strange", 5).replace(measurement=odd)
    layer = Layer(name="a", shape=(-1, 10**30), source_bytes=-1, bytes=10**30, sparsity=number, sensitivity=number)
    for source in (odd, make.measurement(3_000_000)):
        report = make.report_of([*make.USUAL, strange], source=source, seconds=number).replace(layers=(layer,))
        text = Page(render(report, make.model_of(), (), ())).text
        assert "strange" in text
        assert not re.search(r"\b(nan|inf)\b", text)


def test_other_formats_have_a_table_of_their_own(make):
    rows = (
        Conversion(
            format="TFLite", candidate="prune50", name="tflite-int8-weights-prune50", encoding="int8-weights",
            size_bytes=400_000, file_bytes=800_000, ran_with="LiteRT 2.3.0", cases=32, max_error=0.0123, agreement=1.0,
            quality=0.9912, quality_drop=0.0028, accepted=True, digest="sha256:a", notes=("2 weights <b>are</b> int8",),
        ),
        Conversion(
            format="CoreML", candidate="source", name="coreml-palettized-2", encoding="palettized-2", size_bytes=300_000,
            ran_with="MIL interpreter (not run on Core ML)", cases=32, max_error=float("inf"), quality_drop=0.25,
            message="quality drops by 25.00% on the 32 golden cases, more than maxQualityDrop 0.5%: raise it",
        ),
    )  # fmt: skip
    text = Page(render(make.report_of(make.USUAL, conversions=rows), make.model_of(), (), ())).text
    for expected in (
        "Other formats", "tflite-int8-weights-prune50", "LiteRT 2.3.0", "7.5×", "0.012", "2 weights <b>are</b> int8",
        "not run on Core ML", "quality drops by 25.00% on the 32 golden cases", "prune50", "99.12 %",
    ):  # fmt: skip
        assert expected in text, expected
    assert "inf" not in text.replace("information", "")


def test_a_revision_without_onnx_is_told_by_its_files(make):
    fields = {"format": "TFLite", "candidate": "source", "encoding": "int8-weights", "ran_with": "LiteRT 2.3.0"}
    rows = (
        Conversion(**fields, name="source", size_bytes=3_100_000, accepted=True, digest="sha256:s"),
        Conversion(**fields, name="tflite-int8", size_bytes=750_000, quality=0.99, accepted=True, digest="sha256:t"),
        Conversion(**fields, name="tflite-bad", size_bytes=700_000, quality=0.5, message="quality drops"),
    )
    found = make.report_of(make.USUAL, conversions=rows).replace(formats=("TFLite",))
    text = Page(render(found, make.model_of(), (), ())).text
    assert "1 of 2 files of TFLite within the budget." in text
    assert "4.0× smaller" in text

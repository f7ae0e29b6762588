"""Which files of other formats go into the artifact; what is said of operators that cannot be converted."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgemodel_api.edgemodel import Format
from edgemodel_api.errors import InputError
from edgemodel_api.report import Conversion
from edgemodel_compressor import choose, formats
from edgemodel_compressor.conversions import Converter, Made, picked, variant_name
from edgemodel_compressor.formats import check_operators, others, plain
from edgemodel_compressor.formats.writers import COREML_PLATFORM, WRITERS, file_name


def made(name, size, *, encoding="int8-weights", kind=Format.TFLITE, accepted=True, digest=None):
    row = Conversion(
        format=kind.value, candidate="source", name=name, encoding=encoding, size_bytes=size, accepted=accepted
    )
    return Made(row, kind, Path(name), digest or name)


def names(found):
    return [m.row.name for m in found]


def test_the_smallest_come_first_and_one_computes_in_floats():
    files = [
        made("full", 100, encoding="int8-full"),
        made("weights", 110),
        made("half", 200, encoding="float16"),
        made("refused", 10, accepted=False),
    ]
    assert names(picked(files, {Format.TFLITE: 1})) == ["weights"]
    assert names(picked(files, {Format.TFLITE: 2})) == ["full", "weights"]
    assert names(picked(files, {Format.TFLITE: 9})) == ["full", "weights", "half"]
    assert names(picked(files, {Format.COREML: 9})) == []


def test_the_sources_stand_in_goes_in_even_if_it_is_over_the_budget():
    files = [made("source", 900, accepted=False), made("a", 100), made("b", 100, digest="a")]
    assert names(picked(files, {Format.TFLITE: 4})) == ["source", "a"]


def test_what_was_judged_on_few_samples_alone_goes_nowhere():
    files = [made("a", 100), replace(made("b", 50), unsure=True), replace(made("c", 70), unsure=True)]
    assert names(picked(files, {Format.TFLITE: 3})) == ["a"]


def test_the_smallest_are_judged_on_all_the_data():
    kinds = {"pal2": 10, "pal4": 20, "pal6": 30, "int8": 40, "pal8": 50}
    files = [made(n, size, kind=Format.COREML) for n, size in kinds.items()]
    files += [
        made("half", 60, kind=Format.COREML, encoding="float16"),
        made("bad", 5, kind=Format.COREML, accepted=False),
    ]
    looked = []

    class Judge(Converter):
        def _confirmed(self, m):
            looked.append(m.row.name)
            return replace(m, row=m.row.replace(accepted=m.row.name != "pal2"))

    found = Judge(None, None, None).confirmed(files)
    assert looked == ["pal2", "pal4", "pal6"]
    assert names(picked(found, {Format.COREML: 9})) == ["pal4", "pal6", "half"]
    late = Judge(None, None, None, lambda: True).confirmed(files)
    assert names(picked(late, {Format.COREML: 9})) == ["half"]
    tflite = [made("t", 10)]
    assert Judge(None, None, None).confirmed(tflite) == tuple(tflite)


def test_formats_do_not_take_each_others_places():
    files = [made("t", 100), made("c", 50, kind=Format.COREML), made("d", 60, kind=Format.COREML)]
    assert names(picked(files, {Format.TFLITE: 1, Format.COREML: 1})) == ["t", "c"]


@given(st.integers(1, 6), st.sets(st.sampled_from(list(Format)), min_size=1))
def test_every_wanted_format_has_a_place_and_all_fit(platforms, wanted):
    share = choose.shares(platforms, wanted)
    assert set(share) == wanted
    assert all(n >= 1 for n in share.values())
    if Format.ONNX in wanted and wanted != {Format.ONNX} and platforms <= 3:
        total = platforms * (1 + share[Format.ONNX] + share.get(Format.TFLITE, 0)) + share.get(Format.COREML, 0)
        assert total <= choose.MOST_IN_ALL
    assert choose.shares(platforms, {Format.ONNX}) == {Format.ONNX: choose.slots(platforms)}


def test_names():
    assert variant_name(Format.TFLITE, "int8-weights", "source") == "tflite-int8-weights"
    assert len(variant_name(Format.COREML, "palettized-4", "prune50-recovered-" * 9)) <= 63
    assert file_name(Format.TFLITE, "tflite-float16") == "tflite-float16.tflite"
    assert others([Format.COREML, Format.TFLITE, Format.ONNX]) == (Format.TFLITE, Format.COREML)


def test_where_variants_stand_and_what_is_tried():
    tflite, coreml = WRITERS[Format.TFLITE], WRITERS[Format.COREML]
    assert tflite.platforms(("linux/arm64", "linux/amd64")) == ("linux/amd64", "linux/arm64")
    assert coreml.platforms(("linux/arm64",)) == (COREML_PLATFORM,)
    assert "int8-full" not in tflite.encodings(calibrated=False, sparse=False)
    assert "int8-full" in tflite.encodings(calibrated=True, sparse=False)
    assert "sparse" in coreml.encodings(calibrated=False, sparse=True)
    assert "sparse" not in coreml.encodings(calibrated=True, sparse=False)


def test_messages_with_a_models_names_are_short_and_steer_no_terminal():
    shown = plain("node \x1b[31m" + "x" * 10_000 + " (Det): why")
    assert "\x1b" not in shown
    assert len(shown) < 310
    assert shown.endswith("(Det): why")


def dets(count):
    """`count` nodes that no other format has."""
    nodes = [helper.make_node("Det", [f"x{i}"], [f"x{i + 1}"], name=f"det{i}") for i in range(1)]
    nodes += [
        node
        for i in range(1, count)
        for node in (
            helper.make_node("Reshape", [f"x{i}", "square"], [f"s{i}"], name=f"r{i}"),
            helper.make_node("Det", [f"s{i}"], [f"x{i + 1}"], name=f"det{i}"),
        )
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x0", TensorProto.FLOAT, ["n", 1, 1])],
        [helper.make_tensor_value_info(f"x{count}", TensorProto.FLOAT, ["n"])],
        [numpy_helper.from_array(np.array([-1, 1, 1], np.int64), "square")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model


@pytest.mark.parametrize("count", [1, 30])
def test_every_node_is_named_or_counted(count):
    feeds = {"x0": np.ones((4, 1, 1), np.float32)}
    with pytest.raises(InputError) as error:
        check_operators(dets(count), (Format.ONNX, Format.TFLITE), feeds)
    assert error.value.reason == "NotSupported"
    text = error.value.message
    assert text.startswith("the model cannot be converted to TFLite: node det0 (Det): ")
    assert text.count("(Det)") == min(count, formats.MOST_LISTED)
    assert ("and 10 more" in text) == (count == 30)
    assert text.endswith(f"or export the model without {'this' if count == 1 else 'these'}")
    check_operators(dets(count), (Format.ONNX,), feeds)

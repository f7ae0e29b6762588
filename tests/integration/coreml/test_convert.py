"""Encodings, names, batches, what is refused, and that the check can fail."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgemodel_api.errors import InputError
from edgemodel_compressor.formats import coreml
from edgemodel_compressor.formats.coreml import lower, write
from edgemodel_compressor.formats.coreml.interpret import decompressed
from edgemodel_compressor.formats.coreml.package import read_package
from edgemodel_compressor.formats.coreml.program import decode


def info(name: str, *shape: int | str, kind: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def made(nodes: list[Any], inputs: list[Any], outputs: list[Any], opset: int = 17, **tensors: np.ndarray) -> Any:
    graph = helper.make_graph(nodes, "g", inputs, outputs, [numpy_helper.from_array(v, k) for k, v in tensors.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def rows(count: int = 4) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(5).standard_normal((count, 3, 8, 8)).astype("f")}


class TestEncodings:
    @pytest.mark.parametrize(
        ("encoding", "error", "share"),
        [
            ("float32", 1e-6, 1.15),
            ("float16", 2e-3, 0.65),
            ("int8-weights", 0.02, 0.45),
            ("palettized-8", 0.02, 0.5),
            ("palettized-6", 0.05, 0.4),
            ("palettized-4", 0.2, 0.35),
        ],
    )
    def test_size_and_error(self, network: Any, tmp_path: Path, encoding: str, error: float, share: float) -> None:
        path = tmp_path / "m.mlpackage.zip"
        done = coreml.convert(network, path, encoding=encoding, feeds=rows())
        assert done.check.max_error < error
        assert done.check.cases == 4
        assert "not run on Core ML" in done.check.ran_with
        assert path.stat().st_size == done.size_bytes
        # The program takes some kilobytes itself.
        assert done.size_bytes - 9000 < share * len(network.SerializeToString())
        assert any("batch axis is fixed to 1" in n for n in done.notes)

    def test_zeros_are_kept_and_stored_as_bits(self, network: Any, tmp_path: Path) -> None:
        pruned = onnx.ModelProto()
        pruned.CopyFrom(network)
        for tensor in pruned.graph.initializer:
            array = numpy_helper.to_array(tensor).copy()
            if array.ndim > 1:
                array[np.abs(array) < np.quantile(np.abs(array), 0.75)] = 0
                tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
        dense = coreml.convert(pruned, tmp_path / "dense.zip", encoding="float16", feeds=rows())
        done = coreml.convert(pruned, tmp_path / "sparse.zip", encoding="sparse", feeds=rows())
        assert done.size_bytes < 0.6 * dense.size_bytes
        # No weight is changed, so neither are the answers.
        assert done.check.max_error == dense.check.max_error
        assert "3 weights" in done.notes[-1]

    @pytest.mark.parametrize("encoding", ["int8-weights", "palettized-4"])
    def test_inputs_that_change_places(self, tmp_path: Path, encoding: str) -> None:
        """Compressing the weights reorders what is independent, such as the casts of two inputs."""
        weights = np.random.default_rng(0).standard_normal((64, 32)).astype(np.float32)
        nodes = [
            helper.make_node("Add", ["pix", "extra"], ["s"], name="add"),
            helper.make_node("MatMul", ["s", "w"], ["y"], name="mm"),
        ]
        model = made(nodes, [info("pix", "N", 64), info("extra", "N", 64)], [info("y", "N", 32)], w=weights)
        done = coreml.convert(model, tmp_path / "m", encoding=encoding)
        assert done.notes[-1].startswith("1 weight (") or any("1 weight (" in n for n in done.notes)

    def test_the_same_model_gives_the_same_bytes(self, network: Any, tmp_path: Path) -> None:
        for encoding in ("float16", "palettized-4"):
            coreml.convert(network, tmp_path / "a", encoding=encoding)
            coreml.convert(network, tmp_path / "b", encoding=encoding)
            assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()

    def test_palettes_are_the_best_ones(self, network: Any, tmp_path: Path) -> None:
        coreml.convert(network, tmp_path / "p", encoding="palettized-2", feeds=rows())
        coreml.convert(network, tmp_path / "f", encoding="float16", feeds=rows())
        before = decode(read_package(tmp_path / "f")).constants()
        after = decompressed(decode(read_package(tmp_path / "p")))
        name = next(n for n in after if n.endswith("_palettized") and after[n].size == 64 * 256)
        weight, palette = before[name.removesuffix("_palettized")].astype(np.float64), np.unique(after[name])
        assert len(palette) == 4
        # k-means: every value of the palette is the mean of the weights that use it.
        for value in palette:
            assert weight[after[name] == value].mean() == pytest.approx(float(value), rel=2e-3)

    def test_a_model_that_overflows_half_precision_computes_in_float32(self, tmp_path: Path) -> None:
        weight = np.full((32, 32), 100, np.float32)
        nodes = [
            helper.make_node("MatMul", ["x", "w"], ["h"]),
            helper.make_node("Mul", ["h", "h"], ["s"]),
            helper.make_node("Mul", ["s", "tiny"], ["y"]),
        ]
        model = made(nodes, [info("x", "N", 32)], [info("y", "N", 32)], w=weight, tiny=np.float32(1e-7))
        feeds = {"x": np.ones((2, 32), np.float32)}
        with pytest.raises(InputError, match=r"\(float16\) answers otherwise.*encode as float32"):
            coreml.convert(model, tmp_path / "m", encoding="float16", feeds=feeds)
        assert not (tmp_path / "m").exists()
        done = coreml.convert(model, tmp_path / "m", encoding="int8-weights", feeds=feeds)
        assert done.compute == "float32"
        assert "computes in float32" in done.notes[-1]
        assert done.check.max_error < 1e-2

    def test_words_that_are_no_encoding(self, network: Any, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="encoding 'int3' is unknown: choose one of float32"):
            coreml.convert(network, tmp_path / "m", encoding="int3")
        with pytest.raises(InputError, match="compute 'int8'"):
            coreml.convert(network, tmp_path / "m", encoding="sparse", compute="int8")
        with pytest.raises(InputError, match="computes in float32"):
            coreml.convert(network, tmp_path / "m", encoding="float32", compute="float16")


class TestTheCheckCanFail:
    def test_a_wrong_lowering_is_found(self, network: Any, tmp_path: Path, monkeypatch: Any) -> None:
        wrong = lower.Lowering("", lambda node: [node.mb.sigmoid(x=node[0])])
        monkeypatch.setitem(lower.LOWERINGS, "Tanh", wrong)
        with pytest.raises(InputError, match="answers otherwise than the ONNX model: relative error"):
            coreml.convert(network, tmp_path / "m", encoding="float32")

    def test_wrong_weights_are_found(self, network: Any, tmp_path: Path, monkeypatch: Any) -> None:
        from edgemodel_compressor.formats.coreml import compress

        palette = compress._palette

        def shifted(bits: int) -> Callable[[Any], Any]:
            def lut(weight: Any) -> Any:
                values, places = palette(bits)(weight)
                return values, (places + 1) % (1 << bits)

            return lut

        monkeypatch.setattr(compress, "_palette", shifted)
        with pytest.raises(InputError, match=r"unpacked values are off by .* more than palettized-4 allows"):
            coreml.convert(network, tmp_path / "m", encoding="palettized-4")

    def test_a_changed_weight_file_changes_the_answers(self, network: Any, tmp_path: Path) -> None:
        path = tmp_path / "m.zip"
        coreml.convert(network, path, encoding="float32", feeds=rows())
        before = coreml.run(path, rows())["scores:0"]
        content = bytearray(path.read_bytes())
        last = np.float32(numpy_helper.to_array(network.graph.initializer[4])[0, 0]).tobytes()
        place = content.index(last)
        content[place : place + 4] = np.float32(9).tobytes()
        # The zip's own checksum would find it first.
        folder = coreml.unpack(path, tmp_path)
        weights = folder / "Data/com.apple.CoreML/weights/weight.bin"
        raw = weights.read_bytes()
        weights.write_bytes(raw.replace(last, np.float32(9).tobytes(), 1))
        assert not np.allclose(coreml.run(folder, rows())["scores:0"], before)


class TestEnds:
    def test_names_types_and_batches_are_the_onnx_models(self, tmp_path: Path) -> None:
        nodes = [
            helper.make_node("Gather", ["table", "ids:0"], ["e"]),
            helper.make_node("ReduceMean", ["e"], ["m"], axes=[1], keepdims=0),
            helper.make_node("ArgMax", ["m"], ["1"], axis=1, keepdims=0),
            helper.make_node("Greater", ["m", "zero"], ["flags"]),
            helper.make_node("Not", ["mask"], ["unmask"]),
        ]
        table = np.random.default_rng(0).standard_normal((50, 12)).astype("f")
        model = made(
            nodes,
            [info("ids:0", "N", 7, kind=TensorProto.INT64), info("mask", "N", 2, kind=TensorProto.BOOL)],
            [
                info("1", "N", kind=TensorProto.INT64),
                info("flags", "N", 12, kind=TensorProto.BOOL),
                info("unmask", "N", 2, kind=TensorProto.BOOL),
            ],
            table=table,
            zero=np.float32(0),
        )
        ids = np.random.default_rng(1).integers(-50, 50, (3, 7))
        feeds = {"ids:0": ids, "mask": np.array([[True, False]] * 3)}
        done = coreml.convert(model, tmp_path / "m", encoding="float32", feeds=feeds)
        assert done.check.max_error == 0
        got = coreml.run(tmp_path / "m", feeds)
        assert [(n, a.dtype.name, a.shape) for n, a in got.items()] == [
            ("1", "int64", (3,)),
            ("flags", "bool", (3, 12)),
            ("unmask", "bool", (3, 2)),
        ]
        program = decode(read_package(tmp_path / "m"))
        assert [t.name for t in program.inputs] == ["ids_0", "mask"]
        assert program.outputs == ("output_1", "flags", "unmask")
        text = " ".join(done.notes)
        for words in (
            "input 'ids:0' is called 'ids_0'",
            "output '1' is called 'output_1'",
            "int64, in Core ML int32",
            "boolean",
        ):
            assert words in text

    def test_free_axes_besides_the_batch_take_the_feeds_size_or_are_refused(self, tmp_path: Path) -> None:
        model = made(
            [helper.make_node("Softmax", ["x"], ["y"])], [info("x", "N", "time", 4)], [info("y", "N", "time", 4)]
        )
        with pytest.raises(InputError, match=r"input 'x': axis 1 \(time\) is free"):
            coreml.unsupported(model)
        feeds = {"x": np.ones((2, 6, 4), np.float32)}
        assert coreml.unsupported(model, feeds) == ()
        assert coreml.unsupported(model, shapes={"x": (1, 3, 4)}) == ()
        with pytest.raises(InputError, match="has no input z"):
            coreml.unsupported(model, shapes={"z": (1,)})
        coreml.convert(model, tmp_path / "m", encoding="float32", feeds=feeds)
        assert coreml.run(tmp_path / "m", feeds)["y"].shape == (2, 6, 4)

    def test_scalars_and_passed_through_values(self, tmp_path: Path) -> None:
        nodes = [
            helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0),
            helper.make_node("Identity", ["x"], ["same"]),
            helper.make_node("Mul", ["two", "two"], ["fixed"]),
        ]
        model = made(
            nodes, [info("x", 2, 3)], [info("s"), info("same", 2, 3), info("fixed", 2)], two=np.float32([2, 3])
        )
        feeds = {"x": np.arange(6, dtype=np.float32).reshape(2, 3)}
        coreml.convert(model, tmp_path / "m", encoding="float32", feeds=feeds)
        got = coreml.run(tmp_path / "m", feeds)
        assert got["s"].shape == ()
        assert got["s"] == 15
        assert np.array_equal(got["same"], feeds["x"])
        assert got["fixed"].tolist() == [4, 9]

    def test_shape_subgraphs_and_constant_branches_are_folded(self, tmp_path: Path) -> None:
        def branch(name: str, kind: str) -> Any:
            return helper.make_graph([helper.make_node(kind, ["r"], [name])], name, [], [info(name, "N", 6)])

        nodes = [
            helper.make_node("Shape", ["x"], ["s"]),
            helper.make_node("Gather", ["s", "zero"], ["n"]),
            helper.make_node("Concat", ["n", "rest"], ["to"], axis=0),
            helper.make_node("Reshape", ["x", "to"], ["r"]),
            helper.make_node("If", ["yes"], ["y"], then_branch=branch("t", "Neg"), else_branch=branch("e", "Exp")),
        ]
        model = made(
            nodes, [info("x", "N", 2, 3)], [info("y", "N", 6)],
            zero=np.array([0]), rest=np.array([-1]), yes=np.array(True),
        )  # fmt: skip
        feeds = {"x": np.arange(12, dtype=np.float32).reshape(2, 2, 3)}
        coreml.convert(model, tmp_path / "m", encoding="float32", feeds=feeds)
        assert np.array_equal(coreml.run(tmp_path / "m", feeds)["y"], -feeds["x"].reshape(2, 6))
        kinds = {o.kind for o in decode(read_package(tmp_path / "m")).operations} - {"const"}
        assert not kinds & {"shape", "gather", "concat"}


class TestUnsupported:
    def test_all_of_them_are_named_before_any_work(self, tmp_path: Path) -> None:
        nodes = [
            helper.make_node("Relu", ["x"], ["a"], name="fine"),
            helper.make_node("NonZero", ["a"], ["b"], name="places"),
            helper.make_node("Det", ["a"], ["d"], name="determinant"),
            helper.make_node("MaxPool", ["x"], ["p", "i"], name="pool", kernel_shape=[2, 2]),
            helper.make_node("Det", ["p"], ["q"], name="behind"),
        ]
        outputs = [info(n) for n in ("b", "d", "i", "q")]
        model = made(nodes, [info("x", 1, 1, 4, 4)], outputs)
        problems = coreml.unsupported(model)
        assert [p.split(":")[0] for p in problems] == [
            "node 'places' (NonZero)",
            "node 'determinant' (Det)",
            "node 'pool' (MaxPool)",
            "node 'behind' (Det)",
        ]
        assert "Indices" in problems[2]
        with pytest.raises(InputError, match=r"4 nodes cannot be converted: node 'places' \(NonZero\)"):
            coreml.convert(model, tmp_path / "m")
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("node", "shape", "constants", "why"),
        [
            (helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[2, 2], dilations=[2, 2]), (1, 1, 8, 8), {}, "dilated windows"),
            (helper.make_node("Reshape", ["x", "c"], ["y"]), (1, 64), {"c": np.array([1, 2, 2, 2, 2, 4])}, "6 axes"),
            (helper.make_node("Slice", ["x", "c", "c"], ["y"]), (4, 4), {"c": np.array([1, 1])}, "empty array"),
            (helper.make_node("Cast", ["x"], ["y"], to=TensorProto.UINT8), (2,), {}, "to UINT8"),
            (helper.make_node("Einsum", ["x"], ["y"], equation="ii->i"), (3, 3), {}, "a diagonal"),
            (helper.make_node("Reshape", ["x", "c"], ["y"]), (3, 4), {"c": np.array([32, -1])}, "was the batch axis written into the shape"),
            (helper.make_node("GatherND", ["c", "x"], ["y"]), (2, 2), {"c": np.ones((2, 2), np.float32)}, "coremltools refuses it"),
            (helper.make_node("Strange", ["x"], ["y"], domain="acme"), (2,), {}, "domain 'acme'"),
        ],
        ids=lambda v: v.op_type if hasattr(v, "op_type") else None,
    )  # fmt: skip
    def test_why(self, node: Any, shape: tuple[int, ...], constants: dict[str, np.ndarray], why: str) -> None:
        (problem,) = coreml.unsupported(made([node], [info("x", *shape)], [info("y")], **constants))
        assert why in problem

    def test_integers_beyond_32_bits(self) -> None:
        model = made(
            [helper.make_node("Add", ["x", "c"], ["y"])],
            [info("x", 2, kind=TensorProto.INT64)], [info("y", 2, kind=TensorProto.INT64)], c=np.array(2**40),
        )  # fmt: skip
        (problem,) = coreml.unsupported(model)
        assert "1099511627776 is beyond 32 bits" in problem

    def test_inputs_that_core_ml_has_not(self) -> None:
        model = made(
            [helper.make_node("Identity", ["x"], ["y"])],
            [info("x", 2, kind=TensorProto.STRING)],
            [info("y", 2, kind=TensorProto.STRING)],
        )
        with pytest.raises(InputError, match="Core ML's arrays hold numbers"):
            coreml.unsupported(model)
        model = made(
            [helper.make_node("Identity", ["x"], ["y"])], [info("x", 1, 1, 1, 1, 1, 2)], [info("y", 1, 1, 1, 1, 1, 2)]
        )
        with pytest.raises(InputError, match="6 axes"):
            coreml.unsupported(model)


class TestWeightCheck:
    def test_halves_of_the_scale_are_allowed_for(self) -> None:
        class Operation:
            attributes = {"scale": np.float16([0.1]), "axis": np.int32(0)}  # noqa: RUF012

        old = np.array([[0.149, -0.25]])
        write._check_weight("w", old, np.array([[0.1, -0.3]]), Operation, "int8-weights")
        with pytest.raises(InputError, match="weight 'w': unpacked values are off"):
            write._check_weight("w", old, np.array([[0.2, -0.3]]), Operation, "int8-weights")


def test_import_is_quiet_and_lazy() -> None:
    """In a process of its own, as warnings would be errors here."""
    program = (
        "import sys; import edgemodel_compressor.pipeline; import edgemodel_compressor.formats.coreml as c;"
        " assert 'coremltools' not in sys.modules; from edgemodel_compressor.formats.coreml.library import builder;"
        " builder(); assert 'coremltools' in sys.modules; import logging; logging.getLogger('coremltools').warning('heard')"
    )
    paths = [p for p in sys.path if p.rstrip("/").rsplit("/", 1)[-1] in ("api", "oci", "compressor")]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": ":".join(paths)},
    )
    assert done.stdout == ""
    assert done.stderr.strip() == "heard"

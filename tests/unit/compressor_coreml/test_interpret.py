"""The interpreter beside numbers computed by hand or printed in the documentation of MIL, PyTorch and TensorFlow.

Converter and interpreter could share a mistake; these do not go through the converter.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgemodel_api.errors import InputError
from edgemodel_compressor.formats.coreml.interpret import interpreter
from edgemodel_compressor.formats.coreml.mil import IMPLEMENTATIONS, Arguments
from edgemodel_compressor.formats.coreml.program import MilProgram, Operation, TensorType


def compute(kind: str, lists: dict[str, Any] | None = None, **values: Any) -> Any:
    arrays = {k: np.asarray(v, np.float32) if isinstance(v, float) else np.asarray(v) for k, v in values.items()}
    several = {k: tuple(np.asarray(x) for x in v) for k, v in (lists or {}).items()}
    return IMPLEMENTATIONS[kind](Arguments(arrays, several))


def image(*rows: list[float]) -> np.ndarray:
    return np.array([[rows]], np.float32)


SQUARE = image([1, 2, 3], [4, 5, 6], [7, 8, 9])

GOLDEN: list[tuple[str, dict[str, Any], Any]] = [
    # 1·1 + 5·1, …: the main diagonal of each window.
    ("conv", {"x": SQUARE, "weight": image([1, 0], [0, 1]), "pad_type": "valid"}, image([6, 8], [12, 14])),
    # A window that begins one row above the image sees only its own last row.
    ("conv", {"x": SQUARE, "weight": image([1], [10]), "pad_type": "custom", "pad": [1, 0, 0, 0]},
     image([10, 20, 30], [41, 52, 63], [74, 85, 96])),
    ("conv", {"x": SQUARE, "weight": image([1, 1], [1, 1]), "pad_type": "same", "bias": [100.0]},
     image([112, 116, 109], [124, 128, 115], [115, 117, 109])),
    ("conv", {"x": SQUARE, "weight": image([1, 1], [1, 1]), "pad_type": "same_lower"},
     image([1, 3, 5], [5, 12, 16], [11, 24, 28])),
    ("conv", {"x": SQUARE, "weight": image([1, 1], [1, 1]), "dilations": [2, 2], "pad_type": "valid"}, image([20])),
    ("conv", {"x": SQUARE, "weight": image([1]), "strides": [2, 2], "pad_type": "valid"}, image([1, 3], [7, 9])),
    # Each input pixel paints its kernel, overlaps are summed.
    ("conv_transpose", {"x": image([1, 2]), "weight": image([1, 10, 100]), "strides": [1, 2], "pad_type": "valid"},
     image([1, 10, 102, 20, 200])),
    ("conv_transpose", {"x": image([1, 2]), "weight": image([1, 10, 100]), "strides": [1, 2], "pad_type": "custom",
                        "pad": [0, 0, 1, 0], "bias": [0.5]}, image([10.5, 102.5, 20.5, 200.5])),
    ("max_pool", {"x": -SQUARE, "kernel_sizes": [2, 2], "strides": [2, 2], "pad_type": "custom", "pad": [1, 0, 1, 0]},
     image([-1, -2], [-4, -5])),
    ("avg_pool", {"x": SQUARE, "kernel_sizes": [2, 2], "strides": [2, 2], "pad_type": "custom", "pad": [1, 0, 1, 0]},
     image([0.25, 1.25], [2.75, 7])),
    ("avg_pool", {"x": SQUARE, "kernel_sizes": [2, 2], "strides": [2, 2], "pad_type": "custom", "pad": [1, 0, 1, 0],
                  "exclude_padding_from_average": True}, image([1, 2.5], [5.5, 7])),
    ("max_pool", {"x": SQUARE, "kernel_sizes": [2, 2], "strides": [2, 2], "pad_type": "valid", "ceil_mode": True},
     image([5, 6], [8, 9])),
    ("linear", {"x": [[1.0, 2.0]], "weight": [[3.0, 4.0], [5.0, 6.0]], "bias": [0.5, 0.25]}, [[11.5, 17.25]]),
    ("matmul", {"x": [[1.0, 2.0]], "y": [[3.0, 4.0]], "transpose_y": True}, [[11]]),
    ("batch_norm", {"x": image([3.0]), "mean": [1.0], "variance": [4.0], "gamma": [3.0], "beta": [0.5], "epsilon": 0.0},
     image([3.5])),
    ("layer_norm", {"x": [[1.0, 3.0]], "axes": [1], "gamma": [2.0, 2.0], "beta": [1.0, 1.0], "epsilon": 0.0}, [[-1, 3]]),
    ("instance_norm", {"x": image([0.0, 4.0]), "epsilon": 0.0}, image([-1, 1])),
    # 1 / (1 + 3/3 · (1 + 4)) for the first channel, whose neighbour is 2.
    ("local_response_norm", {"x": [[[1.0], [2.0], [0.0]]], "size": 3, "alpha": 3.0, "beta": 1.0, "k": 1.0},
     [[[1 / 6], [2 / 6], [0]]]),
    ("softmax", {"x": [[0.0, np.log(3.0)]], "axis": 1}, [[0.25, 0.75]]),
    ("gelu", {"x": np.float32([1.0])}, [0.8413447]),
    ("gelu", {"x": np.float32([1.0]), "mode": "TANH_APPROXIMATION"}, [0.8411920]),
    ("sigmoid_hard", {"x": [-3.0, 0.0, 1.0, 9.0], "alpha": 0.5, "beta": 0.25}, [0, 0.25, 0.75, 1]),
    ("elu", {"x": [-np.log(2.0), 2.0], "alpha": 3.0}, [-1.5, 2]),
    ("prelu", {"x": [[[-1.0], [-2.0], [3.0]]], "alpha": [0.1, 0.2, 0.3]}, [[[-0.1], [-0.4], [3]]]),
    ("softplus", {"x": [0.0, 100.0]}, [np.log(2), 100]),
    ("thresholded_relu", {"x": [0.9, 1.0, 2.0], "alpha": 1.0}, [0, 1, 2]),
    ("inverse", {"x": [4.0], "epsilon": 1.0}, [0.2]),
    ("rsqrt", {"x": [3.0], "epsilon": 1.0}, [0.5]),
    ("floor_div", {"x": [7, -7], "y": [2, 2]}, [3, -4]),
    ("real_div", {"x": [7.0], "y": [2.0]}, [3.5]),
    ("mod", {"x": [7, -7], "y": [3, 3]}, [1, 2]),
    ("select", {"cond": [True, False], "a": [1, 2], "b": [3, 4]}, [1, 4]),
    ("round", {"x": [0.5, 1.5, 2.4]}, [0, 2, 2]),
    # Of PyTorch's and TensorFlow's documentation.
    ("depth_to_space", {"x": np.arange(1, 5, dtype=np.float32).reshape(1, 4, 1, 1), "block_size": 2}, image([1, 2], [3, 4])),
    ("pixel_shuffle", {"x": np.arange(8, dtype=np.float32).reshape(1, 8, 1, 1), "upscale_factor": 2},
     [[[[0, 1], [2, 3]], [[4, 5], [6, 7]]]]),
    ("depth_to_space", {"x": np.arange(8, dtype=np.float32).reshape(1, 8, 1, 1), "block_size": 2},
     [[[[0, 2], [4, 6]], [[1, 3], [5, 7]]]]),
    ("space_to_depth", {"x": image([1, 2], [3, 4]), "block_size": 2}, [[[[1]], [[2]], [[3]], [[4]]]]),
    ("pixel_unshuffle", {"x": image([1, 2], [3, 4]), "downscale_factor": 2}, [[[[1]], [[2]], [[3]], [[4]]]]),
    ("reshape", {"x": np.zeros((2, 3, 4)), "shape": [0, -1, 2]}, np.zeros((2, 6, 2))),
    ("squeeze", {"x": np.zeros((1, 3, 1)), "axes": [0, 1]}, np.zeros((3, 1))),
    ("slice_by_index", {"x": np.arange(12).reshape(3, 4), "begin": [1, 0], "end": [0, 3], "stride": [1, 2],
                        "end_mask": [True, False], "squeeze_mask": [False, False]}, [[4, 6], [8, 10]]),
    ("slice_by_index", {"x": np.arange(12).reshape(3, 4), "begin": [1, 3], "end": [0, 0], "stride": [1, -2],
                        "begin_mask": [False, False], "end_mask": [True, True], "squeeze_mask": [True, False]}, [7, 5]),
    ("slice_by_size", {"x": np.arange(5), "begin": [1], "size": [-1]}, [1, 2, 3, 4]),
    ("pad", {"x": np.float32([[1, 2, 3]]), "pad": [2, 1], "mode": "reflect"}, [[3, 2, 1, 2, 3, 2]]),
    ("pad", {"x": np.float32([[1, 2]]), "pad": [0, 1, 1, 0], "constant_val": 7.0}, [[7, 1, 2], [7, 7, 7]]),
    ("gather", {"x": [[1, 2], [3, 4]], "indices": [1, -2], "axis": 0}, [[3, 4], [1, 2]]),
    ("gather_along_axis", {"x": [[1, 2], [3, 4]], "indices": [[1, 1], [0, 0]], "axis": 1}, [[2, 2], [3, 3]]),
    ("gather_nd", {"x": [[1, 2], [3, 4]], "indices": [[0, 1], [1, 0]]}, [2, 3]),
    ("scatter", {"data": [[1, 2, 3], [4, 5, 6]], "indices": [1, 0], "updates": [[5, 6, 7], [8, 9, 10]], "axis": 0,
                 "mode": "add"}, [[9, 11, 13], [9, 11, 13]]),
    ("scatter_nd", {"data": [1, 2, 3], "indices": [[2], [0]], "updates": [9, 8], "mode": "update"}, [8, 2, 9]),
    ("one_hot", {"indices": [1, 0], "one_hot_vector_size": 3, "on_value": 5, "off_value": 2}, [[2, 5, 2], [5, 2, 2]]),
    ("cumsum", {"x": [1, 2, 3], "exclusive": True, "reverse": True}, [5, 3, 0]),
    ("band_part", {"x": np.ones((3, 3)), "lower": 0, "upper": 1}, [[1, 1, 0], [0, 1, 1], [0, 0, 1]]),
    ("reduce_log_sum_exp", {"x": [1000.0, 1000.0], "axes": [0]}, 1000 + np.log(2)),
    ("reduce_argmin", {"x": [[3.0, 1.0, 1.0]], "axis": 1, "keep_dims": True}, [[1]]),
    # The grids that the page of resize_bilinear prints for an input [0, 1].
    *(("resize_bilinear", {"x": image([0.0, 1.0]), "target_size_height": 1, "target_size_width": n, "sampling_mode": m},
       image(row))
      for n, m, row in (
          (5, "UNALIGN_CORNERS", [0.0, 0.1, 0.5, 0.9, 1.0]),
          (5, "STRICT_ALIGN_CORNERS", [0.0, 0.25, 0.5, 0.75, 1.0]),
          (5, "DEFAULT", [0.0, 0.4, 0.8, 1.0, 1.0]),
          (5, "OFFSET_CORNERS", [0.1, 0.3, 0.5, 0.7, 0.9]),
          (6, "STRICT_ALIGN_CORNERS", [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
      )),
    ("upsample_nearest_neighbor", {"x": image([1, 2]), "scale_factor_height": 2, "scale_factor_width": 2},
     image([1, 1, 2, 2], [1, 1, 2, 2])),
    # scale · (q - zero_point), a scale for each row.
    ("constexpr_affine_dequantize", {"quantized_data": np.int8([[1, -2], [3, 4]]), "zero_point": np.int8([0, 1]),
                                     "scale": np.float32([0.5, 2]), "axis": 0}, [[0.5, -1], [4, 6]]),
    # The page's example: 2 bits each, i0 in the lowest bits; indices 0, 3, 2, 1, 3.
    ("constexpr_lut_to_dense", {"indices": np.uint8([0b01101100, 0b11]), "lut": np.float32([10, 20, 30, 40]),
                                "shape": np.uint32([5])}, [10, 40, 30, 20, 40]),
    # 6 bits each across bytes: 1, 2, 63, 0.
    ("constexpr_lut_to_dense", {"indices": np.uint8([0b10000001, 0b11110000, 0b00000011]),
                                "lut": np.arange(64, dtype=np.float32), "shape": np.uint32([2, 2])}, [[1, 2], [63, 0]]),
    # The page's example: bits 1 and 2 are set.
    ("constexpr_sparse_to_dense", {"nonzero_data": np.float32([7, 8]), "mask": np.uint8([0b00110]),
                                   "shape": np.uint32([5])}, [0, 7, 8, 0, 0]),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "values", "expected"), GOLDEN, ids=[f"{i}-{g[0]}" for i, g in enumerate(GOLDEN)])
def test_golden(kind: str, values: dict[str, Any], expected: Any) -> None:
    got = compute(kind, **values)
    assert np.shape(got) == np.shape(expected)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_concat_as_documented() -> None:
    first, second = [[1, 2], [3, 4], [5, 6]], [[7, 8], [9, 10], [11, 12]]
    plain = compute("concat", {"values": [first, second]}, axis=0)
    mixed = compute("concat", {"values": [first, second]}, axis=0, interleave=True)
    assert plain.tolist() == [*first, *second]
    assert mixed.tolist() == [[1, 2], [7, 8], [3, 4], [9, 10], [5, 6], [11, 12]]


def test_one_step_of_an_lstm() -> None:
    # Gates i, f, o, g are sigmoid(1), sigmoid(2), sigmoid(3), tanh(4) of biases alone; c = 0.5 before.
    bias = np.float32([1, 2, 3, 4])
    zero = np.zeros((4, 1), np.float32)
    state = {"initial_h": np.zeros((1, 1), "f"), "initial_c": np.full((1, 1), 0.5, "f")}
    _, h, c = compute("lstm", x=np.ones((1, 1, 1), "f"), weight_ih=zero, weight_hh=zero, bias=bias, **state)
    sigmoid = 1 / (1 + np.exp(-np.float64([1, 2, 3])))
    cell = sigmoid[1] * 0.5 + sigmoid[0] * np.tanh(4)
    np.testing.assert_allclose(c, [[cell]], rtol=1e-6)
    np.testing.assert_allclose(h, [[sigmoid[2] * np.tanh(cell)]], rtol=1e-6)


def test_rnn_backwards() -> None:
    one = np.ones((1, 1), np.float32)
    x = np.float32([1, 10, 100]).reshape(3, 1, 1)
    sequence, last = compute(
        "rnn", x=x, initial_h=0 * one, weight_ih=one, weight_hh=one, activation="linear", direction="reverse",
        output_sequence=True,
    )  # fmt: skip
    assert sequence.ravel().tolist() == [111, 110, 100]
    assert last.tolist() == [[111]]


def test_topk_keeps_the_first_of_equals() -> None:
    values, places = compute("topk", x=np.float32([[3, 5, 5, 1]]), k=3, axis=1)
    assert values.tolist() == [[5, 5, 3]]
    assert places.tolist() == [[1, 2, 0]]


def program(kind: str, dtype: Any, *, shape: tuple[int, ...] = (1,)) -> MilProgram:
    x = TensorType("x", np.dtype(dtype), (1,))
    two = Operation("const", {}, (TensorType("two", np.dtype(dtype), ()),), {"val": np.array(2049, dtype)})
    made = Operation(kind, {"x": ("x",), "y": ("two",)}, (TensorType("y", np.dtype(dtype), shape),), {})
    return MilProgram((x,), ("y",), (two, made), "CoreML6", {}, {})


class TestPrograms:
    def test_half_precision_rounds_after_each_operation(self) -> None:
        # 2049 is no half: constants are 2048 already, and 2048 + 1 rounds to 2048 again.
        run = interpreter(program("add", np.float16))
        assert run({"x": np.float16([1])})["y"].tolist() == [2048]
        assert interpreter(program("add", np.float32))({"x": np.float32([1])})["y"].tolist() == [2050]

    def test_a_result_of_another_shape_is_found(self) -> None:
        with pytest.raises(InputError, match=r"shape \[1\], but the program declares \[2\]"):
            interpreter(program("add", np.float32, shape=(2,)))({"x": np.float32([1])})

    def test_unknown_operations_are_named(self) -> None:
        with pytest.raises(InputError, match="does not know crystal_ball"):
            interpreter(program("crystal_ball", np.float32))

    def test_missing_inputs_are_named(self) -> None:
        with pytest.raises(InputError, match="input 'x' is missing"):
            interpreter(program("add", np.float32))({})

    def test_an_index_out_of_range_is_found(self) -> None:
        with pytest.raises(InputError, match="an index of 2…2 into an axis of 2"):
            compute("gather", x=[1, 2], indices=[2], axis=0)

"""Learning: ONNX models as differentiable functions, and what learns by them."""

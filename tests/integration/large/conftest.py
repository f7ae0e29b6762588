"""The small models of tests/unit/compressor_inputs."""

from ...unit.compressor_inputs.conftest import build, session_build  # noqa: F401, TID252

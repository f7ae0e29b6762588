"""The small world of tests/unit/plan, for what takes ten seconds and more in it."""

from ...unit.plan.conftest import make  # noqa: F401, TID252

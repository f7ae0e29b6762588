"""Measuring: quality with intervals, latency, memory, golden cases. Always beside the source, in the same run."""

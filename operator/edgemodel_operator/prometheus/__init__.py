"""Asking Prometheus: the only place of the operator that does."""

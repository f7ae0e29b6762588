"""The `edgemodel` command."""

"""The node agent: fetch, verify, check, switch, serve."""

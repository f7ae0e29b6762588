"""The embedded mode: a directory as API server and registry, local processes as Job and nodes; the plan is the operator's."""

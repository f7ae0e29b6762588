"""Between the plan and a cluster: the only place with a Kubernetes client."""

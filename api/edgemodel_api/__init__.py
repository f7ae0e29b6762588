"""The words of EdgeModel: API objects, conditions, and the contracts between its parts. No I/O."""

GROUP = "edgemodel.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

"""Secrets and claims on a single machine: folders of the same names, so that a cluster's manifest runs here as it is.

A Secret is a folder with a file for each key: `$EDGEMODEL_CREDENTIALS/NAME/KEY`, by default below
`~/.config/edgemodel/credentials`. A claim is a folder, too: `$EDGEMODEL_VOLUMES/CLAIM`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from edgemodel_api.edgemodel import RemoteFile
from edgemodel_api.job import JobSpec

CREDENTIALS_VARIABLE = "EDGEMODEL_CREDENTIALS"
VOLUMES_VARIABLE = "EDGEMODEL_VOLUMES"
CACHE_VARIABLE = "EDGEMODEL_CACHE"
CANDIDATES_VARIABLE = "EDGEMODEL_CANDIDATES"
_WITH_CREDENTIALS = ("https:", "oci:", "s3:")


def secrets_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Where the folders of all Secrets are."""
    if given := environment.get(CREDENTIALS_VARIABLE):
        return Path(given).expanduser().absolute()
    config = environment.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
    return Path(config).absolute() / "edgemodel" / "credentials"


def cache_folder(environment: Mapping[str, str] = os.environ) -> str | None:
    """Where measured candidates are kept: `$EDGEMODEL_CANDIDATES` (`off`: nowhere), else below `$EDGEMODEL_CACHE`, else below
    `~/.cache/edgemodel`.
    """
    if given := environment.get(CANDIDATES_VARIABLE):
        return None if given == "off" else str(Path(given).absolute())
    base = environment.get(CACHE_VARIABLE) or os.path.join(os.path.expanduser("~"), ".cache", "edgemodel")
    return str(Path(base).absolute() / "candidates")


def secret_of(remote: RemoteFile, environment: Mapping[str, str] = os.environ) -> Path | None:
    """Where a file's Secret is, or would be; None: it has none, or needs none."""
    reference = remote.credentials_secret_ref
    if reference is None or not remote.uri.startswith(_WITH_CREDENTIALS):
        return None
    return secrets_folder(environment) / reference.name


def with_secrets(job: JobSpec, environment: Mapping[str, str] = os.environ) -> JobSpec:
    """The Job with the folders that are there. What is missing, the compressor tells."""
    folders = {what: secret_of(remote, environment) for what, remote in job.files.items()}
    volumes = environment.get(VOLUMES_VARIABLE)
    return job.replace(
        credentials={what: str(path) for what, path in folders.items() if path is not None and path.is_dir()},
        volumes_dir=str(Path(volumes).expanduser().absolute()) if volumes else None,
    )

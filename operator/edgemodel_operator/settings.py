"""What the operator was started with: flags, each with an environment variable's value as its default."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

from edgemodel_api.edgenode import OFFLINE_AFTER_SECONDS
from edgemodel_api.errors import InputError
from edgemodel_api.quantities import parse_duration, parse_quantity

Value = TypeVar("Value")
_OUTPUT = re.compile(r"^(oci|oci-layout)://[^\s]+[^/\s]$")


@dataclass(frozen=True)
class JobSettings:
    """How compression Jobs run.

    Attributes:
        image: the compressor's image.
        cpu, memory, disk: requests and limits of the pod (Kubernetes quantities); disk is its work folder.
        deadline: after it Kubernetes ends the Job.
        keep: how long an ended Job stays to be looked at.
        pull_secrets: Secrets for pulling the image, in the EdgeModel's namespace.
        registry_secret: a Secret of type kubernetes.io/dockerconfigjson in the EdgeModel's namespace, for pushing the
            artifact and for `oci` sources; empty: none.
        plain_http: registries (`host:port`) that are spoken to without TLS.
    """

    image: str
    cpu: str = "1"
    memory: str = "2Gi"
    disk: str = "10Gi"
    deadline: timedelta = timedelta(hours=2)
    keep: timedelta = timedelta(days=1)
    pull_secrets: tuple[str, ...] = ()
    registry_secret: str = ""
    plain_http: tuple[str, ...] = ()


@dataclass(frozen=True)
class OperatorSettings:
    """The whole operator.

    Attributes:
        output: where artifacts go; each EdgeModel has a repository of its own below it.
        job: how compression Jobs run.
        namespaces: those whose EdgeModels are served; empty: all.
        workers: passes that may run at the same time.
        request_timeout: seconds that one request to the API server may take.
        resync: seconds between two complete listings (what a watch missed is seen then).
        offline_after: age of a node's last report from which it is offline.
        health_port, metrics_port: 0: not served.
        prometheus_url: where the queries of `spec.rollout.analysis` are asked; empty: nowhere.
        prometheus_token_file: a file with a bearer token for it.
    """

    output: str
    job: JobSettings
    namespaces: tuple[str, ...] = ()
    workers: int = 8
    request_timeout: float = 15.0
    resync: float = 300.0
    offline_after: timedelta = field(default=timedelta(seconds=OFFLINE_AFTER_SECONDS))
    health_port: int = 0
    metrics_port: int = 0
    prometheus_url: str = ""
    prometheus_token_file: str = ""

    def output_of(self, namespace: str, name: str) -> str:
        """The repository of one EdgeModel's artifacts."""
        return f"{self.output}/{namespace}/{name}"


def parser(environment: Mapping[str, str] = os.environ) -> argparse.ArgumentParser:
    """The command line; `--some-flag` takes its default from `EDGEMODEL_SOME_FLAG`."""
    top = argparse.ArgumentParser(prog="edgemodel-operator", description="Compress EdgeModels and roll them out.")

    def add(flag: str, default: str, text: str) -> None:
        variable = f"EDGEMODEL_{flag.upper().replace('-', '_')}"
        shown = f" (default: {default})" if default else ""
        top.add_argument(f"--{flag}", default=environment.get(variable, default), help=f"{text}{shown}; ${variable}")

    add("output", "", "where artifacts go: oci://host/repository")
    add("job-image", "", "image of the compressor")
    add("job-cpu", JobSettings.cpu, "CPU of a compression Job")
    add("job-memory", JobSettings.memory, "memory of a compression Job")
    add("job-disk", JobSettings.disk, "work folder of a compression Job")
    add("job-deadline", "2h", "after it a compression Job is ended")
    add("job-keep", "24h", "how long an ended Job is kept")
    add("job-pull-secrets", "", "Secrets for pulling the image, commas between them")
    add("job-registry-secret", "", "dockerconfigjson Secret in the EdgeModel's namespace, for pushing")
    add("plain-http-registries", "", "registries (host:port) without TLS, commas between them")
    add("namespaces", "", "namespaces whose EdgeModels are served, commas between them; empty: all")
    add("workers", "8", "passes at the same time")
    add("request-timeout", "15s", "time for one request to the API server")
    add("resync", "5m", "time between two complete listings")
    add("offline-after", f"{OFFLINE_AFTER_SECONDS:.0f}s", "age of the last report from which a node is offline")
    add("log-level", "info", "info or debug")
    add("health-port", "0", "port of the liveness endpoint /healthz; 0: none")
    add("metrics-port", "0", "port of Prometheus metrics; 0: none")
    add("prometheus-url", "", "Prometheus that is asked by spec.rollout.analysis, such as http://prometheus:9090")
    add("prometheus-token-file", "", "file with a bearer token for it")
    return top


def settings_of(given: argparse.Namespace) -> OperatorSettings:
    """Settings from the command line.

    Raises:
        InputError: one of them is of no use; says which and what to give.
    """
    if not _OUTPUT.match(given.output):
        raise InputError(f"--output {given.output!r} is no place for artifacts: give oci://host/repository")
    if not given.job_image:
        raise InputError(
            "--job-image is missing: give the compressor's image, such as registry.example.com/compressor:1"
        )
    if given.log_level not in ("info", "debug"):
        raise InputError(f"--log-level {given.log_level!r} is neither info nor debug")
    _checked("job_cpu", given.job_cpu, _cpu)
    _checked("job_memory", given.job_memory, parse_quantity)
    _checked("job_disk", given.job_disk, parse_quantity)
    return OperatorSettings(
        output=given.output,
        job=JobSettings(
            image=given.job_image,
            cpu=given.job_cpu,
            memory=given.job_memory,
            disk=given.job_disk,
            deadline=_checked("job_deadline", given.job_deadline, _time),
            keep=_checked("job_keep", given.job_keep, _time),
            pull_secrets=_listed(given.job_pull_secrets),
            registry_secret=given.job_registry_secret,
            plain_http=_listed(given.plain_http_registries),
        ),
        namespaces=_listed(given.namespaces),
        workers=_checked("workers", given.workers, _count(1, 256)),
        request_timeout=_checked("request_timeout", given.request_timeout, _time).total_seconds(),
        resync=_checked("resync", given.resync, _time).total_seconds(),
        offline_after=_checked("offline_after", given.offline_after, _time),
        health_port=_checked("health_port", given.health_port, _count(0, 65535)),
        metrics_port=_checked("metrics_port", given.metrics_port, _count(0, 65535)),
        prometheus_url=given.prometheus_url,
        prometheus_token_file=given.prometheus_token_file,
    )


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _time(text: str) -> timedelta:
    found = parse_duration(text)
    if found < timedelta(seconds=1):
        raise ValueError("give at least 1s")
    return found


def _cpu(text: str) -> None:
    if not re.fullmatch(r"[0-9]+(\.[0-9]+)?|[0-9]+m", text):
        raise ValueError('write cores, such as "2" or "500m"')


def _count(low: int, high: int) -> Callable[[str], int]:
    def count(text: str) -> int:
        if not text.isdigit() or not low <= int(text) <= high:
            raise ValueError(f"give a whole number from {low} to {high}")
        return int(text)

    return count


def _checked(flag: str, text: str, parse: Callable[[str], Value]) -> Value:
    try:
        return parse(text)
    except ValueError as error:
        raise InputError(f"--{flag.replace('_', '-')} {text!r}: {error}") from None

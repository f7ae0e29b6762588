"""`python -m edgemodel_operator.main --output oci://host/repository --job-image IMAGE …`: the operator."""

from __future__ import annotations

import logging
import os
import sys

import kopf

from edgemodel_api.errors import EXIT_FAILED, EdgeModelError, InputError
from edgemodel_oci.transport import PLAIN_HTTP_VARIABLE

from .handlers import life, watch
from .handlers.app import App
from .k8s.client import Cluster, connect
from .k8s.reconcile import NODE_WRITERS
from .metrics import OperatorMetrics
from .settings import OperatorSettings, parser, settings_of

log = logging.getLogger(__name__)
#: Kopf's registry learns of the handlers by their import.
HANDLERS = (life, watch)


def run(settings: OperatorSettings) -> None:
    """Until SIGTERM or SIGINT.

    Raises:
        InputError: there is no cluster, or a port is taken.
    """
    # The registry client's own way to be told; `deletionPolicy: Delete` needs it.
    os.environ[PLAIN_HTTP_VARIABLE] = ",".join(settings.job.plain_http)
    metrics = OperatorMetrics()
    cluster = Cluster(
        connect(pool=settings.workers + NODE_WRITERS + 4), timeout=settings.request_timeout, told=metrics.requested
    )
    if settings.metrics_port:
        try:
            metrics.serve(settings.metrics_port)
        except OSError as error:
            raise InputError(f"--metrics-port {settings.metrics_port} cannot be used: {error.strerror}") from None
    where = f"namespaces {', '.join(settings.namespaces)}" if settings.namespaces else "all namespaces"
    log.info("serving the EdgeModels of %s; artifacts go to %s", where, settings.output)
    kopf.run(
        standalone=True,
        clusterwide=not settings.namespaces,
        namespaces=settings.namespaces,
        liveness_endpoint=f"http://0.0.0.0:{settings.health_port}/healthz" if settings.health_port else None,
        memo=App(cluster, settings, metrics),
    )


def main(arguments: list[str] | None = None) -> int:
    """The operator; its exit code."""
    given = parser().parse_args(arguments)
    kopf.configure(debug=given.log_level == "debug", log_format=kopf.LogFormat.FULL)
    for chatty in ("kopf", "aiohttp.access", "httpx"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    try:
        run(settings_of(given))
    except EdgeModelError as error:
        print(f"edgemodel-operator: {error.message}", file=sys.stderr)
        return error.exit_code
    except Exception:  # the rim of the process: Kopf has given up; Kubernetes starts us again
        log.exception("the operator ended")
        return EXIT_FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())

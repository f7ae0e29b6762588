"""Targets for Prometheus' `http_sd_configs`: the pods that ask to be scraped by the usual annotations.

Debian's Prometheus is built without discovery in Kubernetes. Standard library only:
discovery.py ADDRESS:PORT SERVER CA CERTIFICATE KEY
"""

from __future__ import annotations

import json
import ssl
import sys
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PREFIX = "prometheus.io/"
COMPONENT = "app.kubernetes.io/component"


def targets(pods: list[dict[str, Any]]) -> list[dict[str, object]]:
    """One group a pod: `prometheus.io/scrape: "true"`, `/port` (it must be there), `/path`, `/scheme`."""
    found: list[dict[str, object]] = []
    for pod in pods:
        meta, status = pod["metadata"], pod.get("status", {})
        notes = {k.removeprefix(PREFIX): v for k, v in meta.get("annotations", {}).items() if k.startswith(PREFIX)}
        if notes.get("scrape") != "true" or not notes.get("port", "").isdigit():
            continue
        if status.get("phase") != "Running" or not status.get("podIP"):
            continue
        labels = {
            "namespace": meta["namespace"],
            "pod": meta["name"],
            "node": pod["spec"]["nodeName"],
            "__metrics_path__": notes.get("path", "/metrics"),
            "__scheme__": notes.get("scheme", "http"),
        }
        if component := meta.get("labels", {}).get(COMPONENT):
            labels["component"] = component
        found.append({"targets": [f"{status['podIP']}:{notes['port']}"], "labels": labels})
    return found


def main() -> None:
    """Serve until killed; an API server that does not answer is a 503, and Prometheus keeps what it had."""
    address, server, ca, certificate, key = sys.argv[1:]
    context = ssl.create_default_context(cafile=ca)
    context.load_cert_chain(certificate, key)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            try:
                with urllib.request.urlopen(f"{server}/api/v1/pods", context=context, timeout=4) as answer:  # noqa: S310 - an https URL of ours
                    body = json.dumps(targets(json.load(answer)["items"])).encode()
            except OSError as error:
                self.send_error(503, str(error))
                return
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_request(self, code: object = "-", size: object = "-") -> None:
            """Not every five seconds."""

    host, _, port = address.rpartition(":")
    ThreadingHTTPServer((host, int(port)), Handler).serve_forever()


if __name__ == "__main__":
    main()

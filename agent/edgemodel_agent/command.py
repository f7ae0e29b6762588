"""The command `run`: its options, and its life until a signal."""

from __future__ import annotations

import argparse
import ipaddress
import logging
import signal
import sys
from pathlib import Path

from edgemodel_api.errors import EXIT_BAD_INPUT, EdgeModelError, InputError
from edgemodel_api.quantities import parse_duration, parse_quantity

from .cluster_objects import Access, ClusterObjects
from .faults import Rehearsal
from .loop import NAME, Agent
from .metrics import AgentMetrics
from .node import Options
from .objects import DirectoryObjects


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="edgemodel-agent", description="Fetch, verify, check, switch and serve models.")
    commands = top.add_subparsers(dest="command", required=True)
    commands.add_parser("standby", help="wait, and serve what --root holds while no agent does", add_help=False)
    run = commands.add_parser("run", help="be a node's agent")
    run.add_argument("--node", required=True, help="name of the EdgeNode")
    run.add_argument("--root", required=True, type=Path, help="folder for models and state, one per agent")
    where = run.add_mutually_exclusive_group(required=True)
    where.add_argument("--objects", type=Path, help="folder with the EdgeNode objects")
    where.add_argument("--cluster", action="store_true", help="the EdgeNode is in the cluster of this pod")
    run.add_argument("--address", default="127.0.0.1", help="IP that clients use (default: %(default)s)")
    run.add_argument("--bind", help="IP that servers listen at (default: a loopback --address, else all addresses)")
    run.add_argument("--label", action="append", default=[], metavar="KEY=VALUE", help="label of the node; repeatable")
    run.add_argument("--interval", type=float, default=0.2, help="seconds between passes (default: %(default)s)")
    run.add_argument(
        "--recheck", default="30s", help="how often what serves is checked; 0s: never (default: %(default)s)"
    )
    run.add_argument("--reserve", default="32Mi", help="disk that downloads leave free (default: %(default)s)")
    run.add_argument("--server-threads", type=int, help="threads of one inference in each model server (default: 1)")
    run.add_argument("--metrics-port", type=int, help="serve Prometheus metrics at this port")
    run.add_argument("--leave-servers", action="store_true", help="on SIGTERM, leave servers to the next agent")
    run.add_argument("--claim", action="store_true", help="take --root over from another agent (implied by --cluster)")
    run.add_argument("--ready-file", type=Path, help="make this file when ready, also to take over")
    run.add_argument("--standby", action="store_true", help="report whether a standby waits on this node")
    run.add_argument("--rehearse", metavar="JSON", help="a fault to rehearse on a game day")
    return top


def labels_of(texts: list[str]) -> dict[str, str]:
    """`["a=b"]` → `{"a": "b"}`.

    Raises:
        InputError: one has no `=`.
    """
    labels = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise InputError(f"--label {text!r} is not KEY=VALUE")
        labels[key] = value
    return labels


def options_of(given: argparse.Namespace) -> Options:
    """Options from the command line.

    Raises:
        InputError: one of them is of no use; says which and what to give.
    """
    if not NAME.match(given.node):
        raise InputError(f"--node {given.node!r} is not a name: use a-z, 0-9, - and .")
    if not 0.01 <= given.interval <= 60:
        raise InputError(f"--interval {given.interval} is not between 0.01 and 60 seconds")
    try:
        address = ipaddress.ip_address(given.address)
        bind = str(ipaddress.ip_address(given.bind)) if given.bind else ""
    except ValueError as error:
        raise InputError(f"--address or --bind: {error}; give an IP address") from None
    every = "::" if address.version == 6 else "0.0.0.0"
    try:
        recheck, reserve = parse_duration(given.recheck).total_seconds(), parse_quantity(given.reserve)
    except ValueError as error:
        raise InputError(f"--recheck or --reserve: {error}") from None
    return Options(
        node=given.node,
        root=given.root.resolve(),
        address=given.address,
        bind=bind or (given.address if address.is_loopback else every),
        interval=given.interval,
        recheck=recheck,
        reserve=reserve,
        server_threads=given.server_threads,
        leave_servers=given.leave_servers,
        claim=given.claim or given.cluster,
        expects_standby=given.standby,
        ready_file=given.ready_file,
        rehearsal=Rehearsal.parse(given.rehearse) if given.rehearse else None,
    )


def main(arguments: list[str]) -> int:
    """Run an agent until SIGTERM or SIGINT; the exit code."""
    given = parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        options = options_of(given)
        metrics = AgentMetrics()
        cluster = ClusterObjects(Access.of_pod(), given.node, metrics=metrics.api) if given.cluster else None
        objects = cluster or DirectoryObjects(given.objects, given.node, metrics=metrics.api)
        agent = Agent(options, objects, labels_of(given.label), metrics)

        def end(_number: int, _frame: object) -> None:
            agent.stopping = True

        signal.signal(signal.SIGTERM, end)
        signal.signal(signal.SIGINT, end)
        agent.run(metrics_port=given.metrics_port)
    except EdgeModelError as error:
        print(f"edgemodel-agent: {error.message}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"edgemodel-agent: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    return 0

"""What a real cluster does, this one does: pods, Services, names, logs, scraping; and machines that break as real ones do."""

from __future__ import annotations

import json
import urllib.parse
import urllib.request

import pytest

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster"), pytest.mark.slow, pytest.mark.timeout(300)]

SERVER = """
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = b'testbed_answer 42\\n'
        self.send_response(200)
        self.send_header('Content-Type', 'text/plain; version=0.0.4')
        self.end_headers()
        self.wfile.write(body)
print('serving', flush=True)
http.server.ThreadingHTTPServer(('', 8000), Handler).serve_forever()
"""
FETCH = "import urllib.request; print(urllib.request.urlopen('{}', timeout=10).read().decode())"
# What an operator in a pod does: ask the API server by the service's name, with its token.
ASK = """
import json, ssl, urllib.error, urllib.request
folder = '/var/run/secrets/kubernetes.io/serviceaccount/'
request = urllib.request.Request('https://kubernetes.default.svc/api/v1/namespaces/kube-system/secrets')
request.add_header('Authorization', 'Bearer ' + open(folder + 'token').read())
try:
    urllib.request.urlopen(request, context=ssl.create_default_context(cafile=folder + 'ca.crt'), timeout=10)
except urllib.error.HTTPError as error:
    print(error.code, json.load(error)['message'])
"""
STORE = """
import pathlib, time
path = pathlib.Path('/store/who')
print('found', path.read_text() if path.exists() else 'nothing')
path.write_text('{}')
time.sleep(100000)
"""


@pytest.fixture(scope="module")
def web(namespace):
    """A server on edge-1, a client on edge-2, and a Service of the first."""
    port = {"prometheus.io/scrape": "true", "prometheus.io/port": "8000", "prometheus.io/path": "/metrics"}
    namespace.pod("web", "edge-1", SERVER, annotations=port)
    namespace.pod("client", "edge-2", SERVER)
    namespace.kubectl("expose", "pod", "web", "--port=80", "--target-port=8000")
    namespace.ready("web", "client")
    return namespace


def test_pods_of_two_nodes_talk_to_each_other(web):
    assert web.python("client", FETCH.format(f"http://{web.address('web')}:8000/")) == "testbed_answer 42"
    assert web.python("web", FETCH.format(f"http://{web.address('client')}:8000/")) == "testbed_answer 42"


@pytest.mark.parametrize("name", ["web", "web.{}", "web.{}.svc.cluster.local"])
def test_a_service_answers_by_name(web, name):
    assert web.python("client", FETCH.format(f"http://{name.format(web.name)}/")) == "testbed_answer 42"


def test_a_name_that_is_not_there_is_none(web):
    program = (
        "import socket\ntry: socket.getaddrinfo('no.such.svc.cluster.local', 80)\nexcept socket.gaierror: print('none')"
    )
    assert web.python("client", program) == "none"


def test_the_api_server_knows_a_pod_by_its_token(web):
    answer = web.python("client", ASK)
    assert answer.startswith("403 ")
    assert f'User "system:serviceaccount:{web.name}:default" cannot list resource "secrets"' in answer


def test_logs(web):
    assert web.kubectl("logs", "web").splitlines()[0] == "serving"


def test_prometheus_scrapes_pods_that_ask_for_it(web, bed, eventually):
    def values(query: str) -> dict[str, str]:
        url = f"http://{bed.settings.PROMETHEUS}/api/v1/query?" + urllib.parse.urlencode({"query": query})
        with urllib.request.urlopen(url, timeout=5) as answer:
            found = json.load(answer)["data"]["result"]
        return {f"{r['metric']['pod']} on {r['metric']['node']}": r["value"][1] for r in found}

    eventually(lambda: values(f'testbed_answer{{namespace="{web.name}"}}'), {"web on edge-1": "42"}, seconds=40)


def test_arm64_pods_run_under_emulation_of_a_cpu_that_exists(namespace):
    program = "import platform; print(platform.machine(), 'asimddp' in open('/proc/cpuinfo').read())"
    namespace.pod(
        "arm", "edge-3", f"import os; {program}; print(os.environ['QEMU_CPU'])", arch="arm64", restart="Never"
    )
    namespace.kubectl("wait", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=150s", "pod/arm")
    assert namespace.kubectl("logs", "arm") == "aarch64 True\nneoverse-n1\n"


def test_a_reboot_kills_everything_but_the_disk_which_is_the_nodes_own(namespace, bed, eventually):
    namespace.pod("store-1", "edge-1", STORE.format("edge-1"), host_path="/var/lib/edgemodel")
    namespace.ready("store-1")
    namespace.pod("store-2", "edge-2", STORE.format("edge-2"), host_path="/var/lib/edgemodel")
    namespace.ready("store-2")
    assert namespace.kubectl("logs", "store-2") == "found nothing\n"  # not what edge-1 wrote
    before = bed.get("node", "edge-2")["status"]["nodeInfo"]["bootID"]
    bed.command("reboot", "edge-2")
    eventually(lambda: bed.get("node", "edge-2")["status"]["nodeInfo"]["bootID"] != before, True)

    def log() -> str:
        try:
            return namespace.kubectl("logs", "store-2")
        except AssertionError:  # between two containers
            return ""

    eventually(log, "found edge-2\n", seconds=120)
    assert namespace.kubectl("logs", "store-1") == "found nothing\n"
    namespace.ready("store-2")


def test_a_cut_node_is_not_ready_and_comes_back(bed, eventually):
    bed.command("cut", "edge-2")
    try:
        eventually(lambda: bed.condition("edge-2", "Ready"), "Unknown", seconds=90)
        assert bed.condition("edge-1", "Ready") == "True"
    finally:
        bed.command("heal", "edge-2")
    eventually(lambda: bed.condition("edge-2", "Ready"), "True", seconds=60)

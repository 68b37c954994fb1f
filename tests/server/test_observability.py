"""Logs, metrics and traces say what an operator needs and nothing of a single device."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
from fastapi.testclient import TestClient
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from prometheus_client.parser import text_string_to_metric_families

from pocketfl_server.api import create_app
from pocketfl_server.observability.metrics import Metrics
from pocketfl_server.observability.middleware import Observed
from pocketfl_server.observability.traces import Traces

from .conftest import AVERAGING, CHECK_IN, ENROLMENT_KEY, OPERATOR_KEY, seal_update

KEY = {"Authorization": f"Bearer {OPERATOR_KEY}"}


def observed(back_end, traces=None) -> TestClient:
    """A client of the application as a gateway serves it."""
    metrics = Metrics(back_end)
    app = create_app(back_end, operator_key=OPERATOR_KEY, end_rounds_every=None, metrics=metrics)
    return TestClient(Observed(app, metrics=metrics, traces=traces))


def one_device_reports(client: TestClient, back_end, plan) -> tuple[str, str]:
    """Enrol, check in, upload over HTTP; returns the device's token and its lease."""
    back_end.create_task("clicks", plan.data, optimizer=AVERAGING)
    back_end.open_round("clicks", seconds=600)
    enrolled = client.post(
        "/v1/devices",
        headers={"Authorization": f"Bearer {ENROLMENT_KEY}"},
        json={"user": "ada-the-canary", "sdk": "1"},
    )
    token = enrolled.json()["token"]
    assignment = back_end.check_in(token, "clicks", 1, CHECK_IN)
    client.get("/v1/notices")
    sealed = seal_update(np.full(5, 0.1), assignment, plan)
    answer = client.put(
        f"/v1/leases/{assignment.lease}/report",
        content=bytes(sealed.data),
        headers={"Content-Type": "application/octet-stream"},
    )
    assert answer.status_code < 300, answer.text
    return token, assignment.lease


def test_metrics_count_by_route_and_name_no_device(back_end, make_plan) -> None:
    """Every label is a template, a task, a state or a status; paths of strangers become one label."""
    client = observed(back_end)
    token, lease = one_device_reports(client, back_end, make_plan())
    client.get("/somewhere/else")
    client.request("BREW", "/v1/notices")
    assert client.get("/metrics").status_code == 401
    answer = client.get("/metrics", headers=KEY)
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    for secret in (token, lease, "ada-the-canary", "somewhere"):
        assert secret not in answer.text
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }
    counted = {
        (dict(labels)["method"], dict(labels)["route"], dict(labels)["status"]): value
        for (name, *labels), value in samples.items()
        if name == "pocketfl_http_requests_total"
    }
    assert counted["PUT", "/v1/leases/{lease}/report", "200"] == 1
    assert counted["GET", "/v1/notices", "200"] == 1
    assert counted["GET", "unrouted", "404"] == 1
    assert counted["GET", "/metrics", "401"] == 1
    assert {method for method, _, _ in counted} <= {"GET", "PUT", "POST", "other"}
    assert samples["pocketfl_devices_enrolled",] == 1
    assert samples["pocketfl_round_reports", ("task", "clicks")] == 1
    assert samples["pocketfl_rounds_total", ("state", "open"), ("task", "clicks")] == 1


def test_gateways_of_one_machine_add_up(tmp_path, monkeypatch) -> None:
    """With a shared folder, whichever gateway is asked answers for all of them."""
    script = (
        "import sys; from unittest.mock import Mock\n"
        "from pocketfl_server.observability.metrics import Metrics\n"
        "m = Metrics(Mock())\n"
        "m.observe(method='GET', route='/v1/notices', status=200, seconds=0.1)\n"
        "from prometheus_client import CollectorRegistry, generate_latest\n"
        "from prometheus_client.multiprocess import MultiProcessCollector\n"
        "r = CollectorRegistry(); MultiProcessCollector(r); print(generate_latest(r).decode())\n"
    )
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    for count in (1, 2):
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert f'route="/v1/notices",status="200"}} {count}.0' in done.stdout


def test_logs_are_json_lines_that_a_program_can_read() -> None:
    """One object a line, a traceback included."""
    script = (
        "import logging\n"
        "from pocketfl_server.observability.logs import configure_logs\n"
        "configure_logs(process='gateway', form='json', level='info')\n"
        "logging.getLogger('pocketfl_server.x').warning('round %d waits', 3)\n"
        "logging.getLogger('urllib3').debug('a token')\n"
        "try: 1 / 0\n"
        "except ZeroDivisionError: logging.getLogger('y').exception('oh')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    first, second = map(json.loads, done.stderr.splitlines())
    assert first["message"] == "round 3 waits"
    assert (first["level"], first["process"]) == ("WARNING", "gateway")
    assert first["logger"] == "pocketfl_server.x"
    assert first["time"][:2] == "20"
    assert "ZeroDivisionError" in second["exc_info"]


class Collector(BaseHTTPRequestHandler):
    """A collector of traces that keeps what it is sent."""

    bodies: list[bytes]

    def do_POST(self) -> None:
        self.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_traces_go_to_a_collector_and_name_no_device(back_end, make_plan) -> None:
    """Real OTLP over HTTP: one span a request, named by its route, without lease, token or address."""
    handler = type("Mine", (Collector,), {"bodies": []})
    with HTTPServer(("127.0.0.1", 0), handler) as collector:
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        traces = Traces(f"http://127.0.0.1:{collector.server_port}/v1/traces")
        client = observed(back_end, traces)
        token, lease = one_device_reports(client, back_end, make_plan())
        traces.close()
        collector.shutdown()
    sent = b"".join(handler.bodies)
    for secret in (token, lease, "ada-the-canary", "testclient"):
        assert secret.encode() not in sent
    names = [
        span.name
        for body in handler.bodies
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    assert "PUT /v1/leases/{lease}/report" in names
    assert "POST /v1/devices" in names

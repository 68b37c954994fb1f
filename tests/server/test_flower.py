"""The same Flower app in a simulation and in a deployment carries the shards' sums from tier to tier.

Flower pins libraries of its own, so it runs in an environment of its own: POCKETFL_FLOWER_ENV names a
virtual environment with ``pocketfl[scale]``, as ``.ci/run`` makes it.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import pytest

from pocketfl.protocol import Assignment, EnrolmentRequest
from pocketfl.transport import HttpTransport
from pocketfl_server.operator_client import OperatorClient

from .conftest import AVERAGING, CHECK_IN, ENROLMENT_KEY, OPERATOR_KEY, seal_update
from .test_shards import start, write_settings

ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ.get("POCKETFL_FLOWER_ENV")
SHARDS = ("north", "south")
DEVICES = 6

pytestmark = [
    pytest.mark.scale,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(ENVIRONMENT is None, reason="POCKETFL_FLOWER_ENV names no environment"),
]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def until_listening(port: int) -> None:
    deadline = time.monotonic() + 90
    while True:
        with closing(socket.socket()) as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert time.monotonic() < deadline
        time.sleep(0.2)


def report(url: str, plan, index: int, *, number: int) -> None:
    with closing(HttpTransport(url)) as device:
        token = device.enrol(ENROLMENT_KEY, EnrolmentRequest(user=f"user-{index}", sdk="1")).token
        answer = device.check_in(token, "clicks", number, CHECK_IN)
        assert isinstance(answer, Assignment)
        assert answer.model_version == number - 1
        device.upload(answer.lease, seal_update(np.full(5, 0.1 * (index + 1)), answer, plan))


@pytest.mark.parametrize("mode", ["simulation", "deployment"])
def test_flower_carries_what_it_cannot_read(mode, tmp_path, make_plan, plan_keys) -> None:
    """Two rounds of one run: every report is in its round's one release, the model moves on everywhere.

    In the deployment a shard is lost in the second round, with its devices' reports, and nothing else.
    """
    privacy = "none" if mode == "simulation" else "gaussian"
    plan = make_plan(privacy=privacy, cohort_floor=2, population=20)
    attestation = "ledger.db-attestation.pub"
    programs = Path(str(ENVIRONMENT)).resolve() / "bin"
    home = tmp_path / "flower"
    home.mkdir()
    environment = {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
    }
    log = (tmp_path / "flower.log").open("w")
    with ExitStack() as stack:
        stack.callback(log.close)

        def flower(*arguments: str) -> subprocess.Popen[bytes]:
            process = subprocess.Popen(
                [str(programs / arguments[0]), *arguments[1:]],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
            stack.callback(process.wait, 60)
            stack.callback(process.terminate)
            return process

        paths = [
            write_settings(
                tmp_path / name, plan_keys, role="shard", peer=tmp_path / "root" / attestation
            )
            for name in SHARDS
        ]
        root = write_settings(tmp_path / "root", plan_keys, role="root", peer=Path("PEERS"))
        peers = ", ".join(f'"{tmp_path / name / attestation}"' for name in SHARDS)
        root.write_text(root.read_text().replace('"PEERS"', peers))
        running = [start(stack, path) for path in (*paths, root)]
        (tmp_path / "shards").mkdir()
        for place, name in zip(running, (*SHARDS, "root"), strict=True):
            folder = tmp_path / ("shards" if name != "root" else "")
            (folder / f"{name}.toml").write_text(
                f'url = "{place.url}"\n'
                f'trusted_url = "{place.trusted_url}"\n'
                f'operator_key_file = "{tmp_path / name / "operator-key"}"\n'
                f'trusted_token_file = "{tmp_path / name / "trusted-token"}"\n'
            )
            with OperatorClient(place.url, OPERATOR_KEY) as operator:
                operator.create_task("clicks", plan.data, optimizer=AVERAGING)
                operator.open_round("clicks", seconds=900)
        for index in range(DEVICES):
            report(running[index % 3].url, plan, index, number=1)
        port = free_port()
        kind = ["--simulation"] if mode == "simulation" else []
        flower(
            *("flower-superlink", "--insecure", "--port", str(port)),
            *("--disable-runtime-dependency-installation", *kind),
        )
        until_listening(port)
        options = ""
        if mode == "simulation":
            options = "options.num-supernodes = 2\noptions.backend.client-resources.num-cpus = 1\n"
        nodes = []
        for name in SHARDS if mode == "deployment" else ():
            own = free_port()
            node = flower(
                *("flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{port}"),
                *("--port", str(own), "--node-config"),
                f'shard="{tmp_path / "shards" / name}.toml"',
            )
            until_listening(own)
            nodes.append(node)
        (home / "config.toml").write_text(
            '[superlink]\ndefault = "here"\n\n[superlink.here]\n'
            f'address = "127.0.0.1:{port}"\ninsecure = true\n{options}'
        )
        where = (
            f'root="{tmp_path / "root.toml"}" shards="{tmp_path / "shards"}" '
            "rounds=2 round-seconds=30.0 timeout=90.0"
        )
        subprocess.run(
            [programs / "flwr", "run", ROOT / "examples/flower", "here", "--run-config", where],
            env=environment,
            check=True,
            timeout=200,
            stdout=log,
            stderr=log,
        )
        places = [stack.enter_context(OperatorClient(place.url, OPERATOR_KEY)) for place in running]
        north, south, whole = places

        def wait_for(condition) -> None:
            deadline = time.monotonic() + 400
            while not condition():
                assert time.monotonic() < deadline, (tmp_path / "flower.log").read_text()[-4000:]
                time.sleep(0.5)

        wait_for(lambda: whole.round("clicks", 1).state == "finished")
        assert whole.round("clicks", 1).new_version == 1
        assert whole.funnel("clicks", 1).accepted == DEVICES
        # The second round opens everywhere, from the first version.
        wait_for(lambda: all(len(place.rounds("clicks")) == 2 for place in places))
        for index in range(DEVICES):
            report(running[index % 3].url, plan, index, number=2)
        lost = mode == "deployment"
        if lost:
            nodes[1].kill()
        wait_for(lambda: whole.round("clicks", 2).state == "finished")
        assert whole.round("clicks", 2).new_version == 2
        assert whole.funnel("clicks", 2).accepted == DEVICES - (2 if lost else 0)
        wait_for(lambda: north.task("clicks").latest_version == 2)
        wait_for(lambda: lost or south.task("clicks").latest_version == 2)
        assert lost is (south.task("clicks").latest_version == 1)
        for place in places:
            for made, ours in zip(whole.models("clicks"), place.models("clicks"), strict=False):
                assert made.parameters_sha256 == ours.parameters_sha256
        spent = [place.privacy("clicks").spent.releases for place in places]
        assert spent == [0, 0, 2]  # noise once for each round, at the root
        if not lost:
            total = 2 * sum(0.1 * (index + 1) for index in range(DEVICES)) / 20
            parameters = whole.model_parameters("clicks", 2)
            np.testing.assert_allclose(parameters, total, atol=0.002)

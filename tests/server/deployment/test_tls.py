"""TLS end to end: certificates of an authority of our own, and each way in which one can be wrong."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from pocketfl.errors import TransportError
from pocketfl.protocol import CheckIn, EnrolmentRequest
from pocketfl.transport import HttpTransport
from pocketfl_server.deployment.settings import read_settings
from pocketfl_server.deployment.supervisor import DeploymentError, Supervisor
from pocketfl_server.local import LocalDeployment
from pocketfl_server.operator_client import OperatorClient
from pocketfl_server.optimizers import OptimizerSpec

from ..conftest import seal_update, serve

NOW = datetime.now(UTC)
DAY = timedelta(days=1)
AVERAGING = OptimizerSpec(kind="sgd", learning_rate=1.0, momentum=0.0)
CHECK_IN = CheckIn(sdk="0.1.0", plan_schemas=(1, 2, 3), runtimes=("onnxruntime",))


@dataclass
class Authority:
    """A certificate authority, and its certificate as a file."""

    folder: Path
    name: str

    def __post_init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(self.subject)
            .issuer_name(self.subject)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - 400 * DAY)
            .not_valid_after(NOW + 400 * DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(
                x509.KeyUsage(False, False, False, False, False, True, True, False, False),
                critical=True,
            )
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), critical=False
            )
            .sign(self.key, hashes.SHA256())
        )
        self.file = self.folder / f"{self.name}.pem"
        self.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str, *, days: int = 30) -> tuple[Path, Path]:
        """A certificate for 127.0.0.1 and its key; with days below 0 it has expired."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(self.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - 90 * DAY)
            .not_valid_after(NOW + days * DAY)
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]),
                critical=False,
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()),
                critical=False,
            )
            .sign(self.key, hashes.SHA256())
        )
        files = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        files[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return files


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """Ours."""
    return Authority(tmp_path, "ours")


def test_a_round_with_certificates_on_both_tiers(
    tmp_path: Path, authority: Authority, make_plan, plan_keys
) -> None:
    """``pocketfl serve`` with TLS: devices, the operator and the back end all verify whom they ask."""
    certificate, key = authority.issue("server")
    path = LocalDeployment(tmp_path, plan_keys=plan_keys).prepare()
    tls = f'tls = {{certificate = "{certificate.name}", key = "{key.name}"}}\n'
    text = path.read_text().replace("port = 0\n", "port = 0\n" + tls)
    text = text.replace("[back_end]\n", f'[back_end]\ntrusted_ca = "{authority.file.name}"\n')
    path.write_text(text)
    supervisor = Supervisor(path, read_settings(path), logs=tmp_path)
    supervisor.start()
    try:
        assert supervisor.url.startswith("https://")
        assert supervisor.trusted_url.startswith("https://")
        operator_key = (tmp_path / "operator-key").read_text()
        enrolment_key = (tmp_path / "enrolment-key").read_text()
        with OperatorClient(supervisor.url, operator_key, ca_file=authority.file) as operator:
            plan = make_plan()
            operator.create_task("clicks", plan.data, optimizer=AVERAGING)
            operator.open_round("clicks", seconds=600)
            for name in ("a", "b"):
                device = HttpTransport(supervisor.url, ca_certs=str(authority.file))
                token = device.enrol(enrolment_key, EnrolmentRequest(user=name, sdk="1")).token
                (notice,) = device.notices().notices
                assert device.plan(notice.plan_sha256) == plan.data
                assignment = device.check_in(token, "clicks", 1, CHECK_IN)
                device.upload(assignment.lease, seal_update(np.full(5, 0.4), assignment, plan))
                device.close()
            assert operator.close_round("clicks", 1).new_version == 1
        with (
            OperatorClient(supervisor.url, operator_key) as stranger,
            pytest.raises(TransportError, match="certificate verify failed"),
        ):
            stranger.tasks()
    finally:
        supervisor.stop()


@pytest.mark.parametrize(
    ("days", "host", "known", "reason"),
    [
        (30, "localhost", True, "Hostname mismatch, certificate is not valid for 'localhost'"),
        (-1, "127.0.0.1", True, "certificate has expired"),
        (30, "127.0.0.1", False, "unable to get local issuer certificate"),
    ],
    ids=["wrong host", "expired", "unknown authority"],
)
def test_a_device_refuses_a_certificate_that_is_wrong(
    tmp_path: Path, authority: Authority, open_back_end, days, host, known, reason
) -> None:
    """It says why, sends nothing, and does not try again."""
    certificate, key = authority.issue("server", days=days)
    trusted = authority if known else Authority(tmp_path, "somebody-else")
    back_end = open_back_end()
    with serve(back_end, ssl_certfile=str(certificate), ssl_keyfile=str(key)) as running:
        port = running.url.rpartition(":")[2]
        device = HttpTransport(f"https://{host}:{port}", ca_certs=str(trusted.file))
        with pytest.raises(TransportError, match=reason) as caught:
            device.notices()
        assert caught.value.code == "tls"
        assert not caught.value.retryable
        device.close()


def test_a_certificate_without_its_key_does_not_start(
    tmp_path: Path, authority: Authority, plan_keys
) -> None:
    """A key that belongs to another certificate is noticed at the start."""
    certificate, _ = authority.issue("one")
    _, key = authority.issue("two")
    path = LocalDeployment(tmp_path, plan_keys=plan_keys).prepare()
    tls = f'tls = {{certificate = "{certificate.name}", key = "{key.name}"}}\n'
    path.write_text(path.read_text().replace("[trusted_tier]\n", "[trusted_tier]\n" + tls))
    supervisor = Supervisor(path, read_settings(path), logs=tmp_path)
    with pytest.raises(DeploymentError, match=r"(?i)key values mismatch"):
        supervisor.start()
    assert supervisor.processes == {}

"""The trusted tier vouches for its keys, and a rolled-back ledger is noticed from outside."""

from __future__ import annotations

import json
import shutil
import socketserver
import sqlite3
import stat
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import jwt
import pytest

from pocketfl.attestation.binding import head_nonce, key_nonce, token_keys_nonce
from pocketfl.attestation.verifier import AttestedAggregator
from pocketfl.credentials.directory import empty_directory, extend
from pocketfl.errors import AggregatorRefusedError
from pocketfl.protocol import AggregatorKey, LedgerHead
from pocketfl_server.trusted.aggregator import Aggregator
from pocketfl_server.trusted.attesters import (
    AttestationError,
    CommandAttester,
    ConfidentialSpaceAttester,
    DevelopmentAttester,
)
from pocketfl_server.trusted.messages import TokenKeyDigest
from pocketfl_server.trusted.refusals import Conflict, TrustedTierUnavailable
from pocketfl_server.trusted.witness import FileWitness, WitnessError


def release_round(tier: Aggregator, sealed_vector, key, number: int) -> None:
    entries = [
        sealed_vector([1, 2, 3], key=key, lease=f"lease-{number}-{device:08d}", round=number)
        for device in range(4)
    ]
    tier.submit("clicks", number, 0, entries)
    tier.release("clicks", number, 0)


def open_tier(folder: Path, plan_keys, **options) -> Aggregator:
    return Aggregator(folder / "ledger.db", plan_keys=plan_keys, **options)


def test_a_device_believes_a_development_token_for_its_policy_only(
    tmp_path, plan_keys, make_plan
) -> None:
    """From attester to device: the key is believed under its plan's policy, and under no other."""
    attester = DevelopmentAttester(tmp_path / "attestation")
    assert stat.S_IMODE((tmp_path / "attestation").stat().st_mode) == 0o600
    device = AttestedAggregator.development((tmp_path / "attestation.pub").read_text())
    assert "can read reports" in device.evidence
    with open_tier(tmp_path, plan_keys, attester=attester) as tier:
        described = tier.register("clicks", make_plan().data)
        attestation = tier.attest("clicks")
    key = AggregatorKey(
        key_id=described.key_id, public_key=described.public_key, attestation=attestation
    )
    raw = device.verify(key, policy_hash=described.policy_hash, plan_sha256=described.plan_sha256)
    assert raw.hex() == described.public_key
    weaker = make_plan(noise_multiplier=0.9, name="weaker").manifest.policy_hash
    with pytest.raises(AggregatorRefusedError, match="privacy policy"):
        device.verify(key, policy_hash=weaker, plan_sha256=described.plan_sha256)
    # The same key file after a restart is the same attester.
    assert DevelopmentAttester(tmp_path / "attestation").public_key == attester.public_key


def test_each_policy_has_its_own_key(tmp_path, plan_keys, make_plan) -> None:
    """Cohort floor, noise and budget are the policy: another one means another key."""
    with open_tier(tmp_path, plan_keys) as tier:
        keys = {
            tier.register(name, make_plan(name=name, **changes).data).public_key
            for name, changes in {
                "plain": {},
                "floor": {"cohort_floor": 1},
                "noise": {"noise_multiplier": 2.0},
                "budget": {"epsilon": 60.0},
            }.items()
        }
        assert len(keys) == 4
        assert tier.attest("plain") is None


def test_tokens_carry_the_newest_head(tmp_path, plan_keys, make_plan, sealed_vector) -> None:
    """After a release a token vouches for a ledger that is one longer."""
    attester = DevelopmentAttester(tmp_path / "attestation")
    with open_tier(tmp_path, plan_keys, attester=attester) as tier:
        key = tier.register("clicks", make_plan().data)
        heads = []
        for number in (1, 2):
            release_round(tier, sealed_vector, key, number)
            attestation = tier.attest("clicks")
            raw = bytes.fromhex(key.public_key)
            claims = jwt.decode(attestation.token, options={"verify_signature": False})
            expected = [key_nonce(raw, key.policy_hash), head_nonce(raw, attestation.head)]
            assert claims["eat_nonce"] == expected
            heads.append(attestation.head)
    assert [head.sequence for head in heads] == [1, 2]
    with open_tier(tmp_path, plan_keys, attester=attester) as tier:
        assert tier.attest("clicks").head == heads[-1]


def test_a_rolled_back_ledger_is_refused_by_its_witness(
    tmp_path, plan_keys, make_plan, sealed_vector
) -> None:
    """An old copy of the ledger does not start beside a witness that saw more; the newest does."""
    witness = FileWitness(tmp_path / "witness.log")
    with open_tier(tmp_path, plan_keys, witness=witness) as tier:
        key = tier.register("clicks", make_plan().data)
        release_round(tier, sealed_vector, key, 1)
    shutil.copy(tmp_path / "ledger.db", tmp_path / "old.db")
    with open_tier(tmp_path, plan_keys, witness=witness) as tier:
        release_round(tier, sealed_vector, key, 2)
    shutil.copy(tmp_path / "ledger.db", tmp_path / "newest.db")
    shutil.copy(tmp_path / "old.db", tmp_path / "ledger.db")
    with pytest.raises(WitnessError, match="rolled back"):
        open_tier(tmp_path, plan_keys, witness=witness)
    # Without the witness it would start, and could spend the same budget again, with another history.
    with open_tier(tmp_path, plan_keys) as tier:
        release_round(tier, sealed_vector, key, 2)
    with pytest.raises(WitnessError, match="rolled back or replaced"):
        open_tier(tmp_path, plan_keys, witness=witness)
    shutil.copy(tmp_path / "newest.db", tmp_path / "ledger.db")
    with open_tier(tmp_path, plan_keys, witness=witness):
        pass
    assert [head.sequence for head in witness.heads()] == [0, 1, 2]


def test_no_release_is_handed_over_before_its_witness_knows(
    tmp_path, plan_keys, make_plan, sealed_vector
) -> None:
    """While the witness fails the release is kept back, charged once; then the same bytes come out."""
    witness = FileWitness(tmp_path / "witness.log")
    with open_tier(tmp_path, plan_keys, witness=witness) as tier:
        key = tier.register("clicks", make_plan().data)
        log = tmp_path / "witness.log"
        log.rename(tmp_path / "aside.log")
        log.mkdir()
        with pytest.raises(TrustedTierUnavailable, match="kept back"):
            release_round(tier, sealed_vector, key, 1)
        with pytest.raises(TrustedTierUnavailable, match="kept back"):
            tier.release("clicks", 1, 0)
        log.rmdir()
        (tmp_path / "aside.log").rename(log)
        first = tier.release("clicks", 1, 0)
        assert (first.values == tier.release("clicks", 1, 0).values).all()
        assert tier.describe("clicks").spent.releases == 1
        assert witness.newest().sequence == 1


def test_the_directory_of_token_keys_only_grows(tmp_path, plan_keys, make_plan) -> None:
    """One key for each epoch, in the order of rounds; a token and the witness's log have its head."""
    attester = DevelopmentAttester(tmp_path / "attestation")
    witness = FileWitness(tmp_path / "witness.log")
    keys = [
        TokenKeyDigest(first_round=n, last_round=n + 1, sha256=f"{n:064x}") for n in (1, 3, 5, 7)
    ]
    with open_tier(tmp_path, plan_keys, attester=attester, witness=witness) as tier:
        raw = bytes.fromhex(tier.register("clicks", make_plan().data).public_key)
        first = tier.publish_token_keys("clicks", keys[:2])
        assert first.start == empty_directory("clicks")
    shutil.copy(tmp_path / "ledger.db", tmp_path / "old.db")
    with open_tier(tmp_path, plan_keys, attester=attester, witness=witness) as tier:
        published = tier.publish_token_keys("clicks", keys[1:])
        head = published.start
        for key in keys[1:]:
            head = extend(
                head,
                first_round=key.first_round,
                last_round=key.last_round,
                key_sha256=key.sha256,
            )
        claims = jwt.decode(published.attestation.token, options={"verify_signature": False})
        assert claims["eat_nonce"][2] == token_keys_nonce(raw, head)
        other = {
            "another key": replace(keys[2], sha256="f" * 64),
            "another span": replace(keys[2], last_round=7),
            "overlapping": replace(keys[3], first_round=8, last_round=9),
            "before the last": TokenKeyDigest(first_round=6, last_round=6, sha256="f" * 64),
        }
        for what, wrong in other.items():
            with pytest.raises(Conflict) as refused:
                tier.publish_token_keys("clicks", [wrong])
            assert refused.value.code == "token_keys_conflict", what
        with pytest.raises(Conflict):
            tier.publish_token_keys("clicks", [keys[0], keys[2]])
        log = "token keys of clicks"
        assert [seen.sequence for seen in witness.heads(log=log)] == [2, 4]
        assert witness.newest(log=log) == head
        assert witness.newest() == tier.attest("clicks").head
    with open_tier(tmp_path, plan_keys, attester=attester, witness=witness) as tier:
        assert tier.publish_token_keys("clicks", keys).start == empty_directory("clicks")
    # A tier that forgot which keys it vouched for could vouch for others.
    shutil.copy(tmp_path / "old.db", tmp_path / "ledger.db")
    with pytest.raises(WitnessError, match="rolled back"):
        open_tier(tmp_path, plan_keys, witness=witness)


@pytest.mark.parametrize("damage", ["flip", "cut", "drop", "swap"])
def test_a_damaged_witness_is_noticed(tmp_path, damage) -> None:
    """Changing, cutting, dropping or moving any line but the last breaks the chain."""
    witness = FileWitness(tmp_path / "witness.log")
    for sequence in range(4):
        witness.append(LedgerHead(sequence=sequence, digest=f"{sequence:064x}"))
    lines = witness.path.read_bytes().splitlines(keepends=True)
    if damage == "flip":
        lines[1] = lines[1].replace(b"1", b"7", 1)
    elif damage == "cut":
        lines[-1] = lines[-1][:-1]
    elif damage == "drop":
        del lines[1]
    else:
        lines[1], lines[2] = lines[2], lines[1]
    witness.path.write_bytes(b"".join(lines))
    with pytest.raises(WitnessError, match="damaged in line"):
        witness.newest()
    with pytest.raises(WitnessError, match="damaged in line"):
        witness.append(LedgerHead(sequence=9, digest="9" * 64))


def test_a_witness_only_appends(tmp_path) -> None:
    """It takes newer heads and the last one again, and nothing else."""
    witness = FileWitness(tmp_path / "witness.log")
    witness.append(LedgerHead(sequence=4, digest="4" * 64))
    witness.append(LedgerHead(sequence=4, digest="4" * 64))
    for sequence, digest in ((3, "3"), (4, "5")):
        with pytest.raises(WitnessError, match="rolled back"):
            witness.append(LedgerHead(sequence=sequence, digest=digest * 64))
    assert len(witness.heads()) == 1


def test_a_ledger_of_version_1_gets_its_chain(
    tmp_path, plan_keys, make_plan, sealed_vector
) -> None:
    """Releases made before there was a chain are in it after the upgrade, as if it had been there."""
    with open_tier(tmp_path, plan_keys) as tier:
        key = tier.register("clicks", make_plan().data)
        for number in (1, 2):
            release_round(tier, sealed_vector, key, number)
    connection = sqlite3.connect(tmp_path / "ledger.db")
    chain = connection.execute("SELECT * FROM chain").fetchall()
    connection.executescript(
        "DROP TABLE chain; DROP TABLE budget_tasks; DROP TABLE budgets; DROP TABLE tree_noise; "
        "DROP TABLE counted; DROP TABLE token_keys; ALTER TABLE reports DROP COLUMN origin_round; "
        "ALTER TABLE reports DROP COLUMN origin_version; PRAGMA user_version=1;"
    )
    connection.close()
    with open_tier(tmp_path, plan_keys):
        pass
    connection = sqlite3.connect(tmp_path / "ledger.db")
    assert connection.execute("SELECT * FROM chain").fetchall() == chain
    connection.close()


@pytest.fixture
def launcher(tmp_path):
    """What a Confidential Space launcher answers, on a real socket; it records what it is asked."""
    asked: list[dict] = []
    answer = {"status": 200, "body": b"a.b.c"}

    class Handler(BaseHTTPRequestHandler):
        def address_string(self):
            return "socket"

        def log_message(self, *arguments):
            pass

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            asked.append({"path": self.path, **json.loads(body)})
            self.send_response(answer["status"])
            self.send_header("Content-Length", str(len(answer["body"])))
            self.end_headers()
            self.wfile.write(answer["body"])

    path = tmp_path / "tee.sock"
    with socketserver.ThreadingUnixStreamServer(str(path), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield path, asked, answer
        server.shutdown()


def test_confidential_space_is_asked_as_its_launcher_expects(launcher) -> None:
    """Audience, kind and nonces go to the launcher's socket; what it answers is the token."""
    path, asked, answer = launcher
    attester = ConfidentialSpaceAttester(path=path)
    assert attester.token(["1" * 64, "2" * 64]) == "a.b.c"
    assert asked == [
        {
            "path": "/v1/token",
            "audience": "pocketfl-devices",
            "token_type": "PKI",
            "nonces": ["1" * 64, "2" * 64],
        }
    ]
    answer["status"] = 500
    with pytest.raises(AttestationError, match="status 500"):
        attester.token(["1" * 64])
    answer.update(status=200, body=b"a" * 40_000)
    with pytest.raises(AttestationError, match="characters"):
        attester.token(["1" * 64])
    with pytest.raises(AttestationError, match="does not answer"):
        ConfidentialSpaceAttester(path=f"{path}-absent").token(["1" * 64])


def test_a_program_can_bring_the_token() -> None:
    """The nonces are its arguments, its output the token; a failure says what it said."""
    script = "import sys; print('.'.join(['t', *sys.argv[1:]]))"
    attester = CommandAttester([sys.executable, "-c", script])
    assert attester.token(["n1", "n2"]) == "t.n1.n2"
    failing = CommandAttester([sys.executable, "-c", "raise SystemExit('no quote here')"])
    with pytest.raises(AttestationError, match="no quote here"):
        failing.token(["n1"])
    with pytest.raises(AttestationError, match="gave no token"):
        CommandAttester(["/nonexistent/attest"]).token(["n1"])


def test_a_token_that_is_none_keeps_devices_away(tmp_path, plan_keys, make_plan) -> None:
    """A service that answers nonsense makes the trusted tier unavailable, not unattested."""

    class Nonsense:
        def token(self, nonces):
            return "not a token"

    with open_tier(tmp_path, plan_keys, attester=Nonsense()) as tier:
        tier.register("clicks", make_plan().data)
        with pytest.raises(TrustedTierUnavailable, match="no usable token"):
            tier.attest("clicks")

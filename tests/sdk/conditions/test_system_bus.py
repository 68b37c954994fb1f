"""D-Bus, spoken over a real socket with a bus that has the answers of a test."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from jeepney import HeaderFields, Message, MessageFlag, MessageType, new_error, new_method_return
from jeepney.low_level import Parser

from pocketfl.conditions import system_bus
from pocketfl.conditions.system_bus import BusSignals, read_system_bus

NETWORK = ("org.freedesktop.NetworkManager", "Metered")
LOGIN = ("org.freedesktop.login1", "IdleHint")
PROFILE = ("org.freedesktop.UPower.PowerProfiles", "ActiveProfile")
OLD_PROFILE = ("net.hadess.PowerProfiles", "ActiveProfile")

Answers = Mapping[tuple[str, str], tuple[str, object] | None]
"""Signature and value by service and property; None hangs up instead of answering."""

UNKNOWN_SERVICE = "org.freedesktop.DBus.Error.NameHasNoOwner"


class Bus:
    """One client at a time: authentication, ``Hello``, and ``Properties.Get``."""

    def __init__(self, path: Path, answers: Answers) -> None:
        self.flags: list[MessageFlag] = []
        self._answers = answers
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            with client:
                self._talk(client)

    def _talk(self, client: socket.socket) -> None:
        lines = client.makefile("rb", buffering=0)
        assert lines.readline().startswith(b"\0AUTH EXTERNAL ")
        client.sendall(b"OK 0123456789abcdef0123456789abcdef\r\n")
        assert lines.readline() == b"BEGIN\r\n"
        parser, serial = Parser(), 1
        while data := client.recv(4096):
            parser.add_data(data)
            while (message := parser.get_next_message()) is not None:
                reply = self._reply(message)
                if reply is None:
                    return
                client.sendall(reply.serialise(serial=serial))
                serial += 1

    def _reply(self, message: Message) -> Message | None:
        assert message.header.message_type is MessageType.method_call
        if message.header.fields[HeaderFields.member] == "Hello":
            return new_method_return(message, "s", (":1.1",))
        self.flags.append(message.header.flags)
        service = message.header.fields[HeaderFields.destination]
        interface, name = message.body
        assert interface.startswith(service)
        if (service, name) not in self._answers:
            return new_error(message, UNKNOWN_SERVICE, "s", ("nobody",))
        answer = self._answers[service, name]
        return answer and new_method_return(message, "v", (answer,))


@contextmanager
def running(answers: Answers, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bus]:
    """Run a bus that jeepney takes for the system's."""
    path = folder / "bus"
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={path}")
    bus = Bus(path, answers)
    try:
        yield bus
    finally:
        bus.close()


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({}, BusSignals()),
        ({NETWORK: ("u", 0)}, BusSignals()),
        ({NETWORK: ("u", 1)}, BusSignals(metered=True)),
        ({NETWORK: ("u", 2)}, BusSignals(metered=False)),
        ({NETWORK: ("u", 3)}, BusSignals(metered=True)),
        ({NETWORK: ("u", 4)}, BusSignals(metered=False)),
        ({NETWORK: ("u", 77)}, BusSignals()),
        ({LOGIN: ("b", True)}, BusSignals(idle=True)),
        ({LOGIN: ("b", False)}, BusSignals(idle=False)),
        ({LOGIN: ("s", "yes")}, BusSignals()),
        ({PROFILE: ("s", "power-saver")}, BusSignals(power_save=True)),
        ({OLD_PROFILE: ("s", "balanced")}, BusSignals(power_save=False)),
        (
            {PROFILE: ("s", "balanced"), OLD_PROFILE: ("s", "power-saver")},
            BusSignals(power_save=False),
        ),
        (
            {NETWORK: ("u", 4), LOGIN: ("b", True), PROFILE: ("s", "performance")},
            BusSignals(metered=False, idle=True, power_save=False),
        ),
    ],
)
def test_properties_mean_what_their_services_document(
    answers: Answers, expected: BusSignals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Services that do not run, unknown values and wrong types are unknown; guesses count."""
    with running(answers, tmp_path, monkeypatch):
        assert read_system_bus() == expected


def test_no_service_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every question asks the bus not to start the service."""
    with running({}, tmp_path, monkeypatch) as bus:
        read_system_bus()
    assert len(bus.flags) == 4
    assert all(flags & MessageFlag.no_auto_start for flags in bus.flags)


def test_what_was_read_before_the_bus_died_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bus that hangs up in the middle takes only the later signals away."""
    with running({NETWORK: ("u", 2), LOGIN: None}, tmp_path, monkeypatch):
        assert read_system_bus() == BusSignals(metered=False)


def test_without_a_bus_nothing_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container: no socket, no error."""
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path / 'nobody'}")
    assert read_system_bus() == BusSignals()


def test_a_bus_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket that nobody serves ends in unknown signals, not in a device that waits for ever."""
    monkeypatch.setattr(system_bus, "TIMEOUT", 0.05)
    path = tmp_path / "bus"
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={path}")
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(path))
        silent.listen()
        assert read_system_bus() == BusSignals()

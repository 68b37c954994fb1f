"""An answer leaves in one piece, whatever it is made of, and nothing of it is lost."""

from __future__ import annotations

import asyncio

import pytest

from pocketfl_server.joined_writes import JoinedWrites


class Recorder(asyncio.Transport):
    """Takes note of what would have been sent, and with how many calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:  # type: ignore[override]
        self.calls.append(data)

    def writelines(self, list_of_data) -> None:  # type: ignore[override]
        self.calls.append(b"".join(list_of_data))

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True


def sent(*steps: bytes | str) -> list[bytes]:
    """Write pieces, letting the loop take a turn or closing in between; return the calls."""

    async def play() -> list[bytes]:
        recorder = Recorder()
        joined = JoinedWrites(recorder, asyncio.get_running_loop())
        for step in steps:
            if step == "turn":
                await asyncio.sleep(0)
            elif step == "close":
                joined.close()
            elif step == "gone":
                recorder.closed = True
            else:
                joined.write(step)
        await asyncio.sleep(0)
        return recorder.calls

    return asyncio.run(play())


@pytest.mark.parametrize(
    ("steps", "calls"),
    [
        ((b"head", b"body"), [b"headbody"]),
        ((b"head", b""), [b"head"]),
        ((b"head",), [b"head"]),
        ((b"head", "turn", b"late"), [b"head", b"late"]),
        ((b"head", b"one", b"two", b"three"), [b"headone", b"twothree"]),
        ((b"head", b"body", "close"), [b"headbody"]),
        ((b"head", "close"), [b"head"]),
        ((b"head", "gone"), []),
    ],
    ids=["joined", "empty body", "alone", "late", "parts", "closed", "closed early", "gone"],
)
def test_pieces_are_joined_and_none_is_lost_or_late(steps, calls) -> None:
    """Two pieces of a turn are one call; one alone leaves by the next turn, or at the close."""
    assert sent(*steps) == calls

"""Damages valid bytes in the ways in which parsers break: seeded, so that a finding can be repeated."""

from __future__ import annotations

import random

_TOKENS = (
    b"null",
    b"-1",
    b"1e999",
    b"NaN",
    b"9223372036854775808",
    b'""',
    b"[]",
    b"{}",
    b"\x00",
    b"\xff\xff\xff\xff",
    b"\x00\x00\x00\x80",
    b"\xed\xa0\x80",
    b"[" * 200,
    b'"\\ud800"',
    b"PK\x05\x06",
    b"../../x",
)


def mutate(seed: bytes, generator: random.Random) -> bytes:
    """Return bytes that differ from valid ones by one to four kinds of damage."""
    data = bytearray(seed)
    for _ in range(generator.randint(1, 4)):
        place = generator.randrange(len(data) + 1)
        length = generator.choice((1, 2, 4, 16, 64))
        match generator.randrange(6):
            case 0:
                for _ in range(length):
                    if data:
                        data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
            case 1:
                del data[place:]
            case 2:
                del data[place : place + length]
            case 3:
                data[place:place] = generator.choice(_TOKENS)
            case 4:
                data[place : place + length] = generator.choice(_TOKENS)
            case _:
                data[place:place] = data[place : place + length] * generator.randint(1, 8)
    return bytes(data)

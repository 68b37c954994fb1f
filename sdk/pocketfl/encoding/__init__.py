"""Compact updates: a few bits for each coordinate, after a rotation that makes all of them alike."""

from pocketfl.encoding.rotation import Rotation
from pocketfl.encoding.spec import EncodingSpec

__all__ = ["EncodingSpec", "Rotation"]

"""The 64-bit checksum of a message: XXH3 over its header and over the XXH3 of each of its sections.

Sections are hashed apart because a long message is written bucket by bucket: the pieces of one section follow each
other in order, but between two of them come pieces of other sections. It guards against damage, not against an adversary.
"""

from __future__ import annotations

from enum import IntEnum

from jaxtyping import UInt8
from torch import Tensor
from xxhash import xxh3_64


class Section(IntEnum):
    """The parts of a message behind its header, in order."""

    TABLE = 0
    VALUES = 1
    INDEX = 2
    COUNTS = 3


class Checksum:
    """The hashes of the sections so far."""

    def __init__(self) -> None:
        self._sections = [xxh3_64() for _ in Section]

    def add(self, section: Section, piece: UInt8[Tensor, " bytes"]) -> None:
        """Continue a section by its next piece, which is copied to the CPU where it is elsewhere."""
        if piece.numel():
            self._sections[section].update(piece.cpu().numpy().data)

    def of(self, header: bytes) -> int:
        """The checksum of the message that `header` (without its checksum) opens."""
        digests = (section.digest() for section in self._sections)
        return int(xxh3_64(header + b"".join(digests)).intdigest())

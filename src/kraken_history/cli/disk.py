"""Watches the space on the disk of the data directory while everything runs."""

import shutil
from collections.abc import Callable
from pathlib import Path

FULL_BYTES = 16 * 2**20
"""Free space in bytes below which the disk counts as full: PostgreSQL's next WAL segment of 16 MiB does not fit."""

FREE_BYTES = 4 * FULL_BYTES
"""Free space in bytes from which a full disk counts as free again; more than the limit, so that neither is repeated."""


class Disk:
    """The disk of one folder.

    Attributes:
        is_full: As found by the last :meth:`look`.
    """

    def __init__(
        self, folder: Path, *, free_bytes: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free
    ) -> None:
        self.is_full = False
        self._folder = folder
        self._free_bytes = free_bytes

    def look(self) -> str:
        """Measure; return a line to print if the disk has become full, or free again, otherwise nothing."""
        try:
            free = self._free_bytes(self._folder)
        except OSError:  # for example a network folder that does not answer
            return ""
        if not self.is_full and free < FULL_BYTES:
            self.is_full = True
            return (
                f"the disk of {self._folder} is full ({free / 1e6:.0f} MB free): free some space."
                " Until then trades may not be stored; afterwards everything goes on by itself"
            )
        if self.is_full and free >= FREE_BYTES:
            self.is_full = False
            return f"the disk of {self._folder} has space again ({free / 1e6:,.0f} MB free): going on"
        return ""

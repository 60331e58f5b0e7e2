"""What the embedded log says of itself: which one it is, in which format, and how it goes on once it has stepped back."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING

from millstream.buffer.embedded import rows as stored
from millstream.buffer.embedded.opened import AT_ONCE, OpenLog
from millstream.buffer.embedded.partitions import ends_of, put_ends, topic_of
from millstream.buffer.embedded.rows import Damaged
from millstream.buffer.embedded.writer import Writer
from millstream.buffer.log import Batch, Records
from millstream.errors import LogError

if TYPE_CHECKING:
    import lmdb

_FORMAT, _FORMAT_BEFORE = b"2", b"1"  # before: nothing was sealed, and LMDB itself waited for the disk


class EmbeddedIdentity(OpenLog):
    """A log that can be told from any other, and mended; see the protocols `Identified` and `Mendable`."""

    def identity(self) -> str:
        """Return what tells this log from any other, and its epoch, such as "5f0c1a77e2b94d03@1"."""
        with self._begin() as rows:
            value = rows.get(b"i")
            if value is None:
                raise Damaged("its identity")
            return stored.opened(b"i", value, stored.IDENTITY, "its identity").decode().strip()

    def fingerprint(self, topic: str, partition: int, position: int) -> int | None:
        """Return the checksum of the batch that ends at a position; see `Identified.fingerprint`."""
        with self._begin() as rows:
            number, partitions = topic_of(rows, topic)
            ends = ends_of(rows, topic, number, partitions, partition)
            return stored.check_before(rows, (topic, number, partition), ends, position)

    def rebase(self, topic: str, partition: int, base: int, kept: Sequence[Records]) -> None:
        """Begin a partition anew at a position beyond all that anybody knows, all at once; see `Mendable.rebase`."""
        with self._begin(write=True) as rows:
            number, partitions = topic_of(rows, topic)
            ends_of(rows, topic, number, partitions, partition)
            for kind in (b"r", b"s", b"b"):
                while stored.delete_some(rows, stored.PARTITION_KEY.pack(kind, number, partition), AT_ONCE):
                    pass
            put_ends(rows, number, partition, base, base)
            for key in stored.prefixed(rows, stored.PARTITION_KEY.pack(b"c", number, partition), None):
                rows.put(key, stored.seal(key, stored.POSITION.pack(base)))
            work = Writer(rows, self._clock)
            for some in kept:
                columns = zip(some.payloads, some.encodings, some.counts.tolist(), some.appended.tolist(), strict=True)
                for payload, encoding, count, appended in columns:
                    work.append(topic, partition, Batch(payload, encoding, count), appended)
            work.finish()

    def renew(self, name: str | None = None) -> str:
        """Begin a new epoch, under the name by which the stores know the log, and return the identity."""
        with self._begin(write=True) as rows:
            known, _, epoch = (
                stored.opened(b"i", rows.get(b"i") or b"", stored.IDENTITY, "its identity").decode().partition("@")
            )
            _put_identity(rows, name or known, int(epoch) + 1)
        return self.identity()

    def _check_format(self) -> None:
        with self._begin() as rows:
            found, known = rows.get(b"f"), rows.get(b"i") is not None
            found = None if found is None else bytes(found)
        if found in (None, _FORMAT_BEFORE) or (found == _FORMAT and not known):
            with self._begin(write=True) as rows:
                rows.put(b"f", _FORMAT)
                if rows.get(b"i") is None:
                    _put_identity(rows, secrets.token_hex(8), 1)
        elif found is not None and found != _FORMAT:
            raise LogError(
                f"Log '{self._env.path}' is in format {found.decode(errors='replace')}, not {_FORMAT.decode()}.",
                "open it with the version of Millstream that wrote it.",
            )


def _put_identity(rows: lmdb.Transaction, name: str, epoch: int) -> None:
    rows.put(b"i", stored.seal(b"i", f"{name}@{epoch}".encode().ljust(stored.IDENTITY)))

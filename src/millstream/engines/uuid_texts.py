"""UUIDs that are written as text, as Arrow's own type for them."""

from __future__ import annotations

from binascii import unhexlify

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

#: With the dashes of RFC 9562 or without any, in capitals or not.
WRITTEN = r"(?:[0-9a-fA-F]{32}|[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12})"


def uuids_of_texts(texts: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """Return the UUIDs of texts, and which texts are none, whose values are null.

    >>> found, wrong = uuids_of_texts(pa.array(["00000000-0000-0000-0000-00000000000A", None, "ten"]))
    >>> found.to_pylist()[0].int, wrong.tolist()
    (10, [False, False, True])
    """
    there = np.asarray(texts.is_valid()).astype(bool)
    fine = np.asarray(pc.fill_null(pc.match_substring_regex(texts, f"^{WRITTEN}$"), False)).astype(bool)
    digits = pc.replace_substring(texts.filter(pa.array(fine)), "-", "").to_pylist()
    raw = np.zeros((len(texts), 16), np.uint8)
    raw[fine] = np.frombuffer(unhexlify("".join(digits)), np.uint8).reshape(-1, 16)
    buffers = [pa.py_buffer(np.packbits(fine, bitorder="little")), pa.py_buffer(raw)]
    return pa.Array.from_buffers(pa.binary(16), len(texts), buffers).cast(pa.uuid()), there & ~fine

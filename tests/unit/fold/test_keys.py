"""Entity keys as bytes: one encoding for a single key and for a column."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from uuid import UUID

import pyarrow as pa
import pytest

from millstream.definitions.data_types import arrow_type
from millstream.fold import decode_key, encode_key, encode_keys, shard_of
from millstream.fold.keys import distinct, places_among

TYPES = [
    ({"user_id": "int64"}, [(0,), (-1,), (2**63 - 1,), (-(2**63),), (42,)]),
    ({"device_id": "string"}, [("",), ("a",), ("é\U0001f600",), ("a\0b",)]),
    ({"returning": "bool"}, [(False,), (True,)]),
    ({"a": "bool", "b": "string", "c": "bool"}, [(False, "", True), (True, "\x01", False), (False, "\0", True)]),
    ({"born": "date"}, [(date(1, 1, 1),), (date(1969, 12, 31),), (date(1970, 1, 1),), (date(9999, 12, 31),)]),
    ({"card": "uuid"}, [(UUID(int=0),), (UUID(int=1),), (UUID(int=2**127 - 1),), (UUID(int=2**128 - 1),)]),
    (
        {"price": "decimal(38, 2)"},
        [(Decimal(f"{sign}{'9' * 36}.99"),) for sign in ("-", "")]
        + [
            (Decimal(text),)
            for text in ("0.00", "-0.01", "0.01", "1.10", "-184467440737095516.16", "184467440737095516.16")
        ],
    ),
    ({"a": "decimal(5, 5)", "b": "string"}, [(Decimal("0.00001"), "x"), (Decimal("-0.99999"), "")]),
    ({"hash": "bytes"}, [(b"",), (b"\0",), (b"\0" * 15,), (b"\0" * 16,), (b"\xff" * 17,)]),
    (
        {"a": "bytes", "b": "uuid", "c": "date"},
        [(b"", UUID(int=5), date(2024, 2, 29)), (b"\0" * 20, UUID(int=0), date.min)],
    ),
    ({"a": "bytes", "b": "bytes"}, [(b"a", b""), (b"", b"a"), (b"\0\0\0\1", b""), (b"", b"\0\0\0\1")]),
    ({"carrier": "string", "n": "int64", "dest": "string"}, [("UA", 7, "IAH"), ("", -7, ""), ("U", 7, "AIAH")]),
]


@pytest.mark.parametrize(("types", "keys"), TYPES)
def test_a_column_and_a_single_key_give_the_same_bytes_which_decode_again(types, keys):
    columns = [pa.array([key[i] for key in keys], arrow_type(kind)) for i, kind in enumerate(types.values())]
    encoded = encode_keys(types, columns).to_pylist()
    assert encoded == [encode_key(types, key) for key in keys]
    assert [decode_key(types, key) for key in encoded] == keys
    assert len(set(encoded)) == len(keys)


def test_a_null_in_any_part_makes_the_key_null():
    types = {"a": "int64", "b": "string"}
    assert encode_keys(types, [pa.array([1, None, 1]), pa.array(["x", "y", None])]).is_null().to_pylist() == [
        False,
        True,
        True,
    ]


def test_int64_keys_sort_as_their_bytes_do():
    numbers = [-(2**63), -5, -1, 0, 1, 5, 2**63 - 1]
    encoded = [encode_key({"k": "int64"}, [n]) for n in numbers]
    assert encoded == sorted(encoded)


@pytest.mark.parametrize("types", [one for one, _ in TYPES if len(one) == 1])
def test_a_single_key_of_any_type_sorts_as_its_bytes_do(types):
    keys = next(keys for one, keys in TYPES if one == types)
    encoded = {encode_key(types, key): key[0] for key in keys}
    assert [encoded[one] for one in sorted(encoded)] == sorted(key[0] for key in keys)


def test_shards_are_in_range_and_used():
    shards = [shard_of(encode_key({"k": "int64"}, [n]), 4) for n in range(1000)]
    assert set(shards) == {0, 1, 2, 3}
    assert {shard_of(b"x", 1)} == {0}


@pytest.mark.parametrize("keys", [["abcdefgh", "xyxyxyxy"], ["abcdefgh", "xy", ""], []])
@pytest.mark.parametrize("skipped", [0, 7])
def test_keys_are_told_apart_and_found_whatever_their_length(keys, skipped):
    encoded = encode_keys({"k": "string"}, [pa.array((keys * 30)[::-1], pa.string())]).slice(skipped)
    every = encoded.to_pylist()
    found, places = distinct(encoded)
    assert found == list(dict.fromkeys(every))
    assert [found[place] for place in places] == every
    known = [b"unknown", *found[1:]]
    expected = [known.index(key) if key in known else len(known) for key in every]
    assert places_among(known, encoded).tolist() == expected
    assert places_among([], encoded).tolist() == [0] * len(every)
    assert places_among(found, pa.array([None, *every], pa.binary())).tolist() == [len(found), *places]

"""Sets of bits find the n-th of their numbers as a sorted list does."""

import numpy as np
import pytest

from millstream.fold.bits import first_of, new_set, nth, turn, word_of


@pytest.mark.parametrize("size", [1, 64, 65, 5_000])
def test_the_nth_number_of_a_set_is_that_of_its_sorted_list(size):
    rng = np.random.default_rng(size)
    bits, counts = new_set(size)
    held = set[int]()
    for number in rng.integers(0, size, 300).tolist():
        turn(bits, counts, number, -1 if number in held else 1)
        held ^= {number}
        for n, expected in enumerate(sorted(held)):
            found, after = nth(bits, counts, n)
            word, before = word_of(counts, n)
            assert (found, word) == (expected, expected // 64)
            assert before == sum(other < 64 * word for other in held)
            following = [other for other in sorted(held)[n + 1 :] if other // 64 == word]
            assert [first_of(word, np.uint64(after))] == following[:1] if following else after == 0

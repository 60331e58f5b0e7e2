"""How partitions are shared evenly among workers, moving as few as possible."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

Place = tuple[str, int]


def share(holders: Mapping[Place, bytes | None], members: Mapping[bytes, Collection[str]]) -> dict[Place, bytes]:
    """Say who is to have which partition: those who have one keep it, unless another has at least two fewer.

    Whoever computes it from the same view gets the same.

    Args:
        holders: by topic and partition, who has it now; somebody who is not among the members does not count.
        members: who there is, and of which topics each wants partitions.

    Returns:
        dict: by topic and partition, who is to have it; partitions that nobody wants are left out.

    Example:
        >>> wants = {b"a": ["t"], b"b": ["t"]}
        >>> share({("t", 0): b"a", ("t", 1): b"a", ("t", 2): b"a", ("t", 3): None}, wants)
        {('t', 0): b'a', ('t', 1): b'a', ('t', 2): b'b', ('t', 3): b'b'}
    """
    wanting = {topic: sorted(m for m in members if topic in members[m]) for topic in {topic for topic, _ in holders}}
    loads: Counter[bytes] = Counter()
    shared: dict[Place, bytes] = {}
    orphans = []
    for place in sorted(holders):
        holder = holders[place]
        if holder is not None and holder in wanting[place[0]]:
            shared[place] = holder
            loads[holder] += 1
        elif wanting[place[0]]:
            orphans.append(place)
    for place in orphans:
        least = min(wanting[place[0]], key=lambda member: (loads[member], member))
        shared[place] = least
        loads[least] += 1
    moved = True
    while moved:
        moved = False
        for place in sorted(shared, reverse=True):
            holder = shared[place]
            least = min(wanting[place[0]], key=lambda member: (loads[member], member))
            if loads[holder] >= loads[least] + 2:
                shared[place] = least
                loads[holder] -= 1
                loads[least] += 1
                moved = True
    return dict(sorted(shared.items()))

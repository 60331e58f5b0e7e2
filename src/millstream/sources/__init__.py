"""Where events come from that are not in our log: the protocol of a source, its kinds, and how one is taken in."""

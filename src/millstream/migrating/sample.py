"""placeholder"""


class Sampled: ...


def sample(): ...

"""The whole pipeline in one process, in the hands of a seed."""

"""The embedded log: every topic in one LMDB environment, shared by all processes of a machine."""

"""How the registry's tables came to be what they are: one file for each format, run by Alembic from the first that lacks.

A file that a release has shipped stays as it is: it says what the tables of its time became, not what they are now.
"""

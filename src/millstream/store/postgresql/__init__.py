"""The online store in a PostgreSQL server: the states of all keys in one table."""

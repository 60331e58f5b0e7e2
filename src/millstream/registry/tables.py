"""The registry's tables, in any database SQLAlchemy reaches."""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData()


def _text(length: int) -> sa.String:
    """Text of at most a length, in the same order in every database: a server sorts by its language's rules otherwise."""
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


definitions = sa.Table(
    "registry_definitions",
    metadata,
    sa.Column("thing", _text(32), primary_key=True),
    sa.Column("name", _text(64), primary_key=True),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("version", sa.Integer),  # of a feature group: the version that was last asked for
)
group_versions = sa.Table(
    "registry_group_versions",
    metadata,
    sa.Column("name", _text(64), primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("fingerprint", _text(64), nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("state", _text(16), nullable=False),
    sa.Column("is_default", sa.Boolean, nullable=False),
    sa.Column("shards", sa.Integer, nullable=False),
)
builds = sa.Table(
    "registry_builds",  # a group version without a row here has the one build it began with
    metadata,
    sa.Column("name", _text(64), primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("build", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("state", _text(16), nullable=False),
)
operations = sa.Table(
    "registry_operations",
    metadata,
    sa.Column("kind", _text(16), primary_key=True),
    sa.Column("subject", _text(128), primary_key=True),
    sa.Column("step", sa.Text, nullable=False),
)
view_revisions = sa.Table(
    "registry_view_revisions",
    metadata,
    sa.Column("name", _text(64), primary_key=True),
    sa.Column("revision", _text(16), primary_key=True),
    sa.Column("body", sa.Text, nullable=False),
)
marks = sa.Table(
    "registry_marks",
    metadata,
    sa.Column("mark", _text(128), primary_key=True),
    sa.Column("place", _text(512), primary_key=True),
    sa.Column("number", sa.BigInteger, nullable=False),
)
pins = sa.Table(
    "registry_pins",
    metadata,
    sa.Column("model_version", _text(128), primary_key=True),
    sa.Column("group_name", _text(64), primary_key=True),
    sa.Column("group_version", sa.Integer, primary_key=True),
)
facts = sa.Table(
    "registry_facts",
    metadata,
    sa.Column("name", _text(32), primary_key=True),
    sa.Column("value", sa.Integer, nullable=False),
)
processes = sa.Table(
    "registry_processes",
    metadata,
    sa.Column("process", _text(255), primary_key=True),
    sa.Column("place", sa.Text, nullable=False),
    sa.Column("facts", sa.Text, nullable=False),
    sa.Column("said", sa.DateTime(timezone=True), nullable=False),
)
model_versions = sa.Table(
    "model_versions",
    metadata,
    sa.Column("model", _text(255), primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("digest", _text(64), nullable=False),
    sa.Column("registered", sa.BigInteger, nullable=False),
    sa.Column("record", sa.Text, nullable=False),
)
model_aliases = sa.Table(
    "model_aliases",
    metadata,
    sa.Column("model", _text(255), primary_key=True),
    sa.Column("alias", _text(255), primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
)
model_moves = sa.Table(
    "model_alias_moves",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("model", _text(255), nullable=False),
    sa.Column("alias", _text(255), nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("previous", sa.Integer),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
)


def every() -> list[sa.Table]:
    """All tables that hold what a project has agreed on, in an order in which they can be filled: not which processes run."""
    return [table for table in metadata.sorted_tables if table is not processes]

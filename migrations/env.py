"""Alembic's entry: runs the migrations on the connection that `dicom_node.index.schema` hands over."""

from __future__ import annotations

from alembic import context

from dicom_node.index.tables.whole_schema import WHOLE_SCHEMA

connection = context.config.attributes["connection"]
# batch mode: SQLite alters a table by copying it.
context.configure(connection=connection, target_metadata=WHOLE_SCHEMA, render_as_batch=True, compare_type=True)
with context.begin_transaction():
    context.run_migrations()

"""Run by Alembic: applies the migrations beside this file over the connection that `open_database` holds."""

from alembic import context

from fathom.server.accounts.database import TABLES, VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=TABLES,
    version_table=VERSION_TABLE,  # the app's tables may lie in the same database
    render_as_batch=True,
)
context.run_migrations()

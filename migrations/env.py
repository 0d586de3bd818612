"""Alembic's entry: runs on the connection that `app.migrate` opened."""

from alembic import context

from app.db.tables import Table


def run() -> None:
    connection = context.config.attributes["connection"]
    context.configure(
        connection=connection,
        target_metadata=Table.metadata,
        compare_type=True,
        # SQLite cannot alter most things in place: tables are copied instead.
        render_as_batch=connection.dialect.name == "sqlite",
    )
    with context.begin_transaction():
        context.run_migrations()


run()

"""How the tables came to be: Alembic revisions, applied when a registry is opened."""

HEAD = "0004"

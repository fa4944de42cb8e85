"""The triggers of revision 0001, for each database: they keep ``updated_at`` and ``tracks.object_count``."""

SQLITE_NOW = "(strftime('%Y-%m-%d %H:%M:%f', 'now'))"
KEEPS_UPDATED_AT = {"projects": "project_id", "objects": "object_id", "dataset_definitions": "name"}


def create(dialect: str) -> list[str]:
    """The statements that create them, in ``sqlite`` or ``postgresql``."""
    return _sqlite_triggers() if dialect == "sqlite" else _postgres_triggers()


def drop(dialect: str) -> list[str]:
    """The statements that drop what outlives the tables."""
    if dialect == "sqlite":
        return []
    return ["DROP FUNCTION touch_updated_at", "DROP FUNCTION count_track_objects"]


def _sqlite_triggers() -> list[str]:
    statements = [
        f"""CREATE TRIGGER {table}_updated_at AFTER UPDATE ON {table} FOR EACH ROW
        WHEN NEW.updated_at IS OLD.updated_at
        BEGIN UPDATE {table} SET updated_at = {SQLITE_NOW} WHERE {key} = NEW.{key}; END"""
        for table, key in KEEPS_UPDATED_AT.items()
    ]
    for event, row, change in (("INSERT", "NEW", "+"), ("DELETE", "OLD", "-")):
        statements.append(
            f"""CREATE TRIGGER track_objects_{event.lower()} AFTER {event} ON track_objects FOR EACH ROW
            BEGIN UPDATE tracks SET object_count = object_count {change} 1 WHERE track_id = {row}.track_id; END"""
        )
    statements.append(
        """CREATE TRIGGER track_objects_update AFTER UPDATE OF track_id ON track_objects FOR EACH ROW
        BEGIN
            UPDATE tracks SET object_count = object_count - 1 WHERE track_id = OLD.track_id;
            UPDATE tracks SET object_count = object_count + 1 WHERE track_id = NEW.track_id;
        END"""
    )
    return statements


def _postgres_triggers() -> list[str]:
    statements = [
        """CREATE FUNCTION touch_updated_at() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN NEW.updated_at = timezone('utc', clock_timestamp()); RETURN NEW; END $$"""
    ]
    statements += [
        f"""CREATE TRIGGER {table}_updated_at BEFORE UPDATE ON {table}
        FOR EACH ROW EXECUTE FUNCTION touch_updated_at()"""
        for table in KEEPS_UPDATED_AT
    ]
    statements.append(
        """CREATE FUNCTION count_track_objects() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF TG_OP <> 'INSERT' THEN
                UPDATE tracks SET object_count = object_count - 1 WHERE track_id = OLD.track_id;
            END IF;
            IF TG_OP <> 'DELETE' THEN
                UPDATE tracks SET object_count = object_count + 1 WHERE track_id = NEW.track_id;
            END IF;
            RETURN NULL;
        END $$"""
    )
    statements.append(
        """CREATE TRIGGER track_objects_count AFTER INSERT OR DELETE OR UPDATE OF track_id ON track_objects
        FOR EACH ROW EXECUTE FUNCTION count_track_objects()"""
    )
    return statements

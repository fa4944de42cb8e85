"""What makes work incremental: the state of what datasets may hold, hashes by their bands, an index, counts.

Revision ID: 0004
"""

import json
from collections.abc import Iterator

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

HASH_BITS, BANDS = 256, 8
LISTED_BY = ["project_id", "state", "created_at", "object_id"]


def upgrade() -> None:
    """Add the tables and the index; the state is named when the migration ends."""
    op.create_table(
        "content_state",
        sa.Column("state_id", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("state_id", name="pk_content_state"),
    )
    hashes = op.create_table(
        "perceptual_hashes",
        sa.Column("hash_id", sa.Integer(), nullable=False),
        sa.Column("perceptual_hash", sa.String(), nullable=False),
        sa.Column("group_key", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("hash_id", name="pk_perceptual_hashes"),
    )
    bands = op.create_table(
        "hash_bands",
        sa.Column("band", sa.BigInteger(), nullable=False),
        sa.Column("hash_id", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["hash_id"], ["perceptual_hashes.hash_id"], name="fk_hash_bands_hash_id_perceptual_hashes"
        ),
        sa.PrimaryKeyConstraint("band", "hash_id", name="pk_hash_bands"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_objects_project_id_state_created_at", "objects", LISTED_BY)
    op.drop_index("ix_objects_project_id", "objects")
    op.add_column("datasets", sa.Column("objects_by_split", sa.JSON()))
    if not op.get_context().as_sql:
        _keep_hashes(hashes, bands)
        _count_splits()


def downgrade() -> None:
    """Drop them."""
    op.drop_column("datasets", "objects_by_split")
    op.create_index("ix_objects_project_id", "objects", ["project_id"])
    op.drop_index("ix_objects_project_id_state_created_at", "objects")
    for table in ("hash_bands", "perceptual_hashes", "content_state"):
        op.drop_table(table)


def _keep_hashes(hashes: sa.Table, bands: sa.Table) -> None:
    """Each hash once, with the cluster of its oldest source: the one that a new source near it would have joined."""
    connection = op.get_bind()
    first: dict[str, str] = {}
    rows = connection.execute(
        sa.text(
            "SELECT perceptual_hash, group_key FROM sources WHERE length(perceptual_hash) = :length "
            "ORDER BY created_at, source_id"
        ),
        {"length": HASH_BITS // 4},
    )
    for value, key in rows:
        first.setdefault(value, key)
    if not first:
        return
    kept = list(enumerate(first.items(), start=1))
    connection.execute(
        sa.insert(hashes),
        [{"hash_id": place, "perceptual_hash": value, "group_key": key} for place, (value, key) in kept],
    )
    connection.execute(
        sa.insert(bands),
        [{"band": band, "hash_id": place} for place, (value, _) in kept for band in _bands(value)],
    )


def _count_splits() -> None:
    connection = op.get_bind()
    counts: dict[str, dict[str, int]] = {
        dataset_id: {} for (dataset_id,) in connection.execute(sa.text("SELECT dataset_id FROM datasets"))
    }
    rows = connection.execute(
        sa.text("SELECT dataset_id, split, count(*) FROM dataset_objects GROUP BY dataset_id, split")
    )
    for dataset_id, split, count in rows:
        counts[dataset_id][split] = count
    for dataset_id, by_split in counts.items():
        connection.execute(
            sa.text("UPDATE datasets SET objects_by_split = :counts WHERE dataset_id = :key"),
            {"counts": json.dumps(by_split), "key": dataset_id},
        )


def _bands(value: str) -> Iterator[int]:
    """Every eighth bit, from the highest on, with the place of the band in the bits above 32."""
    bits = f"{int(value, 16):0{HASH_BITS}b}"
    for place in range(BANDS):
        yield place << HASH_BITS // BANDS | int(bits[place::BANDS], 2)

"""Selecting objects and images for a dataset: SQL in DuckDB over the registry, attached read-only."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from sqlalchemy.engine import make_url

from al_dagster.core.errors import UserError
from al_dagster.datasets.definition import DatasetDefinition

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

# Only an image of a batch that was labelled is a background when it has no objects; before, nobody has looked at it.
_SELECT = """
WITH of_categories AS (
    SELECT o.*, c.name AS category
    FROM registry.objects AS o
    JOIN registry.categories AS c ON c.category_id = o.category_id
    WHERE o.project_id = $project AND o.state = 'active' AND list_contains($categories, c.name)
),
chosen AS (
    SELECT o.*, coalesce(f.frame_idx, 0) AS frame_idx
    FROM of_categories AS o
    LEFT JOIN registry.frames AS f ON f.frame_id = o.frame_id
    WHERE ($min_confidence = 0 OR o.confidence >= $min_confidence)
      AND ($is_validated IS NULL OR CAST(o.is_validated AS BOOLEAN) = $is_validated)
),
background AS (
    SELECT DISTINCT b.source_id
    FROM registry.batch_files AS b
    JOIN registry.batches AS l ON l.batch_key = b.batch_key AND l.labelled_at IS NOT NULL
    WHERE $keeps_background AND b.project_id = $project AND b.status = 'ready'
      AND NOT EXISTS (SELECT 1 FROM of_categories AS o WHERE o.source_id = b.source_id)
),
picked AS (
    SELECT source_id, frame_idx, object_id, category, bbox_x, bbox_y, bbox_w, bbox_h,
           CAST(polygon AS VARCHAR) AS polygon, mask_rle AS rle, area, confidence,
           CAST(is_validated AS BOOLEAN) AS is_validated
    FROM chosen
    UNION ALL BY NAME
    SELECT source_id, 0 AS frame_idx FROM background
),
newest AS (
    SELECT file_path, arg_max(source_id, id) AS source_id
    FROM registry.batch_files
    WHERE source_id IS NOT NULL
    GROUP BY file_path
)
SELECT p.source_id, CAST(p.frame_idx AS INTEGER) AS frame_idx, s.file_path, s.sha256, s.perceptual_hash, s.group_key,
       CAST(s.width AS INTEGER) AS width, CAST(s.height AS INTEGER) AS height, CAST(s.metadata AS VARCHAR) AS metadata,
       p.object_id, p.category, p.bbox_x, p.bbox_y, p.bbox_w, p.bbox_h, p.polygon, p.rle, p.area, p.confidence,
       p.is_validated,
       coalesce(n.source_id <> p.source_id, FALSE) AS is_replaced
FROM picked AS p
JOIN registry.sources AS s ON s.source_id = p.source_id AND s.source_type = 'image'
LEFT JOIN newest AS n ON n.file_path = s.file_path
ORDER BY s.created_at, p.source_id, p.frame_idx, p.object_id
"""

_CATEGORIES = """
SELECT DISTINCT c.name
FROM registry.objects AS o
JOIN registry.categories AS c ON c.category_id = o.category_id
WHERE o.project_id = $project AND o.state = 'active'
ORDER BY c.name
"""

_COUNTS = """
WITH active AS (
    SELECT list_contains($categories, c.name) AS of_category,
           ($min_confidence = 0 OR o.confidence >= $min_confidence) AS is_sure,
           ($is_validated IS NULL OR CAST(o.is_validated AS BOOLEAN) = $is_validated) AS is_in_state
    FROM registry.objects AS o
    JOIN registry.categories AS c ON c.category_id = o.category_id
    WHERE o.project_id = $project AND o.state = 'active'
)
SELECT count(*), count(*) FILTER (of_category), count(*) FILTER (of_category AND is_sure),
       count(*) FILTER (of_category AND is_sure AND is_in_state)
FROM active
"""


def select_objects(
    connection: "duckdb.DuckDBPyConnection", definition: DatasetDefinition, classes: Sequence[str]
) -> "pa.Table":
    """The objects that a definition selects, with their images, and the images it keeps as background.

    Args:
        connection: what ``attach`` gave.
        definition: project and filter.
        classes: the classes of the dataset.

    Returns:
        A row an object and a row a background image (its object's columns are null), in the order in which the images
        were registered, then of the object ids. ``polygon`` and ``metadata`` are JSON text; ``is_replaced`` says that
        another image has since been registered from the same path.

    Raises:
        UserError: no object is left; the sentence says what each filter left.
    """
    parameters = _parameters(definition, classes)
    table = connection.execute(
        _SELECT, {**parameters, "keeps_background": definition.keeps_background}
    ).to_arrow_table()
    if table["object_id"].null_count < len(table):
        return table
    counts = connection.execute(_COUNTS, parameters).fetchone() or (0, 0, 0, 0)
    raise UserError(f"dataset {definition.name!r} selects no object: {_describe(definition, counts)}")


def used_categories(connection: "duckdb.DuckDBPyConnection", project: str) -> list[str]:
    """The categories of a project's active objects, by name."""
    return [row[0] for row in connection.execute(_CATEGORIES, {"project": project}).fetchall()]


@contextmanager
def attach(registry_url: str) -> "Iterator[duckdb.DuckDBPyConnection]":
    """A DuckDB connection in which the registry's tables are ``registry.objects`` and so on, read-only.

    Works while another process writes to the registry, and sees what is committed.

    Raises:
        UserError: the registry is not a SQLite file.
    """
    import duckdb

    url = make_url(registry_url)
    if url.get_backend_name() != "sqlite" or not url.database or url.database == ":memory:":
        raise UserError(
            f"the registry {url.render_as_string()} cannot be selected from: datasets need a registry in a SQLite "
            "file; set AL_REGISTRY_URL to sqlite:///PATH"
        )
    with duckdb.connect() as connection:
        connection.execute(f"LOAD {_quoted(_extension('sqlite_scanner'))}")
        connection.execute(f"ATTACH {_quoted(url.database)} AS registry (TYPE sqlite, READ_ONLY)")
        yield connection


def _extension(name: str) -> str:
    """The file of a DuckDB extension that was installed as a wheel: loading it from there needs no download."""
    import duckdb

    return str(files(f"duckdb_extension_{name}") / "extensions" / f"v{duckdb.__version__}" / f"{name}.duckdb_extension")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _parameters(definition: DatasetDefinition, classes: Sequence[str]) -> dict[str, Any]:
    return {
        "project": definition.project,
        "categories": list(classes),
        "min_confidence": definition.filter.min_confidence,
        "is_validated": definition.filter.is_validated,
    }


def _describe(definition: DatasetDefinition, counts: Sequence[int]) -> str:
    active, of_category, sure, in_state = counts
    if not active:
        return f"project {definition.project!r} has no objects yet; label some of its images first"
    steps = [f"project {definition.project!r} has {active} active objects"]
    if definition.filter.categories is not None:
        steps.append(f"{of_category} of them are {' or '.join(definition.filter.categories)}")
    if definition.filter.min_confidence > 0:
        steps.append(f"{sure} of these have a confidence of at least {definition.filter.min_confidence:g}")
    if definition.filter.is_validated is not None:
        steps.append(f"{in_state} of these are {'' if definition.filter.is_validated else 'not '}validated")
    return ", ".join(steps) + "; loosen the filter"

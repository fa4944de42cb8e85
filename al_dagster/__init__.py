"""Auto-labelling on Dagster: photos in; labelled objects, datasets and trained models out."""

"""The stages of a batch, without Dagster: tables in, models called for what is new, tables out."""

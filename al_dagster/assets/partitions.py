"""The partitions of the graph."""

import dagster as dg

batches = dg.DynamicPartitionsDefinition(name="batch")
"""Immutable manifests of at most ``batch_size`` files of one project."""

datasets = dg.DynamicPartitionsDefinition(name="dataset")
"""Named dataset definitions."""

projects = dg.DynamicPartitionsDefinition(name="project")
"""Projects, added when their reviews are first looked at."""

"""Ids, schemas, geometry, settings: what every other room stands on."""

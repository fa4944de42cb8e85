"""Vector stores: ids and vectors in, nearest ids out."""

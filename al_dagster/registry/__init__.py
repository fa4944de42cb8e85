"""The registry: what was found, where it came from and what people said about it, in one SQL database."""

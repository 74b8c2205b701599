"""Codes of a whole catalogue: fitted, made unique, appended to, in shards."""

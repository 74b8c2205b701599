"""Codes of vectors and vectors of codes, for each family of codes."""

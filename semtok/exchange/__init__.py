"""Codes for other projects: their file formats, tokens of language models."""

"""Generators, one readable file a model."""

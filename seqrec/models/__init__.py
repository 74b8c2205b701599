"""Ranking models, one readable file a model."""

"""Ranking all items, metrics of the ranks, and whether two runs differ."""

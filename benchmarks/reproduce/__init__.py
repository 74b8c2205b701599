"""A paper's tables and figures again, by the paper's own protocol; see :mod:`benchmarks.reproduce.__main__`."""

from benchmarks.reproduce.tables import command, known, published_tables, row_of

__all__ = ["command", "known", "published_tables", "row_of"]

"""Named public data sets, fetched from their publishers."""

from __future__ import annotations

PUBLISHED: dict[str, object] = {}

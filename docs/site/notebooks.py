"""Notebooks as pages of the site: text, code and kept outputs, with pictures as files beside them."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["page"]

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def page(path: Path) -> tuple[str, dict[str, bytes]]:
    """Markdown of a notebook, and the pictures that it shows by the names of their files."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for text, picture in _outputs(cell):
            if picture is None:
                parts.append(f"```text\n{text}\n```")
            else:
                name = f"{path.stem}-{len(pictures) + 1}.png"
                pictures[name] = picture
                parts.append(f"![{text}]({name})")
    ran = f"\n\n*The notebook itself: `docs/notebooks/{path.name}`. The test suite runs it.*\n"
    return "\n\n".join(parts) + ran, pictures


def _outputs(cell: dict[str, Any]) -> Iterator[tuple[str, bytes | None]]:
    """Outputs of a cell: text, or a description and a PNG."""
    heading = "".join(cell["source"]).strip().splitlines()[-1]
    for output in cell["outputs"]:
        data = output.get("data", {})
        if "image/png" in data:
            yield f"Picture made by {heading}".replace("[", "(").replace("]", ")"), base64.b64decode(data["image/png"])
            continue
        text = _COLOURS.sub("", "".join(output.get("text", data.get("text/plain", "")))).strip("\n")
        if text.strip():
            yield "\n".join(line.rstrip() for line in text.splitlines()), None

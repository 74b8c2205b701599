"""Draw docs/images/house.svg: what becomes of item content, from table to recommendations.

python docs/site/house.py
"""

from __future__ import annotations

from pathlib import Path

OUT = Path(__file__).parents[1] / "images" / "house.svg"
BOXES = [
    (20, 60, "events", "who, what, when", "#dbe7f3"),
    (20, 150, "items", "texts, images", "#dbe7f3"),
    (210, 105, "vectors", "one a view", "#e6e0f2"),
    (400, 105, "codes", "12 · 7 · 201", "#f6e3cf"),
    (590, 60, "seqrec", "ranks items", "#d8ecdd"),
    (590, 150, "genrec", "generates codes", "#d8ecdd"),
    (780, 105, "answers", "10 best items", "#f3d9dc"),
]
ARROWS = [((1, 2), ""), ((2, 3), "semtok"), ((3, 4), ""), ((3, 5), ""), ((4, 6), ""), ((5, 6), ""), ((0, 4), "")]
WIDTH, HEIGHT = 130, 62


def box(x: int, y: int, name: str, said: str, colour: str) -> str:
    middle = x + WIDTH / 2
    return (
        f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="8" fill="{colour}" stroke="#55606b"/>'
        f'<text x="{middle}" y="{y + 27}" class="name">{name}</text>'
        f'<text x="{middle}" y="{y + 47}" class="said">{said}</text>'
    )


def arrow(first: int, second: int, said: str) -> str:
    (x1, y1), (x2, y2) = BOXES[first][:2], BOXES[second][:2]
    start, end = (x1 + WIDTH, y1 + HEIGHT / 2), (x2 - 3, y2 + HEIGHT / 2)
    if first == 0:  # over the roof of what lies between
        path = f"M{x1 + WIDTH / 2} {y1} C{x1 + WIDTH / 2} 8, {x2 + WIDTH / 2} 8, {x2 + WIDTH / 2} {y2 - 3}"
    else:
        bend = (start[0] + end[0]) / 2
        path = f"M{start[0]} {start[1]} C{bend} {start[1]}, {bend} {end[1]}, {end[0]} {end[1]}"
    label = f'<text x="{(start[0] + end[0]) / 2}" y="{start[1] - 8}" class="said">{said}</text>' if said else ""
    return f'<path d="{path}" fill="none" stroke="#55606b" stroke-width="1.5" marker-end="url(#tip)"/>{label}'


def main() -> None:
    style = (
        "text{font-family:system-ui,sans-serif;text-anchor:middle;fill:#222b33}.name{font-size:17px;font-weight:600}"
    )
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 930 230" role="img">',
        "<title>Item content becomes vectors, vectors become codes, and models rank or generate items</title>",
        f"<style>{style}.name{{font-size:17px;font-weight:600}}.said{{font-size:13px;fill:#4a5560}}</style>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 L8 4 L0 8 z" fill="#55606b"/></marker></defs>',
        '<rect width="930" height="230" rx="10" fill="#ffffff"/>',
        *(arrow(*ends, said) for ends, said in ARROWS),
        *(box(*given) for given in BOXES),
        "</svg>",
    ]
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text("\n".join(parts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

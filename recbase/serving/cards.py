"""The model card of a run: README.md with the YAML front matter of the Hugging Face hub.

Everything in it comes from the run folder. Knows no model.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recbase.store.folder import Folder, write_file
from recbase.store.runs import open_run, read_metrics

__all__ = ["CARD_FILE", "card_text", "write_run_card"]

CARD_FILE = "README.md"
_TAGS = ["recommender-systems", "sequential-recommendation"]
_SHOWN = ("recall@10", "ndcg@10", "mrr@10")


def write_run_card(
    folder: str | os.PathLike[str], family: str, name: str | None = None, licence: str | None = None
) -> Path | None:
    """Write README.md into a run folder.

    Parameters
    ----------
    folder : path
        A run.
    family : {"seqrec", "genrec"}
        Package whose ``load`` opens it.
    name : str, optional
        What people load it by, such as "owner/name"; the folder's name if not given.
    licence : str, optional
        As the hub spells it, such as "apache-2.0". Without one the card says that none is stated.

    Returns
    -------
    Path or None
        The card; None where the run has a README.md of its own (an export), which is left as it is.
    """
    opened = open_run(folder)
    path = Path(folder) / CARD_FILE
    if CARD_FILE in opened:
        return None
    write_file(path, card_text(opened, family, name or Path(folder).resolve().name, licence))
    return path


def card_text(run: Folder, family: str, name: str, licence: str | None = None) -> str:
    """The card as Markdown with YAML front matter; see `write_run_card`."""
    from huggingface_hub import EvalResult, ModelCardData

    manifest = run.manifest
    metrics = read_metrics(run) if "metrics.json" in run else {}
    model, data = str(manifest.get("model", "model")), manifest.get("data") or {}
    of = str(data.get("name", "an unnamed data set"))
    results = [
        EvalResult(
            "sequential-recommendation",
            "recommendation",
            of,
            metric,
            round(float(metrics[policy][metric]), 6),
            metric_name=metric + label,
        )
        for policy, label in (("test", ""), ("test_masked", " (seen items left out)"))
        for metric in _SHOWN
        if metric in (metrics.get(policy) or {})
    ]
    tags = [*_TAGS, *(["generative-retrieval", "semantic-ids"] if family == "genrec" else []), model]
    named: dict[str, Any] = {"license": licence} if licence else {}
    if results:
        named |= {"model_name": name, "eval_results": results}
    front = ModelCardData(library_name="semtok", tags=tags, **named).to_yaml().strip()
    parts = [
        f"---\n{front}\n---",
        f"# {name}\n\n`{model}` ({family}), trained on `{of}`.",
        _use(family, name),
        _training(manifest, metrics),
        _metrics(metrics),
        _codes(metrics, data),
    ]
    if not licence:
        parts.append(
            "## Licence\n\nNone is stated: whoever publishes this model names one (`license: ...` above), minding\n"
            "that of the data it was trained on."
        )
    return "\n\n".join(part for part in parts if part) + "\n"


def _use(family: str, name: str) -> str:
    return (
        "## Use\n\n```python\n"
        f"import {family}\n\nmodel = {family}.load({name!r})\n"
        'model.recommend(histories=[["an item id", "another"]], k=10)\n```\n\n'
        "Item ids and titles are part of the model. Ids that it does not know are skipped with a warning."
    )


def _training(manifest: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    data = manifest.get("data") or {}
    rows = [
        ("users", data.get("users")),
        ("items", data.get("items")),
        ("hash of the data set", data.get("hash")),
        ("split", manifest.get("split")),
        ("recipe", manifest.get("recipe")),
        ("sample form", manifest.get("form")),
        ("epochs made", metrics.get("epochs")),
        ("seed", (manifest.get("training") or {}).get("seed")),
        ("codes from", manifest.get("codes_folder")),
    ]
    versions = ", ".join(f"{name} {version}" for name, version in (manifest.get("versions") or {}).items())
    text = "## Training\n\n" + _table(("", ""), [(what, value) for what, value in rows if value is not None])
    if "final" in manifest:
        text += (
            "\n\nThe weights were trained once more on all events, those of validation and test too; the figures below "
            "are of the model before, which had not seen them."
        )
    return text + (f"\n\nMade with {versions}." if versions else "")


def _metrics(metrics: Mapping[str, Any]) -> str:
    parts = [("test, seen items kept", "test"), ("test, seen items left out", "test_masked"), ("validation", "valid")]
    rows = [
        (what, *(f"{found[name]:.4f}" if name in found else "" for name in _SHOWN))
        for what, key in parts
        if (found := metrics.get(key))
    ]
    if not rows:
        return "## Metrics\n\nThe folder records none."
    protocol = metrics.get("protocol") or {}
    said = ", ".join(f"{key.replace('_', ' ')}: {value}" for key, value in protocol.items() if key != "seen_items")
    return f"## Metrics\n\n{_table(('part', *_SHOWN), rows)}\n\n{said}."


def _codes(metrics: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    shared = metrics.get("colliding_items")
    if shared is None:
        return ""
    if not shared:
        return "## Codes\n\nEvery item has codes of its own."
    items = data.get("items")
    share = f" of {items:,}" if items else ""
    return (
        f"## Codes\n\n{shared:,}{share} items share their codes with another one that stands for both: they are never "
        "recommended."
    )


def _table(heads: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    lines = [heads, tuple("---" for _ in heads), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)

"""The model card of a tokenizer folder: README.md, saying what the codes are of, how good they are, how to use them.

Reads the folder's manifest, report and codes, and writes Markdown with the YAML front matter of the Hugging Face hub.
The licence is left to whoever publishes. Knows nothing of how a method works.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from recbase.store.folder import folder_lock, write_file
from semtok.codecs.schemas import open_tokenizer, read_report
from semtok.codes import MANIFEST, ItemCodes

__all__ = ["CARD_FILE", "card_text", "push_folder", "write_card"]

CARD_FILE = "README.md"
MADE = "<!-- written by semtok; delete this line to keep your own changes -->"
_TAGS = ["semantic-ids", "item-tokenizer", "recommender-systems", "generative-retrieval"]
_LIBRARY = "semtok"


def write_card(folder: str | os.PathLike[str], name: str | None = None) -> Path | None:
    """Write README.md into a tokenizer folder, keeping a licence that the card there already names.

    Parameters
    ----------
    folder : path
        As written by ``ItemTokenizer.save``.
    name : str or None, default None
        What people load it by, such as "owner/name"; the folder's name if None.

    Returns
    -------
    Path or None
        The card; None where README.md is somebody's own (it does not carry our mark), which is left as it is.

    Raises
    ------
    FileNotFoundError
        If it is no tokenizer folder.
    OSError
        If it cannot be written.
    """
    folder = Path(folder)
    with folder_lock(folder, "writing the model card"):
        return _write_card(folder, name)


def _write_card(folder: Path, name: str | None) -> Path | None:
    path = folder / CARD_FILE
    licence: dict[str, Any] = {}
    if path.is_file():
        text = path.read_text(encoding="utf-8")
        if MADE not in text:
            return None
        licence = _licence_of(text)
    opened = open_tokenizer(folder)
    report: dict[str, Any] = {}
    codes = ItemCodes.load(folder) if opened.manifest.get("codes") else None
    if "report.json" in opened:
        report = read_report(opened)
    elif codes is not None:
        from semtok.quality import code_report

        report = code_report(codes)
    write_file(path, card_text(opened.manifest, report, name or folder.resolve().name, licence))
    return path


def push_folder(folder: str | os.PathLike[str], repository: str, private: bool = False) -> str:
    """Upload a tokenizer folder, card included, to the Hugging Face hub.

    Parameters
    ----------
    folder : path
        As written by ``semtok fit`` or ``ItemTokenizer.save``.
    repository : str
        "owner/name"; made if it does not exist.
    private : bool, default False
        Make it private where it is made.

    Returns
    -------
    str
        Address of the commit.

    Raises
    ------
    FileNotFoundError
        If it is no tokenizer folder.
    """
    from huggingface_hub import HfApi

    write_card(folder, repository)
    named = open_tokenizer(folder).files
    hub = HfApi()
    hub.create_repo(repository, private=private, exist_ok=True)
    found = hub.upload_folder(
        repo_id=repository,
        folder_path=str(folder),
        allow_patterns=[MANIFEST, CARD_FILE, *(entry["file"] for entry in named.values())],
        delete_patterns=[f"{Path(name).stem}.{'?' * 12}{Path(name).suffix}" for name in named],  # of earlier versions
        commit_message="Tokenizer",
    )
    return str(found)


def card_text(
    manifest: Mapping[str, Any], report: Mapping[str, Any], name: str, licence: Mapping[str, Any] | None = None
) -> str:
    """The card as Markdown with YAML front matter.

    Parameters
    ----------
    manifest : mapping
        Of the tokenizer folder.
    report : mapping
        As `semtok.quality.code_report` returns it; {} where there are no codes.
    name : str
        What people load it by.
    licence : mapping or None, default None
        Entries ``license``, ``license_name`` and ``license_link`` of the front matter, where the publisher chose some.
    """
    from huggingface_hub import ModelCardData

    method = str(manifest["method"])
    front = ModelCardData(library_name=_LIBRARY, tags=[*_TAGS, method], **dict(licence or {})).to_yaml().strip()
    made_from = manifest.get("made_from") or {}
    data = (made_from.get("dataset") or {}).get("name")
    parts = [
        f"---\n{front}\n---\n{MADE}",
        f"# {name}\n\nSemantic item codes by `{method}`" + (f" of the items of `{data}`." if data else "."),
        _data_section(manifest, made_from),
        _arguments_section(manifest),
        _quality_section(manifest, report),
        _use_section(name, manifest),
    ]
    if not licence:
        parts.append(
            "## Licence\n\nNone is stated: whoever publishes these codes names one in the first lines of this file\n"
            "(`license: ...`), minding that of the data they were made from."
        )
    return "\n\n".join(part for part in parts if part) + "\n"


def _data_section(manifest: Mapping[str, Any], made_from: Mapping[str, Any]) -> str:
    rows: list[tuple[str, Any]] = []
    dataset = made_from.get("dataset") or {}
    if dataset:
        rows += [("data set", dataset.get("name")), ("hash of the data set", dataset.get("hash"))]
    codes = manifest.get("codes") or {}
    if codes:
        rows += [("items", f"{codes['items']:,}")]
    if made_from.get("views"):
        laid = {"views": "each on its own", "joined": "joined into one", "modalities": "texts joined, image apart"}
        how = laid.get(str(made_from.get("arrangement")), "")
        rows += [("views", ", ".join(made_from["views"]) + (f" ({how})" if how else ""))]
    rows += [("columns of a vector", manifest["n_features"])]
    rows += [("hash of the vectors", made_from.get("embeddings")), ("behaviour", made_from.get("collaborative"))]
    return "## Data\n\n" + _table(("", ""), [row for row in rows if row[1] is not None])


def _arguments_section(manifest: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in (manifest.get("versions") or {}).items())
    rows = [(f"`{name}`", f"`{value}`") for name, value in sorted(manifest["arguments"].items())]
    sizes = " x ".join(map(str, manifest["sizes"]))
    text = f"## Tokenizer\n\nMethod `{manifest['method']}`, codes a level: {sizes}.\n\n" + _table(
        ("argument", "value"), rows
    )
    return text + (f"\n\nMade with {versions}." if versions else "")


def _quality_section(manifest: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    if not report:
        return "## Quality\n\nThe folder holds no item codes, so nothing is known of their quality."
    shared, levels = report["collisions"], report["levels"]
    rows = [
        ("codes an item", len(report["sizes"])),
        ("made unique by", manifest.get("unique")),
        ("items that share their codes", f"{shared['items']:,} ({shared['rate']:.2%})"),
        ("most items of one tuple", shared["largest"]),
        ("codes in use, level by level", ", ".join(f"{row['used']} of {row['size']}" for row in levels)),
        ("perplexity, level by level", ", ".join(f"{row['perplexity']:.1f}" for row in levels)),
    ]
    if "before" in report:
        before = report["before"]["collisions"]
        rows.insert(3, ("items that shared them before", f"{before['items']:,} ({before['rate']:.2%})"))
    if "reconstruction" in report:
        rows.append(("reconstruction error / variance", f"{report['reconstruction']['relative_error']:.4f}"))
    for name, value in (report.get("neighbours") or {}).items():
        if name.startswith("recall"):
            rows.append((f"neighbour {name}", f"{value:.3f}"))
    return "## Quality\n\n" + _table(("measure", "value"), rows)


def _use_section(name: str, manifest: Mapping[str, Any]) -> str:
    shape = f"[N, {manifest['n_features']}] to int32 [N, {len(manifest['sizes'])}]"
    lines = [
        "import semtok",
        "",
        f'tokenizer = semtok.ItemTokenizer.from_pretrained("{name}")  # a folder, or a repository of the hub',
        f"codes = tokenizer.encode(vectors)  # {shape}",
        "decoded = tokenizer.decode(codes)",
    ]
    text = "## Use\n\n```python\n" + "\n".join(lines) + "\n```"
    if manifest.get("codes"):
        text += "\n\nThe codes of the catalogue: `semtok.load_codes(folder)`."
    if manifest.get("program"):
        text += '\n\nWith NumPy and safetensors alone: `semtok.load(folder, backend="numpy")`.'
    return text


def _table(headings: tuple[str, str], rows: Iterable[tuple[Any, Any]]) -> str:
    def cell(value: Any) -> str:
        return str(value).replace("|", "\\|").replace("\n", " ")

    lines = [f"| {headings[0]} | {headings[1]} |", "| --- | --- |"]
    return "\n".join(lines + [f"| {cell(left)} | {cell(right)} |" for left, right in rows])


def _licence_of(text: str) -> dict[str, Any]:
    """The licence that the front matter of a card names."""
    from huggingface_hub import ModelCard

    found = ModelCard(text).data.to_dict()
    return {name: found[name] for name in ("license", "license_name", "license_link") if found.get(name)}

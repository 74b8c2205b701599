"""The commands of ``semtok`` on finished codes: report, export, import. Parses, calls, prints."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from recbase.arguments import CodebookSize, Count, ModelName, Revision, rule_of
from recbase.cli.options import Command, Option, add_options, argument, given, shared
from recbase.console import failures, print_json, say

if TYPE_CHECKING:
    from semtok.codes import ItemCodes

__all__ = ["export_codes", "import_codes", "report_codes"]

_FILES = ("index", "grid", "rpg", "ccfrec", "table")
_EXPORTS = (*_FILES, "hf", "faiss")

# --------------------------------------------------------------------------------------- report


@click.command("report", cls=Command)
@argument("paths", "str", many=True, metavar="FOLDER|FILE...")
@add_options(
    [
        Option(
            "conditions",
            "str",
            None,
            "Exit with 1 if this is so for any of them, as collision_rate>0.01; may be given several times.",
            flag="fail-if",
            multiple=True,
        ),
        Option("data", "str", None, "Data set of the items: their titles and categories, their order."),
        Option("embeddings", "path", None, "Vectors of the items; those of the fit if not given."),
        Option("embeddings_ids", "path", None, "File of the ids of the rows, where --embeddings is a file of vectors."),
        Option(
            "in_order",
            "bool",
            False,
            "The rows of the file --embeddings are the items in their order.",
            flag="in-order",
        ),
        Option("out", "path", Path("runs/semtok/report"), "Folder of report.html, report.json and the figures."),
        Option("page", "bool", True, "Write the HTML page."),
        Option(
            "figures",
            "bool",
            False,
            "Write figures as SVG, and as PNG too where the extra semtok[plots] is installed.",
        ),
        Option("queries", "int", 1000, "Items whose neighbours are looked up.", rule=rule_of(Count)),
    ]
)
@add_options(shared("seed", "as_json", "quiet"))
@failures
def report_codes(
    paths: tuple[str, ...],
    conditions: tuple[str, ...],
    data: str | None,
    embeddings: Path | None,
    embeddings_ids: Path | None,
    in_order: bool,
    out: Path,
    page: bool,
    figures: bool,
    queries: int,
    seed: int,
    as_json: bool,
    quiet: bool,
) -> None:
    """Measure codes and compare them: tables, JSON, and one HTML page.

    Takes tokenizer folders and files of codes in any format that `semtok import` reads. A table of the codes of
    several methods counts as several; FILE.parquet:METHOD takes one of them. What needs vectors is left out where
    there are none.
    """
    from semtok.report.measures import Condition

    try:
        checks = [Condition.parse(text) for text in conditions]
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--fail-if") from error
    from recbase.store.files import write_file
    from semtok.content.ready_vectors import VectorSource
    from semtok.report.measures import numbers, print_comparison, print_report
    from semtok.report.sources import examine

    _check_report(out)
    dataset = None
    if data is not None:
        from recbase.data.catalog import load_dataset

        dataset = load_dataset(data)
    vectors = VectorSource.of(embeddings, embeddings_ids, in_order)
    subjects = examine(paths, None if dataset is None else dataset.items, vectors, queries, seed)
    found = [
        {"name": subject.name, "source": subject.source, "notes": subject.notes, "numbers": numbers(subject.report)}
        | subject.report
        for subject in subjects
    ]
    failed = [
        _violation(check, subject)
        for check in checks
        for subject in subjects
        if check.holds(subject.report) is not False
    ]
    result: dict[str, Any] = {"tokenizers": found, "failed": failed}
    text = json.dumps(_without_infinity(result), indent=1, ensure_ascii=False, allow_nan=False)
    write_file(out / "report.json", text)
    written = [out / "report.json"]
    if page or figures:
        written += _write_drawn(subjects, dataset, out, page, figures, seed)
    if as_json:
        print_json(result | {"files": written})
    elif not quiet:
        if len(subjects) == 1:
            print_report(subjects[0].report, f"{subjects[0].method or 'codes'} in {subjects[0].source}")
        else:
            print_comparison({subject.name: subject.report for subject in subjects})
        for note in _noted(subjects):
            say(note, err=True)
        say(f"Written: {', '.join(map(str, written))}")
    if failed:
        raise ValueError("; ".join(failed))


def _violation(check: Any, subject: Any) -> str:
    from semtok.report.measures import numbers

    value = numbers(subject.report)[check.name]
    if value is None:
        return f"{subject.name}: {check.name} is not known, so --fail-if {check} cannot be told"
    return f"{subject.name}: {check.name} is {value:.6g}, which --fail-if {check} forbids"


def _noted(subjects: list[Any]) -> list[str]:
    """Notes, each once, with the names of those it is about."""
    about: dict[str, list[str]] = {}
    for subject in subjects:
        for note in subject.notes:
            about.setdefault(note, []).append(subject.name)
    return [f"{', '.join(names)}: {note}" for note, names in about.items()]


def _items_of(subjects: list[Any]) -> Any:
    """Items of the built-in data set that the codes were made from, if it was one."""
    from recbase.data.catalog import BUILT_IN, load_dataset

    for subject in subjects:
        made = (subject.manifest.get("made_from") or {}).get("dataset") or {}
        if made.get("name") in BUILT_IN:
            try:
                dataset = load_dataset(made["name"])
            except (ImportError, ValueError, OSError):
                return None
            return dataset.items if dataset.hash == made.get("hash") else None
    return None


def _write_drawn(subjects: list[Any], dataset: Any, out: Path, page: bool, figures: bool, seed: int) -> list[Path]:
    """Write the page, and the figures as files; they are drawn once for both."""
    from semtok.report.drawings import draw

    drawn = draw(subjects, seed)
    written: list[Path] = []
    if page:
        from recbase.store.files import write_file
        from semtok.report.page import comparison_page
        from semtok.report.sources import item_titles

        items = dataset.items if dataset is not None else _items_of(subjects)
        titles = None if items is None else item_titles(items)
        name = "Item codes" if dataset is None else f"Item codes of {dataset.name}"
        write_file(out / "report.html", comparison_page(subjects, titles, name, seed, drawn))
        written.append(out / "report.html")
    return written + (_write_figures(subjects, drawn, out) if figures else [])


def _write_figures(subjects: list[Any], drawn: list[Any], out: Path) -> list[Path]:
    """The figures of the page as SVG, and as PNG where the package that renders them is installed."""
    from importlib.util import find_spec

    from recbase.store.files import write_file

    written: list[Path] = []
    used: set[str] = set()
    png = find_spec("resvg_py") is not None
    for subject, figures in zip(subjects, drawn, strict=True):
        folder = out / "figures" if len(subjects) == 1 else out / "figures" / _folder_name(subject.name, used)
        for name, content in figures.files(png).items():
            write_file(folder / name, content)
            written.append(folder / name)
    return written


def _check_report(out: Path) -> None:
    """Refuse a folder in which a file that is no report of ours has the name of one."""
    from recbase.store.folder import check_file
    from recbase.store.manifests import read_json

    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is a file; expected a folder for the report")
    found = None
    with suppress(OSError, ValueError):
        found = read_json(out / "report.json")
    ours = isinstance(found, dict) and "tokenizers" in found
    for name in ("report.json", "report.html"):
        check_file(out / name)
        if (out / name).exists() and not ours:
            raise ValueError(f"{out / name} is no report of ours and would be lost: give another --out")


def _folder_name(name: str, used: set[str]) -> str:
    """A plain name of a folder for a subject, whose own comes from data; none is given twice."""
    plain = re.sub(r"[^\w.-]+", "-", name).lstrip(".")[:100] or "codes"
    count = 1
    while (made := plain if count == 1 else f"{plain}-{count}") in used:
        count += 1
    used.add(made)
    return made


def _without_infinity(value: Any) -> Any:
    """JSON has no NaN and no infinity: null."""
    if isinstance(value, dict):
        return {str(key): _without_infinity(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_infinity(part) for part in value]
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    return value.item() if hasattr(value, "item") else value


# --------------------------------------------------------------------------------------- export


@click.command("export", cls=Command)
@argument("folder")
@add_options(
    [
        Option("format", "choice", "index", "What to write; see above.", _EXPORTS),
        Option("out", "path", None, "File (or folder, for hf) to write; runs/exports/NAME and the format's ending."),
        Option(
            "model",
            "str",
            None,
            "Language model that gets the tokens, for hf: a hub name or a folder.",
            rule=rule_of(ModelName),
        ),
        Option(
            "revision",
            "str",
            None,
            "Branch, tag or commit of --model on the hub.",
            optional=True,
            rule=rule_of(Revision),
        ),
        Option("metric", "choice", "cosine", "What the faiss index searches by.", ("cosine", "l2")),
    ]
)
@add_options(shared("seed", "as_json", "quiet"))
@failures
def export_codes(
    folder: Path,
    format: str,
    out: Path | None,
    model: str | None,
    revision: str | None,
    metric: str,
    seed: int,
    as_json: bool,
    quiet: bool,
) -> None:
    """Write the codes of a tokenizer FOLDER as other projects read them.

    \b
    index   LETTER, LC-Rec, MiniOneRec: {"0": ["<a_12>", "<b_7>"], ...}
    grid    GRID: one integer tensor [L, N] (.safetensors or .npy, never a pickle)
    rpg     RPG: {"item-id": [12, 7], ...}
    ccfrec  CCFRec: [[], [12, 7], ...]
    table   Parquet: item_id, c0, c1, ...
    hf      a Hugging Face language model with a token for every code (--model)
    faiss   an index of the vectors that the codes stand for

    What a format leaves out (ids, sizes, views) is written into a small file beside it, which `semtok import` reads.
    """
    from semtok.exchange.formats import FORMATS, write_codes, write_faiss

    if (model is None) == (format == "hf"):
        raise click.UsageError("--format hf and --model NAME belong together: give both or neither")
    for name in ("metric", "revision"):
        if name in given() and format != {"metric": "faiss", "revision": "hf"}[name]:
            raise click.UsageError(f"--{name} does not belong to --format {format}")
    subject = _opened(folder)
    codes: ItemCodes = subject.codes
    ending = {"hf": "-model", "faiss": ".faiss"} | FORMATS
    target = out or Path("runs/exports") / f"{folder.resolve().name}{ending[format]}"
    result: dict[str, Any] = {"file": str(target), "format": format, "items": len(codes), "levels": codes.levels}
    result |= {"sizes": list(codes.sizes), "collisions": codes.collisions().items}
    if format in FORMATS:
        write_codes(codes, target, format)
    elif format == "faiss":
        from semtok.catalogue.fit import decoded_from

        decoded = decoded_from(_loaded(subject, folder), codes)
        if decoded is None:
            raise ValueError(f"{subject.method} in {folder} cannot decode, so there are no vectors for an index")
        write_faiss(decoded, codes, target, metric)
    else:
        from semtok.exchange.language_models import codewords, export_language_model

        assert model is not None
        words = None if subject.method is None else codewords(_loaded(subject, folder), codes, seed)
        result |= export_language_model(model, codes, target, words, seed, revision)
    if as_json:
        print_json(result)
    elif not quiet:
        say(f"{len(codes):,} items of {codes.levels} codes each are in {target}")
        if result["collisions"] and format != "faiss":
            say(
                f"{result['collisions']:,} of them share their codes with another item: a generator cannot tell these "
                "apart (semtok fit --unique)"
            )


def _opened(folder: Path) -> Any:
    from semtok.report.sources import open_subjects

    found = open_subjects([folder])
    if len(found) > 1:
        names = ", ".join(subject.name for subject in found)
        raise ValueError(f"{folder} holds the codes of {len(found)} methods ({names}); give FILE.parquet:METHOD")
    return found[0]


def _loaded(subject: Any, folder: Path) -> Any:
    from semtok.registry import load

    if subject.method is None:
        raise ValueError(f"{folder} holds item codes but no tokenizer, so nothing says what they stand for")
    return load(folder)


# --------------------------------------------------------------------------------------- import


@click.command("import", cls=Command)
@argument("file")
@add_options(
    [
        Option("format", "choice", None, "Format of the file; found out from it if not given.", _FILES),
        Option("method", "str", None, "Which method's codes, where a table holds those of several."),
        Option(
            "sizes",
            "ints",
            None,
            "Codes of each level, or one number for all; else the next power of two.",
            rule=rule_of(CodebookSize),
        ),
        Option("data", "str", None, "Data set of the items, where the file only numbers them."),
        Option("out", "path", None, "Folder to write; runs/semtok/NAME if not given."),
    ]
)
@add_options(shared("as_json", "quiet"))
@failures
def import_codes(
    file: Path,
    format: str | None,
    method: str | None,
    sizes: tuple[int, ...] | None,
    data: str | None,
    out: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Read codes from the FILE of another project into a folder that every command takes.

    Reads what `semtok export` writes: LETTER's, LC-Rec's and MiniOneRec's index.json, GRID's tensor (.safetensors or
    .npy; a pickle is refused), RPG's and CCFRec's JSON, Parquet tables, also of published codes of several methods.
    """
    from recbase.store.folder import save_folder
    from semtok.codes import KIND, MANIFEST
    from semtok.exchange.reading import format_of, read_codes
    from semtok.quality import code_report

    ids = origin = None
    if data is not None:
        from recbase.data.catalog import load_dataset

        dataset = load_dataset(data)
        ids = dataset.item_ids
        origin = {"name": dataset.name, "hash": dataset.hash, "items": dataset.n_items}
    one = None if sizes is None else sizes[0] if len(sizes) == 1 else sizes
    kind = format or format_of(file)
    codes = read_codes(file, kind, one, ids, method)
    found = code_report(codes)
    target = out or Path("runs/semtok") / (method or file.name.partition(".")[0]).replace("/", "-")
    made_from = {"file": file.name, "format": kind, "file_method": method, "dataset": origin}
    manifest = {"method": None, "made_from": made_from, "codes": codes.manifest()}
    save_folder(target, MANIFEST, KIND, manifest, codes.files() | {"report.json": json.dumps(found, indent=1).encode()})
    if as_json:
        print_json({"folder": str(target), "format": kind, "items": len(codes), "sizes": codes.sizes, "report": found})
    elif not quiet:
        from semtok.report.measures import print_report

        print_report(found, f"{method or kind} codes of {file}")
        say(f"{len(codes):,} items of {codes.levels} codes each are in {target}")

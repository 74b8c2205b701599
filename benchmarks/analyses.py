"""What the papers show of their generators besides quality: what PRORec's item vectors hold, and what lists cost.

    python -m benchmarks.analyses spaces --data runs/scientific --embeddings runs/emb
    python -m benchmarks.analyses cost runs/tiger runs/eager runs/prorec --beams 10,50,100

`spaces` (PRORec, table 4 and figure 5): how much of semantic and collaborative knowledge the vectors hold that codes
are made of, by relative similarity, and a picture of each space; stage I runs where it was not run before. `cost`
(PRORec's table of costs and figure 3, BBQRec's table 6): seconds a user of a search in finished runs of one data set,
each run once a round, one after the other; medians are compared. The machine must be otherwise idle for it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np

from genrec.analysis.similarity import relative_similarity
from genrec.models.prorec import Preparation
from genrec.preparation import Sources
from recbase.data.catalog import load_dataset
from recbase.pipeline import cache_for

SPACES = {
    "semantic": Preparation(source="semantic"),
    "collaborative": Preparation(source="collaborative"),
    "concat": Preparation(source="concat"),
    "concat, standardized": Preparation(source="standardized-concat"),
    "PRORec, mean of both (B)": Preparation(),
    "PRORec, aligned table (A)": Preparation(integrate="aligned"),
    "PRORec, both side by side (C)": Preparation(integrate="beside"),
}
PUBLISHED = {"concat": "97.33 / 2.67", "PRORec, aligned table (A)": "59.89 / 40.11"}  # Beauty; its text vectors differ
DRAWN = (
    "semantic",
    "collaborative",
    "concat",
    "PRORec, mean of both (B)",
    "PRORec, aligned table (A)",
    "PRORec, both side by side (C)",
)


def spaces(given: argparse.Namespace) -> str:
    """The table of shares; also draws the spaces."""
    dataset = load_dataset(given.data)
    sources = Sources(dataset, cache_for(given.out), given.embeddings, seed=given.seed, quiet=True)
    found = {name: preparation.item_vectors(sources)[0] for name, preparation in SPACES.items()}
    lines = [
        f"{dataset.name}: shares of semantic / collaborative knowledge, {min(2000, dataset.n_items):,} items, "
        f"seed {given.seed}",
        "",
        "| vectors | KL to semantic | KL to collaborative | shares, % | published (Beauty) |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, vectors in found.items():
        if name in ("semantic", "collaborative"):
            continue
        told = relative_similarity(vectors, found["semantic"], found["collaborative"], seed=given.seed)
        shares = f"{100 * told['share_semantic']:.2f} / {100 * told['share_collaborative']:.2f}"
        distances = f"{told['kl_semantic']:.3f} | {told['kl_collaborative']:.3f}"
        lines.append(f"| {name} | {distances} | {shares} | {PUBLISHED.get(name, '')} |")
    try:
        draw({name: found[name] for name in DRAWN}, given.out / "spaces.png", given.seed)
    except ImportError:
        print("no figure: matplotlib is not installed (extra [plots])")
    return "\n".join(lines)


def draw(found: dict[str, np.ndarray], path: Path, seed: int, items: int = 2000, clusters: int = 8) -> None:
    """Each space in two dimensions by t-SNE, an item in the colour of its cluster in that space."""
    from matplotlib.figure import Figure
    from sklearn.cluster import KMeans
    from sklearn.manifold import TSNE

    rows = np.random.default_rng(seed).permutation(len(next(iter(found.values()))))[:items]
    figure = Figure(figsize=(4 * len(found), 4.2), layout="constrained")
    for axis, (name, vectors) in zip(figure.subplots(1, len(found)), found.items(), strict=True):
        unit = vectors[rows] / np.maximum(np.linalg.norm(vectors[rows], axis=1, keepdims=True), 1e-12)
        placed = TSNE(init="pca", random_state=seed).fit_transform(unit)
        colours = KMeans(clusters, n_init=3, random_state=seed).fit_predict(unit)
        axis.scatter(placed[:, 0], placed[:, 1], s=4, c=colours, cmap="tab10", linewidths=0)
        axis.set(title=name, xticks=[], yticks=[])
    figure.savefig(path, dpi=120)


def cost(given: argparse.Namespace) -> str:
    """The table of seconds a user."""
    from genrec import MODELS
    from genrec.search.generation import generate, some_targets
    from recbase.store.runs import load_run

    opened = {folder: load_run(folder, MODELS) for folder in given.runs}
    data = given.data or next(iter(opened.values())).manifest["data"]["given"]
    dataset = load_dataset(data)
    if strange := [str(folder) for folder, run in opened.items() if run.manifest["data"]["hash"] != dataset.hash]:
        raise ValueError(f"{', '.join(strange)} was not trained on {data}; runs of one data set are compared")
    targets = some_targets(dataset.split().test, given.users)
    names = {folder: run.manifest["model"] for folder, run in opened.items()}
    lines = [
        f"{dataset.name}: {len(targets):,} users, 64 at once, milliseconds a user: median of {given.rounds} rounds "
        "(least-most)",
        "",
        "| model | codes searched | " + " | ".join(f"{beams} beams" for beams in given.beams) + " |",
        "| --- | --- |" + " --- |" * len(given.beams),
    ]
    seconds: dict[tuple[Path, int], list[float]] = {}
    for number in range(given.rounds + 1):
        for beams in given.beams:
            for folder, run in opened.items():
                begun = time.perf_counter()
                generate(run.model, targets.histories, beams, users=np.asarray(targets.users))
                if number:  # the first round warms up
                    seconds.setdefault((folder, beams), []).append(1e3 * (time.perf_counter() - begun) / len(targets))
    for folder, run in opened.items():
        cells = [
            f"{statistics.median(found):.1f} ({min(found):.1f}-{max(found):.1f})"
            for found in (seconds[folder, beams] for beams in given.beams)
        ]
        lines.append(f"| {names[folder]} | {len(run.model.sizes)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Run the analysis that was asked for and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("analysis", choices=("spaces", "cost"))
    parser.add_argument("runs", nargs="*", type=Path, help="run folders (cost)")
    parser.add_argument("--data", type=Path, help="data set folder; that of the runs if not given (cost)")
    parser.add_argument("--embeddings", type=Path, help="embeddings folder of the data set (spaces)")
    parser.add_argument("--beams", default="10,50,100", help="numbers of beams (cost)")
    parser.add_argument("--users", type=int, default=640, help="users searched for (cost)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds (cost)")
    parser.add_argument("--seed", type=int, default=0, help="of stage I and of what is sampled (spaces)")
    parser.add_argument("--out", type=Path, default=Path("runs/analyses"), help="folder of the stages and results")
    given = parser.parse_args()
    if given.analysis == "spaces" and given.data is None:
        parser.error("spaces needs --data")
    if given.analysis == "cost" and not given.runs:
        parser.error("cost needs run folders")
    given.beams = [int(part) for part in given.beams.split(",")]
    given.out.mkdir(parents=True, exist_ok=True)
    text = spaces(given) if given.analysis == "spaces" else cost(given)
    print(text)
    (given.out / f"{given.analysis}.md").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

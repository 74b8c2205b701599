"""Speed and memory of our generative recommender beside transformers, in alternation and on the same weights.

    python -m benchmarks.generation --out generation.json            # everything, two threads: about half an hour
    python -m benchmarks.generation --tasks trie,catalogue           # the trie alone
    python -m benchmarks.generation --tasks beams --beams 10 --batch 16 --rounds 1 --threads 1

The model is TIGER's T5: width 128, 4 + 4 layers, 6 heads of 64, feed-forward 1,024, 4 codes of 256 an item, 12,101
items, 80 source tokens, random weights, float32 unless said.

`beams`: users a second of constrained beam search against `generate` with `prefix_allowed_tokens_fn` (a Python
dictionary of prefixes), after both returned the same lists; and against the same model's steps with no search at all.
`train`: a training step (forward, backward, AdamW) on full rows and on rows as long as Beauty's histories, float32 and
bfloat16 autocast. transformers runs both its eager and its fused attention; the faster one counts. `memory`: peak of a
fresh process for each of these, with what that side needs to be imported. `trie`: build time and bytes up to 10 million
items. `catalogue`: what a search costs beside the model, as the catalogue grows.

Every round runs each side once, one after the other; medians are compared. The machine must be otherwise idle.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.peers import made_histories
from genrec.nets.t5 import T5
from genrec.search.decoding import search_beams
from genrec.search.trie import CodeTrie

LEVELS, CODES, ITEMS, SOURCE = 4, 256, 12_101, 80
FIRST = 2  # tokens before the codes: padding (which starts decoding) and the end of a sequence
VOCABULARY = FIRST + LEVELS * CODES + 1
DIM, LAYERS, HEADS, HEAD_DIM, FFN = 128, 4, 6, 64, 1024
TASKS = ("beams", "train", "memory", "trie", "catalogue")

# (task, case, number, "at least" or "at most", goal)
GOALS = (
    *(("beams", f"{beams} beams", "times faster", "at least", goal) for beams, goal in ((10, 5), (20, 8), (50, 10))),
    *(("beams", f"{beams} beams", "of the model's steps alone", "at most", 1.25) for beams in (10, 20, 50)),
    ("train", "full float32", "times faster", "at least", 1.3),
    ("train", "full bfloat16", "times faster", "at least", 1.3),
    ("train", "ragged float32", "times faster", "at least", 2.5),
    ("train", "ragged bfloat16", "times faster", "at least", 3.3),
    *(("memory", f"{beams} beams", "share of memory", "at most", 0.4) for beams in (10, 20, 50)),
    *(("memory", f"train {case}", "share of memory", "at most", 0.65) for case in ("full float32", "ragged float32")),
)


def peer(attention: str = "sdpa") -> Any:
    """TIGER's T5 in transformers, seeded."""
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    config = T5Config(
        vocab_size=VOCABULARY,
        d_model=DIM,
        d_kv=HEAD_DIM,
        d_ff=FFN,
        num_layers=LAYERS,
        num_heads=HEADS,
        dropout_rate=0.1,
        pad_token_id=0,
        decoder_start_token_id=0,
        eos_token_id=1,
    )
    model = T5ForConditionalGeneration(config)
    model.set_attn_implementation(attention)
    return model


def own() -> T5:
    """The same shapes in our T5, seeded; nothing of transformers is imported."""
    torch.manual_seed(0)
    return T5(VOCABULARY, DIM, LAYERS, LAYERS, HEADS, HEAD_DIM, FFN, start_token=0)


def item_codes(items: int, seed: int = 0) -> np.ndarray:
    """Distinct random codes, int64 [items, LEVELS]."""
    draws = np.random.default_rng(seed)
    numbers = np.unique(draws.integers(0, CODES**LEVELS, int(items * 1.1) + 100))
    chosen = draws.permutation(numbers)[:items]
    return np.stack([chosen // CODES**level % CODES for level in reversed(range(LEVELS))], 1)


def token_trie(items: int = ITEMS) -> CodeTrie:
    """The catalogue over the tokens of one vocabulary, as transformers has it."""
    return CodeTrie.from_codes(item_codes(items) + FIRST + CODES * np.arange(LEVELS), sizes=[VOCABULARY] * LEVELS)


def prefixes(trie: CodeTrie) -> Callable[[int, torch.Tensor], list[int]]:
    """The catalogue as a dictionary from prefixes to next tokens, for ``prefix_allowed_tokens_fn``."""
    following: dict[tuple[int, ...], set[int]] = {}
    for code in trie.codes().tolist():
        for step in range(LEVELS):
            following.setdefault(tuple(code[:step]), set()).add(code[step])
    lists = {prefix: sorted(tokens) for prefix, tokens in following.items()}
    return lambda _, sequence: lists.get(tuple(sequence[1:].tolist()), [1])


def source(batch: int, seed: int = 1) -> torch.Tensor:
    """Full rows of source tokens."""
    draws = torch.Generator().manual_seed(seed)
    return torch.randint(FIRST, VOCABULARY - 1, (batch, SOURCE), generator=draws)


def their_search(model: Any, trie: CodeTrie, tokens: torch.Tensor, beams: int) -> Callable[[], Any]:
    """Lists by ``generate``."""
    allowed = prefixes(trie)
    settings = {"num_beams": beams, "num_return_sequences": beams, "max_new_tokens": LEVELS, "min_new_tokens": LEVELS}
    settings |= {"length_penalty": 0.0, "do_sample": False, "return_dict_in_generate": True, "output_scores": True}

    def search() -> Any:
        with torch.no_grad():
            mask = torch.ones_like(tokens)
            found = model.generate(tokens, attention_mask=mask, prefix_allowed_tokens_fn=allowed, **settings)
        return trie.find(found.sequences[:, 1 : LEVELS + 1]).view(len(tokens), beams), found.sequences_scores

    return search


def our_search(model: T5, trie: CodeTrie, tokens: torch.Tensor, beams: int) -> Callable[[], Any]:
    """Lists by our beam search."""
    lengths = torch.full((len(tokens),), tokens.shape[1])

    def search() -> Any:
        with torch.no_grad():
            return search_beams(model, model.encode(tokens, lengths), trie, beams, beams)

    return search


def steps_alone(model: T5, tokens: torch.Tensor, beams: int) -> Callable[[], Any]:
    """The same model's encoder and steps, with prefixes chosen beforehand."""
    lengths = torch.full((len(tokens),), tokens.shape[1])
    draws = torch.Generator().manual_seed(2)
    parents = [torch.randint(0, count, (len(tokens), beams), generator=draws) for count in (1, beams, beams)]
    codes = [torch.randint(FIRST, VOCABULARY, (len(tokens), beams), generator=draws) for _ in parents]

    def run() -> None:
        with torch.no_grad():
            _, state = model.step(model.start(model.encode(tokens, lengths)), None, None)
            for parent, code in zip(parents, codes, strict=True):
                _, state = model.step(state, parent, code)

    return run


def alternate(runs: dict[str, Callable[[], Any]], rounds: int, warm: int = 1) -> dict[str, list[float]]:
    """Seconds of each run, round by round."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(warm + rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if number >= warm:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def summary(seconds: dict[str, list[float]]) -> dict[str, Any]:
    """Medians and spread."""
    return {name: {"median": statistics.median(s), "min": min(s), "max": max(s)} for name, s in seconds.items()}


def compare_lists(ours: Any, theirs: tuple[torch.Tensor, torch.Tensor]) -> dict[str, Any]:
    """How many users' lists are equal; where they are not, whether only places of equal score were swapped."""
    items, scores = theirs[0], theirs[1].view(theirs[0].shape)
    differ = ours.items != items
    worst = float((ours.scores - scores).abs().max())
    gap = float((ours.scores - scores).abs()[differ].max()) if bool(differ.any()) else 0.0
    return {
        "equal_lists": int((~differ).all(1).sum()),
        "users": len(items),
        "largest_score_difference": worst,
        "score_difference_where_items_differ": gap,
    }


def beams_task(args: argparse.Namespace) -> dict[str, Any]:
    """Users a second at every number of beams."""
    models = {name: peer(name).eval() for name in args.attention}
    ours, trie, tokens = T5.from_transformers(next(iter(models.values()))).eval(), token_trie(), source(args.batch)
    results = {}
    for beams in args.beams:
        runs = {name: their_search(model, trie, tokens, beams) for name, model in models.items()}
        search = our_search(ours, trie, tokens, beams)
        runs["ours"] = search
        lists = compare_lists(search(), next(iter(runs.values()))())
        if lists["score_difference_where_items_differ"] > 1e-4:
            raise ValueError(f"at {beams} beams the lists differ from transformers': {lists}")
        found = summary(alternate(runs, args.rounds, warm=0))
        best, own = min(found[name]["median"] for name in models), found["ours"]["median"]
        pair = {"ours, beside the steps": search, "steps alone": steps_alone(ours, tokens, beams)}
        found |= summary(alternate(pair, 5 * args.rounds))  # both are short
        beside, alone = (found[name]["median"] for name in pair)
        results[f"{beams} beams"] = {
            "seconds": found,
            "lists": lists,
            "users a second": {name: args.batch / numbers["median"] for name, numbers in found.items()},
            "times faster": best / own,
            "of the model's steps alone": beside / alone,
        }
        print_case(f"{beams} beams", results[f"{beams} beams"])
    return results


def lengths_like_beauty(rows: int, seed: int = 0) -> torch.Tensor:
    """Source lengths of histories as long as Beauty's, without their last item, of at most 20 items."""
    _, offsets = made_histories(22_363, 12_101, 198_502, seed)
    lengths = np.random.default_rng(seed).choice(np.diff(offsets), rows) - 1
    return torch.from_numpy(np.minimum(lengths, SOURCE // LEVELS) * LEVELS)


def training_step(side: str, case: str, rows: int, micro_batches: int) -> Callable[[], float]:
    """One optimizer step of "ours" or of transformers with the named attention."""
    shape, precision = case.split()
    tokens = source(rows)
    lengths = lengths_like_beauty(rows) if shape == "ragged" else torch.full((rows,), SOURCE)
    valid = torch.arange(SOURCE) < lengths[:, None]
    tokens = tokens * valid
    targets = torch.randint(FIRST, VOCABULARY - 1, (rows, LEVELS), generator=torch.Generator().manual_seed(3))
    model: Any = own() if side == "ours" else peer(side)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)
    longest_first = lengths.argsort(descending=True, stable=True)
    parts = longest_first.chunk(micro_batches) if side == "ours" else [torch.arange(rows)]

    def logits_of(part: torch.Tensor) -> torch.Tensor:
        if side == "ours":
            found: torch.Tensor = model(tokens[part], lengths[part], targets[part])
            return found
        given = {"input_ids": tokens, "attention_mask": valid.long(), "labels": targets}
        whole: torch.Tensor = model(**given).logits
        return whole

    def step() -> float:
        total = 0.0
        for part in parts:
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
                flat = logits_of(part).flatten(0, 1).float()
                loss = F.cross_entropy(flat, targets[part].flatten(), reduction="sum") / targets.numel()
            loss.backward()
            total += loss.item()
        optimizer.step()
        optimizer.zero_grad()
        return total

    return step


def train_task(args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of a training step."""
    results = {}
    for case in args.cases:
        names = [*args.attention, "ours"]
        runs = {name: training_step(name, case, args.rows, args.micro_batches) for name in names}
        found = summary(alternate(runs, args.rounds))
        best = min(found[name]["median"] for name in args.attention)
        real = int(lengths_like_beauty(args.rows).sum()) if case.startswith("ragged") else args.rows * SOURCE
        results[case] = {
            "seconds": found,
            "real tokens": real,
            "tokens a second": {name: real / numbers["median"] for name, numbers in found.items()},
            "times faster": best / found["ours"]["median"],
        }
        print_case(case, results[case])
    return results


def peak() -> float:
    """Largest resident memory of this process so far, MiB.

    Read from Linux where it is known: ``ru_maxrss`` of a new process starts with the peak of the one that made it.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def memory_worker(what: str, args: argparse.Namespace) -> dict[str, float]:
    """Run one side of one case and measure this process."""
    kind, side, case = what.split(":")
    if kind == "train":
        step = training_step(side, case, args.rows, args.micro_batches)
        before = peak()
        for _ in range(2):
            step()
    else:
        trie, tokens, beams = token_trie(), source(args.batch), int(case.split()[0])
        if side == "ours":
            search = our_search(own().eval(), trie, tokens, beams)
        else:
            search = their_search(peer(side).eval(), trie, tokens, beams)
        before = peak()
        search()
    return {"peak MiB": peak(), "before MiB": before}


def memory_task(args: argparse.Namespace) -> dict[str, Any]:
    """Peak memory, each side of each case in a process of its own."""
    cases = [("beams", f"{beams} beams") for beams in args.beams] + [("train", case) for case in args.cases]
    results = {}
    for kind, case in cases:
        found = {}
        for side in (*args.attention, "ours"):
            command = [sys.executable, "-m", "benchmarks.generation", "--worker", f"{kind}:{side}:{case}"]
            for name in ("batch", "rows", "micro_batches", "threads"):
                command += [f"--{name.replace('_', '-')}", str(getattr(args, name))]
            found[side] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        name = case if kind == "beams" else f"train {case}"
        best = min(found[side]["peak MiB"] for side in args.attention)
        results[name] = {"peaks": found, "share of memory": found["ours"]["peak MiB"] / best}
        print_case(name, results[name])
    return results


def trie_task(args: argparse.Namespace) -> dict[str, Any]:
    """Build, insertion and deletion as catalogues grow."""
    results = {}
    for items in args.sizes:
        codes = torch.from_numpy(item_codes(items + 1000).astype(np.int32))
        runs: dict[str, Callable[[], Any]] = {
            "build": lambda codes=codes: CodeTrie.from_codes(codes[:-1000], [CODES] * 4)
        }
        trie = runs["build"]()
        numbers = torch.arange(len(trie) + 1, len(trie) + 1001)
        runs["insert 1,000"] = lambda trie=trie, codes=codes, n=numbers: trie.insert(codes[-1000:], n)
        gone = torch.arange(1, 1001)
        runs["delete 1,000"] = lambda trie=trie, gone=gone: trie.delete(gone)
        allowed = torch.rand(len(trie)) < 0.5
        runs["mask of all items"] = lambda trie=trie, allowed=allowed: trie.allow(mask=allowed)
        found = summary(alternate(runs, args.rounds))
        nodes = [len(tokens) for tokens in trie.tokens]
        results[f"{items:,} items"] = {
            "seconds": found,
            "MiB": trie.nbytes / 2**20,
            "bytes an item": trie.nbytes / items,
        }
        results[f"{items:,} items"] |= {"nodes": nodes, "fan_outs": list(trie.fan_outs)}
        print_case(f"{items:,} items", results[f"{items:,} items"])
    return results


class Recorded:
    """A decoder that costs nothing: the same logits at every step of every prefix."""

    def __init__(self, batch: int, beams: int) -> None:
        draws = torch.Generator().manual_seed(4)
        self.logits = [torch.randn(batch, width, CODES, generator=draws) for width in (1, beams, beams, beams)]

    def start(self, memory: Any) -> int:
        """The step that comes next."""
        return 0

    def step(self, state: int, parents: torch.Tensor | None, tokens: torch.Tensor | None) -> tuple[torch.Tensor, int]:
        """Logits that were drawn beforehand."""
        width = 1 if parents is None else parents.shape[1]
        return self.logits[state][:, :width], state + 1


def catalogue_task(args: argparse.Namespace) -> dict[str, Any]:
    """What a search costs beside the model."""
    results = {}
    for items in args.sizes:
        trie = CodeTrie.from_codes(item_codes(items), [CODES] * LEVELS)
        decoder = Recorded(args.batch, 20)
        seen = torch.randint(1, items + 1, (args.batch, 20), generator=torch.Generator().manual_seed(5))
        shared = trie.allow(torch.rand(items) < 0.5)
        runs: dict[str, Callable[[], Any]] = {
            "search": lambda decoder=decoder, trie=trie: search_beams(decoder, None, trie, 20, 20),
            "search without seen items": lambda decoder=decoder, trie=trie, seen=seen: search_beams(
                decoder, None, trie, 20, 20, exclude=seen
            ),
            "search of half the items": lambda decoder=decoder, trie=trie, shared=shared: search_beams(
                decoder, None, trie, 20, 20, mask=shared
            ),
        }
        found = summary(alternate(runs, max(5, args.rounds), warm=2))
        results[f"{items:,} items"] = {"seconds": found, "milliseconds": found["search"]["median"] * 1e3}
        print_case(f"{items:,} items", results[f"{items:,} items"])
    return results


def print_case(name: str, numbers: dict[str, Any]) -> None:
    """One line a case, flat."""
    parts = []
    for key, value in numbers.items():
        if key == "seconds":
            parts += [
                f"{side} {found['median']:.4g} s ({found['min']:.4g}-{found['max']:.4g})"
                for side, found in value.items()
            ]
        elif isinstance(value, dict):
            shown = {
                side: round(found, 1) if isinstance(found, float) and found > 1 else found
                for side, found in value.items()
            }
            parts.append(f"{key} {shown}")
        else:
            parts.append(f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}")
    print(f"  {name}: " + "; ".join(parts), flush=True)


def judge(results: dict[str, Any]) -> list[dict[str, Any]]:
    """The goals, as far as they were measured."""
    verdicts = []
    for task, case, what, bound, goal in GOALS:
        value = results.get(task, {}).get(case, {}).get(what)
        if value is not None:
            reached = value >= goal if bound == "at least" else value <= goal
            verdicts.append({"task": task, "case": case, "what": what, "value": value, "goal": f"{bound} {goal:g}"})
            verdicts[-1]["reached"] = reached
    return verdicts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default=",".join(TASKS), help=f"some of {', '.join(TASKS)} (default: all)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds (default 3)")
    parser.add_argument("--threads", type=int, default=2, help="threads of both sides (default 2)")
    parser.add_argument("--batch", type=int, default=64, help="users searched for at once (default 64)")
    parser.add_argument("--beams", default="10,20,50", help="numbers of beams (default 10,20,50)")
    parser.add_argument("--rows", type=int, default=256, help="rows of a training step (default 256)")
    cases = "full float32,full bfloat16,ragged float32,ragged bfloat16"
    parser.add_argument("--cases", default=cases, help=f"training cases (default: {cases})")
    parser.add_argument("--micro-batches", type=int, default=1, help="parts of our training step (default 1)")
    parser.add_argument("--attention", default="eager,sdpa", help="attention of transformers (default eager,sdpa)")
    parser.add_argument("--sizes", default="12101,1000000,10000000", help="catalogues of the trie")
    parser.add_argument("--out", type=Path, help="JSON file for all numbers")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.beams, args.sizes = ([int(part) for part in given.split(",")] for given in (args.beams, args.sizes))
    args.cases, args.attention = args.cases.split(","), args.attention.split(",")
    torch.set_num_threads(args.threads)
    if args.worker:
        print(json.dumps(memory_worker(args.worker, args)))
        return
    tasks: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
        "beams": beams_task,
        "train": train_task,
        "memory": memory_task,
        "trie": trie_task,
        "catalogue": catalogue_task,
    }
    chosen = args.tasks.split(",")
    if unknown := sorted(set(chosen) - set(tasks)):
        parser.error(f"{', '.join(unknown)} is unknown; choose from {', '.join(tasks)}")
    print(f"{args.threads} threads, {args.rounds} rounds, torch {torch.__version__}", flush=True)
    results = {}
    for name in chosen:
        print(name, flush=True)
        results[name] = tasks[name](args)
    verdicts = judge(results)
    for verdict in verdicts:
        mark = "reached" if verdict["reached"] else "MISSED"
        named = f"{verdict['task']}, {verdict['case']}, {verdict['what']}"
        print(f"{named:60}{verdict['value']:8.2f}   goal {verdict['goal']:14}{mark}")
    if args.out is not None:
        settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()}
        args.out.write_text(json.dumps({"settings": settings, "results": results, "goals": verdicts}, indent=1) + "\n")


if __name__ == "__main__":
    main()

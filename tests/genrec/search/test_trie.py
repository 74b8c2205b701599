"""The trie against brute force over the table of codes, its insertions and deletions against a rebuild, its masks."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.search.trie import NO_NODE, CodeTrie
from semtok.codes import ItemCodes


def table(rng, items=60, sizes=(4, 5, 3), ragged=False):
    codes = np.stack([rng.integers(0, size, items) for size in sizes], 1)
    if ragged:
        for row, length in enumerate(rng.integers(1, len(sizes) + 1, items)):
            codes[row, length:] = -1
    return codes


def same(left, right):
    assert (left.sizes, left.widths, left.ends) == (right.sizes, right.widths, right.ends)
    for name in ("children", "tokens", "ranges"):
        for a, b in zip(getattr(left, name), getattr(right, name), strict=True):
            assert torch.equal(a, b), name
            assert a.dtype == torch.int32
    assert torch.equal(left.items, right.items)
    assert (left.priority is None) == (right.priority is None)
    assert left.priority is None or torch.equal(left.priority, right.priority)


def prefixes(trie, depth):
    """Codes of every node of a depth, by following the arrays."""
    rows = [()]
    for step in range(depth):
        offsets, tokens = trie.children[step].tolist(), trie.tokens[step].tolist()
        rows = [
            (*row, *tokens[child])
            for row, first, stop in zip(rows, offsets, offsets[1:], strict=False)
            for child in range(first, stop)
        ]
    return rows


cases = st.tuples(st.integers(0, 10_000), st.booleans(), st.booleans())


@settings(max_examples=20)
@given(cases)
def test_nodes_are_the_sorted_distinct_prefixes_and_ranges_the_items_below_them(case):
    seed, ragged, ranked = case
    rng = np.random.default_rng(seed)
    codes = table(rng, int(rng.integers(1, 80)), ragged=ragged)
    priority = rng.integers(0, 3, len(codes)) if ranked else None
    trie = CodeTrie.from_codes(codes, sizes=(4, 5, 3), priority=priority)
    ends = np.array(trie.ends)
    closed = np.where(codes < 0, ends, codes)
    rank = np.zeros(len(codes)) if priority is None else -priority
    order = np.lexsort((np.arange(len(codes)), rank, *closed.T[::-1]))
    assert (trie.items.numpy() == order + 1).all()
    assert (trie.codes().numpy() == closed[order]).all()
    for depth in range(1, 4):
        wanted = sorted({tuple(row[:depth]) for row in closed.tolist()})
        assert prefixes(trie, depth) == wanted
        nodes = trie.walk(torch.tensor(wanted))
        assert nodes.tolist() == list(range(len(wanted)))
        for node, prefix in enumerate(wanted):
            first, stop = (int(edge) for edge in trie.span(depth, torch.tensor(node)))
            below = {int(item) for item in trie.items[first:stop]}
            assert below == {row + 1 for row, code in enumerate(closed.tolist()) if tuple(code[:depth]) == prefix}


@settings(max_examples=20)
@given(st.integers(0, 10_000))
def test_every_code_finds_its_item_and_no_other_code_finds_any(seed):
    rng = np.random.default_rng(seed)
    codes, priority = table(rng, 30, ragged=seed % 2 == 0), rng.integers(0, 4, 30)
    trie = CodeTrie.from_codes(codes, sizes=(4, 5, 3), priority=priority)
    best = {}
    for row, code in enumerate(map(tuple, codes.tolist())):
        best.setdefault(code, []).append((-priority[row], row + 1))
    found = trie.find(torch.from_numpy(codes))
    assert found.tolist() == [min(best[tuple(code)])[1] for code in codes.tolist()]
    grid = torch.cartesian_prod(torch.arange(5), torch.arange(6), torch.arange(4))
    wanted = [min(best.get(tuple(code), [(0, -1)]))[1] for code in grid.tolist()]
    hits = trie.find(grid).tolist()
    assert all(hit == item for hit, item, code in zip(hits, wanted, grid.tolist(), strict=True) if max(code) < 3)


def test_children_come_with_their_codes_and_missing_nodes_have_none():
    trie = CodeTrie.from_codes(np.array([[0, 1], [0, 3], [2, 2]]))
    children, there = trie.expand(1, torch.tensor([[0, 1, NO_NODE]]))
    assert there.tolist() == [[[True, True], [True, False], [False, False]]]
    assert trie.tokens[1][children[there], 0].tolist() == [1, 3, 2]
    assert trie.descend(1, torch.tensor([0, 0, 1, NO_NODE]), torch.tensor([3, 2, 2, 2])).tolist() == [1, NO_NODE, 2, -1]
    assert trie.walk(torch.tensor([[2], [1]])).tolist() == [1, NO_NODE]
    assert trie.unique
    assert len(trie) == 3


@settings(max_examples=20)
@given(st.integers(0, 10_000))
def test_tuple_nodes_are_the_same_items_in_fewer_steps(seed):
    rng = np.random.default_rng(seed)
    sizes = (3, 4, 2, 3, 4, 2)
    codes = table(rng, 50, sizes)
    flat, wide = CodeTrie.from_codes(codes, sizes), CodeTrie.from_codes(codes, sizes, widths=3)
    assert wide.widths == (3, 3)
    assert torch.equal(flat.items, wide.items)
    assert torch.equal(flat.codes(), wide.codes())
    assert [tuple(row) for row in wide.tokens[0].tolist()] == sorted({tuple(row) for row in codes[:, :3].tolist()})
    grid = torch.from_numpy(table(rng, 200, (4, 5, 3, 4, 5, 3)))
    assert torch.equal(flat.find(grid), wide.find(grid))
    assert torch.equal(wide.find(torch.from_numpy(codes)), flat.find(torch.from_numpy(codes)))


def test_codes_too_large_for_one_sort_key_are_sorted_in_several():
    rng = np.random.default_rng(0)
    sizes = (2**20,) * 7
    codes = rng.integers(0, 2, (100, 7)) * (2**20 - 1)
    trie = CodeTrie.from_codes(codes, sizes)
    assert (trie.items.numpy() == np.lexsort((np.arange(100), *codes.T[::-1])) + 1).all()


@settings(max_examples=20)
@given(cases)
def test_inserting_equals_a_rebuild(case):
    seed, ragged, ranked = case
    rng = np.random.default_rng(seed)
    codes = table(rng, 80, ragged=ragged)
    codes[0], codes[1] = (0, -1, -1) if ragged else (0, 0, 0), (1, 1, -1) if ragged else (0, 0, 0)
    numbers = rng.permutation(200)[:80] + 1
    priority = rng.integers(0, 3, 80) if ranked else None
    whole = CodeTrie.from_codes(codes, (4, 5, 3), numbers, priority=priority)
    some = int(rng.integers(2, 80))
    ranks = (None, None) if priority is None else (priority[:some], priority[some:])
    first = CodeTrie.from_codes(codes[:some], (4, 5, 3), numbers[:some], priority=ranks[0])
    before = first.items.clone()
    same(first.insert(codes[some:], numbers[some:], ranks[1]), whole)
    assert torch.equal(first.items, before)


@settings(max_examples=20)
@given(cases)
def test_deleting_equals_a_rebuild(case):
    seed, ragged, ranked = case
    rng = np.random.default_rng(seed)
    codes = table(rng, 80, ragged=ragged)
    if ragged:
        codes[0], codes[1] = (0, -1, -1), (1, 1, -1)
    numbers = rng.permutation(200)[:80] + 1
    priority = rng.integers(0, 3, 80) if ranked else None
    whole = CodeTrie.from_codes(codes, (4, 5, 3), numbers, priority=priority)
    keep = rng.random(80) < rng.random()
    keep[:2] = True
    ranks = None if priority is None else priority[keep]
    left = CodeTrie.from_codes(codes[keep], (4, 5, 3), numbers[keep], priority=ranks)
    same(whole.delete(numbers[~keep]), left)


def test_an_emptied_trie_takes_items_again():
    codes = np.array([[0, 1], [0, 3], [2, 2]])
    trie = CodeTrie.from_codes(codes, sizes=(3, 4))
    empty = trie.delete([1, 2, 3])
    assert len(empty) == 0
    assert empty.find(torch.from_numpy(codes)).tolist() == [-1, -1, -1]
    same(empty.insert(codes, [1, 2, 3]), trie)


@settings(max_examples=20)
@given(st.integers(0, 10_000))
def test_allowed_items_below_every_node_are_counted(seed):
    rng = np.random.default_rng(seed)
    codes = table(rng, 40, ragged=seed % 3 == 0)
    trie = CodeTrie.from_codes(codes, (4, 5, 3), priority=rng.integers(0, 3, 40))
    mask = rng.random((3, 40)) < rng.random()
    exclude = rng.integers(-1, 60, (3, 9))
    shared = seed % 2 == 0
    allowed = trie.allow(torch.from_numpy(mask[0] if shared else mask), exclude)
    for depth in range(4):
        count = len(trie.ranges[depth]) - 1 if depth < 3 else len(trie.tokens[-1])
        counts = allowed.count(depth, torch.arange(count).expand(3, -1))
        for row in range(3):
            fine = {item for item in range(1, 41) if mask[0 if shared else row][item - 1]} - set(exclude[row].tolist())
            for node in range(count):
                first, stop = (int(edge) for edge in trie.span(depth, torch.tensor(node)))
                below = [item for item in trie.items[first:stop].tolist() if item in fine]
                assert int(counts[row, node]) == len(below)
                if depth == 3:
                    leaf = allowed.first(torch.full((3, 1), node))[row]
                    assert int(leaf) == (below[0] if below else -1)
    chosen = allowed.select(slice(1, 3)).count(0, torch.zeros(2, 1, dtype=torch.int64))
    assert torch.equal(chosen, allowed.count(0, torch.zeros(3, 1, dtype=torch.int64))[1:])


def test_what_was_seen_may_come_as_lists():
    trie = CodeTrie.from_codes(np.array([[0, 1], [0, 3], [2, 2]]))
    root = torch.zeros(2, 1, dtype=torch.int64)
    assert trie.allow(exclude=[[1, 3, 99], []]).count(0, root).tolist() == [[1], [3]]
    assert trie.allow(mask=torch.tensor([True, False, True])).rows == 1


def test_codes_that_bring_their_own_end():
    codes = np.array([[0, 9, 9], [0, 1, 9], [0, 1, 2], [3, 9, 1]])
    trie = CodeTrie.from_codes(codes, sizes=(10, 10, 10), end=9)
    assert trie.sizes == (10, 10, 10)
    assert trie.codes().tolist() == [[0, 1, 2], [0, 1, 9], [0, 9, 9], [3, 9, 9]]
    assert trie.closed(2, torch.arange(3)).tolist() == [False, True, True]
    assert trie.find(torch.tensor([[0, 1, -1], [3, 9, 7]])).tolist() == [2, 4]


def test_from_item_codes_and_to_a_device():
    codes = ItemCodes(np.array([[0, 1], [2, 1]]), (3, 2), np.array(["a", "b"]))
    trie = CodeTrie.from_codes(codes)
    assert trie.sizes == (3, 2)
    same(trie.to("cpu"), trie)
    assert trie.nbytes == sum(a.nbytes for a in (*trie.children, *trie.tokens, trie.ranges[0], trie.items))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"codes": np.array([[0, 5]]), "sizes": (1, 5)}, r"codes\[0, 1\] is 5 but the codes of column 1 are 0 to 4"),
        ({"codes": np.array([[-1, 0]])}, "expected at least one code an item"),
        ({"codes": np.array([[0, -1, 1]])}, "-1 may stand only at the end"),
        ({"codes": np.array([[0, 0, 0, -1]]), "widths": 2}, "ends within a step"),
        ({"codes": np.array([[0, 1, 2]]), "widths": 2}, "3 columns, which steps of widths 2 do not fill"),
        ({"codes": np.array([[0.5]])}, "expected integers"),
        ({"codes": np.array([[0], [1]]), "items": [1, 1]}, "item 1 more than once"),
        ({"codes": np.array([[0], [1]]), "items": [0, 1]}, "item numbers of 1 and above"),
        ({"codes": np.array([[0], [1]]), "items": [1]}, "one number for each of 2 rows"),
        ({"codes": np.array([[0], [1]]), "priority": [1]}, "one for each of 2 items"),
        ({"codes": np.array([[0, 1]]), "sizes": (1,)}, "2 columns but sizes names 1"),
    ],
)
def test_bad_tables_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        CodeTrie.from_codes(**arguments)


def test_bad_changes_and_masks_are_refused():
    trie = CodeTrie.from_codes(np.array([[0, 1], [0, 3], [2, 2]]))
    with pytest.raises(ValueError, match="item 2 is in the trie already"):
        trie.insert([[1, 1]], [2])
    with pytest.raises(ValueError, match="where no code of the trie ends"):
        trie.insert([[1, -1]], [7])
    with pytest.raises(ValueError, match="built for 2 columns"):
        trie.insert([[1]], [7])
    with pytest.raises(ValueError, match="priority is given"):
        trie.insert([[1, 1]], [7], [1])
    with pytest.raises(ValueError, match="item 9 is not among the 3 items"):
        trie.delete([9])
    with pytest.raises(ValueError, match="mask covers 2 items but the trie holds item number 3"):
        trie.allow(mask=torch.ones(2, dtype=torch.bool))
    with pytest.raises(ValueError, match="expected bool"):
        trie.allow(mask=torch.ones(3))
    with pytest.raises(ValueError, match="mask has 2 rows but exclude has 3"):
        trie.allow(torch.ones(2, 3, dtype=torch.bool), np.zeros((3, 1), dtype=np.int64))
    with pytest.raises(ValueError, match="no whole number of steps"):
        CodeTrie.from_codes(np.zeros((1, 4), dtype=np.int64), widths=2).walk(torch.zeros(1, 3, dtype=torch.int64))

"""Histories, splits and batches: parts rebuild the whole, orders repeat, targets follow their inputs."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbase.data.sequences import Histories, SequenceBatches
from recbase.data.splits import global_time, leave_last_out

LISTS = st.lists(st.lists(st.integers(1, 30), min_size=0, max_size=12), min_size=1, max_size=20)


def flatten(step):
    """(items, targets) pairs of one step's micro-batches as Python lists, padding stripped."""
    rows = []
    for batch in step:
        for items, length, targets in zip(batch.items, batch.lengths, batch.targets, strict=True):
            rows.append((items[:length].tolist(), targets[:length].tolist()))
    return rows


@given(LISTS)
def test_histories_keep_every_list(lists):
    histories = Histories.from_lists(lists)
    assert [histories[user].tolist() for user in range(len(histories))] == lists
    items, offsets = histories.flat()
    assert items.tolist() == [item for row in lists for item in row]
    assert np.diff(offsets).tolist() == [len(row) for row in lists]


@given(LISTS, st.integers(1, 15))
def test_padded_keeps_the_latest(lists, max_len):
    items, lengths = Histories.from_lists(lists).padded(slice(None), max_len)
    for row, length, expected in zip(items, lengths, lists, strict=True):
        assert row[:length].tolist() == expected[-max_len:]
        assert not row[length:].any()


@given(LISTS, st.floats(0.01, 1.0), st.integers(0, 3))
def test_a_share_of_the_users_is_kept_whole(lists, share, seed):
    histories = Histories.from_lists([[1], *lists])
    part = histories.sampled(share, seed)
    assert len(part) == len(histories)
    untouched = [part[user].tolist() == histories[user].tolist() for user in range(len(part))]
    assert all(kept or len(part[user]) == 0 for user, kept in enumerate(untouched))
    if share < 1:
        filled = {user for user in range(len(part)) if len(part[user])}
        assert len(filled) <= max(1, round(share * len(part)))
        assert filled <= {user for user, row in enumerate(histories.sampled((1 + share) / 2, seed).lengths) if row}
    assert histories.sampled(1.0, seed) is histories


@given(LISTS)
def test_leave_last_out_rebuilds_every_history(lists):
    histories = Histories.from_lists([*lists, [1, 2, 3]])
    split = leave_last_out(histories)
    for row, user in enumerate(split.test.users):
        whole = histories[user].tolist()
        assert [*split.train[user].tolist(), int(split.valid.items[row]), int(split.test.items[row])] == whole
        assert split.valid.histories[row].tolist() == whole[:-2]
        assert split.test.histories[row].tolist() == whole[:-1]
    assert set(split.test.users) == {user for user in range(len(histories)) if len(histories[user]) >= 3}


def test_leave_last_out_without_evaluable_user():
    with pytest.raises(ValueError, match="at least 3 events; the longest of 2 has 2"):
        leave_last_out(Histories.from_lists([[1, 2], [3]]))


def test_global_time_trains_on_the_past_only():
    histories = Histories.from_lists([[1, 2, 3, 4], [5, 6, 7]])
    times = np.array([10, 20, 30, 40, 15, 35, 45])
    split = global_time(histories, times, valid_from=25, test_from=38)
    assert [split.train[user].tolist() for user in range(2)] == [[1, 2], [5]]
    assert split.valid.items.tolist() == [3, 6]
    assert split.test.items.tolist() == [4, 7]
    assert split.test.histories[0].tolist() == [1, 2, 3]


def test_global_time_refuses_cuts_in_the_wrong_order():
    with pytest.raises(ValueError, match=r"valid_from \(9\) must lie before test_from \(3\)"):
        global_time(Histories.from_lists([[1, 2]]), np.array([1, 2]), 9, 3)


@pytest.mark.parametrize("form", ["all", "prefix"])
def test_targets_follow_their_inputs_and_none_is_lost(form):
    lists = [[1, 2, 3, 4], [5, 6], [7], [8, 9, 10]]
    batches = SequenceBatches(Histories.from_lists(lists), form, batch_size=3, max_len=10, seed=1)
    pairs = []
    for step in batches:
        assert sum(int((batch.targets > 0).sum()) for batch in step) == step[0].target_count
        for items, targets in flatten(step):
            pairs += [(tuple(items[: at + 1]), target) for at, target in enumerate(targets) if target]
    expected = [(tuple(row[:at]), row[at]) for row in lists for at in range(1, len(row))]
    assert sorted(pairs) == sorted(expected)


def test_all_positions_keep_the_latest_window():
    batches = SequenceBatches(Histories.from_lists([[1, 2, 3, 4, 5, 6]]), "all", batch_size=1, max_len=3)
    (step,) = list(batches)
    assert flatten(step) == [([3, 4, 5], [4, 5, 6])]


def test_cloze_hides_what_it_asks_for():
    lists = [list(range(1 + user, 9 + user)) for user in range(40)]
    batches = SequenceBatches(Histories.from_lists(lists), "cloze", 8, 6, mask_item=99, mask_prob=0.3, seed=3)
    hidden = 0
    for step in batches:
        for batch in step:
            masked = batch.items == 99
            assert torch.equal(masked, batch.targets > 0)
            assert bool(masked.any(1).all())
            whole = torch.where(masked, batch.targets, batch.items)
            assert bool((whole[:, 1:] - whole[:, :-1] == 1).all())
            hidden += int(masked.sum())
    assert 0.2 < hidden / (40 * 6) < 0.42


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(0, 5), st.sampled_from(["all", "prefix", "cloze"]))
def test_ranks_and_micro_batches_partition_the_same_steps(world, micro, seed, form):
    rng = np.random.default_rng(seed)
    histories = Histories.from_lists([rng.integers(1, 50, rng.integers(2, 9)).tolist() for _ in range(40)])
    settings_ = {"form": form, "batch_size": 9, "max_len": 5, "seed": seed, "mask_item": 51}
    whole = [sorted(flatten(step)) for step in SequenceBatches(histories, **settings_)]
    parts = [
        list(SequenceBatches(histories, **settings_, rank=rank, world=world, micro_batches=micro))
        for rank in range(world)
    ]
    for number, expected in enumerate(whole):
        together = [row for part in parts for row in flatten(part[number])]
        assert sorted(together) == expected
        positions = torch.cat([batch.positions for part in parts for batch in part[number]])
        assert sorted(positions.tolist()) == list(range(len(expected)))
        assert len({batch.seed for part in parts for batch in part[number]}) == 1


def test_same_seed_same_order_and_resume_in_mid_epoch():
    histories = Histories.from_lists([list(range(1, 3 + user % 7)) for user in range(50)])
    first, second = (SequenceBatches(histories, "all", 8, 10, seed=4) for _ in range(2))
    run = [flatten(step) for _ in range(2) for step in first]
    iterator = iter(second)
    seen = [flatten(next(iterator)) for _ in range(3)]
    third = SequenceBatches(histories, "all", 8, 10, seed=4)
    third.load_state_dict(second.state_dict())
    seen += [flatten(step) for _ in range(2) for step in third]
    assert seen == run
    assert run != [flatten(step) for _ in range(2) for step in SequenceBatches(histories, "all", 8, 10, seed=5)]


def test_resume_refuses_other_data():
    batches = SequenceBatches(Histories.from_lists([[1, 2], [3, 4]]), "all", 2)
    other = SequenceBatches(Histories.from_lists([[1, 2]]), "all", 2)
    with pytest.raises(ValueError, match="made with samples 2, now it is 1"):
        other.load_state_dict(batches.state_dict())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"form": "window"}, "form must be one of all, prefix, cloze, got 'window'"),
        ({"batch_size": 0}, "--batch-size must be at least 1, got 0"),
        ({"max_len": -3}, "--max-len must be at least 1, got -3"),
        ({"batch_size": 2, "world": 2, "micro_batches": 2}, "--batch-size 2 is smaller than processes x micro-batches"),
    ],
)
def test_batches_refuse(arguments, message):
    with pytest.raises(ValueError, match=message):
        SequenceBatches(Histories.from_lists([[1, 2]]), **arguments)


def test_batches_refuse_histories_without_a_target():
    with pytest.raises(ValueError, match="no history of the 2 users is long enough"):
        SequenceBatches(Histories.from_lists([[1], []]))

"""The audit: counted shares against ones that are known, and what the command says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from recbase.data.catalog import load_dataset
from recbase.data.sequences import Histories
from seqrec.analysis.audit import _shuffled, audit_dataset
from seqrec.cli import main
from seqrec.models.transition_graph import TransitionGraph
from seqrec.models.transitions import Transitions

FOLDERS = Path(__file__).parents[2] / "golden" / "folders"


def test_the_audit_of_a_data_set_holds_together() -> None:
    found = audit_dataset(load_dataset(str(FOLDERS / "dataset")), embeddings=FOLDERS / "embeddings")
    assert {"popularity", "one step", "counter", "item-item", "graph", "graph by text"} < set(found["rows"])
    best = max(row["recall@10"] for name, row in found["rows"].items() if "shuffled" not in name)
    assert best <= found["oracle_union"]["recall@10"] <= 1
    assert found["transitions"]["one_step"] <= found["transitions"]["two_steps"]
    assert found["dataset"]["repeats"] == found["repeats"]["events"]


def test_the_command_prints_a_table_and_json() -> None:
    shown = CliRunner().invoke(main, ["audit", str(FOLDERS / "dataset")])
    assert shown.exit_code == 0
    for words in ("popularity", "oracle", "Repeats:", "Transitions:", "Cold:"):
        assert words in shown.output
    found = CliRunner().invoke(main, ["audit", str(FOLDERS / "dataset"), "--part", "valid", "--json"])
    assert json.loads(found.output)["part"] == "valid"


def test_shuffled_histories_keep_their_items() -> None:
    histories = Histories.from_lists([[1, 2, 3, 4, 5, 6], [7, 8], []])
    mixed = _shuffled(histories, 0)
    assert [sorted(mixed[user].tolist()) for user in range(3)] == [[1, 2, 3, 4, 5, 6], [7, 8], []]
    np.testing.assert_array_equal(mixed.items, _shuffled(histories, 0).items)


def scores(model, history):
    import torch

    return model.scorer()(torch.tensor([history]), torch.tensor([len(history)]))[0]


def test_nearer_rings_stand_first_and_text_orders_a_ring() -> None:
    train = Histories.from_lists([[1, 2, 4], [1, 3], [5, 6]])
    text = np.array([[1, 0], [0, 1], [1, 0.1], [1, 0], [0, 1], [0, 1]], dtype=np.float32)
    model = TransitionGraph(6, text_dim=2).with_content(text).fit(train)
    order = (scores(model, [5, 1]).argsort(descending=True) + 1).tolist()
    assert order[:4] == [3, 2, 6, 4]  # one step from 1 (3 is more alike), one step from 5, two steps from 1
    with pytest.raises(ValueError, match="text has shape"):
        model.with_content(text[:2])


def test_the_second_step_reaches_what_the_first_does_not() -> None:
    train = Histories.from_lists([[1, 2], [2, 3], [4, 5]])
    plain, far = (scores(Transitions(5, second_step=weight).fit(train), [1]) for weight in (0.0, 0.5))
    assert plain[2] == plain[3]
    assert far[2] > far[3]
    assert far.argmax() == plain.argmax() == 1

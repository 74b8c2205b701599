"""Tests that every ranking model passes, for models of other packages."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl
import torch

from recbase.cli.signatures import options_from, recipes_from
from recbase.data.sequences import Histories
from recbase.evaluate.ranking import rank_targets, summarize, topk
from recbase.store.runs import load_run, resolve, save_run
from seqrec import MODELS, REGISTRY
from seqrec.content import SHAPES
from seqrec.testing.world import ITEMS, USERS, WALKED, batches, cycle, drawn_content, scores, targets, train
from seqrec.training import build_model

__all__ = ["RankerContract"]

_WALKS = [[(start + step) % WALKED + 1 for step in range(6)] for start in range(WALKED)]
_FOLLOWING = [row[-1] % WALKED + 1 for row in _WALKS]


class RankerContract:
    """Tests that every ranking model passes; a subclass whose name starts with Test names its model.

    Attributes
    ----------
    model : str
        Name in ``seqrec.REGISTRY``: its entry point, or its line.
    settings : dict
        Arguments of its constructor that make it small.
    learns : bool
        Whether it can learn a walk from item to item; False for models that do not read order.
    epochs, lr : int, float
        Passes and learning rate of Adam in which it learns the walk.
    tolerance : float
        Largest difference of a score by what else is in a batch, as a share of the largest score.
    micro_batches_sum : bool
        Whether the losses of a step's parts add up to the whole; False for contrasts within a batch.
    """

    model: ClassVar[str]
    settings: ClassVar[dict[str, Any]] = {}
    learns: ClassVar[bool] = True
    epochs: ClassVar[int] = 20
    lr: ClassVar[float] = 5e-3
    tolerance: ClassVar[float] = 1e-5
    micro_batches_sum: ClassVar[bool] = True

    @property
    def entry(self) -> Any:
        """Its line of the registry."""
        return REGISTRY[self.model]

    @property
    def counted(self) -> bool:
        """True of a model that counts and has no gradient."""
        return bool(self.entry.kind == "counted")

    def build(self) -> Any:
        """The model with its seeded start; one that counts is fitted."""
        torch.manual_seed(0)
        made = build_model(self.model, ITEMS, USERS, drawn_content(self.entry.inputs), dict(self.settings))
        return made.fit(cycle()) if self.counted else made

    def trained(self) -> Any:
        """The model when it has been trained on the walk, in its first sample form."""
        made = self.build()
        if not self.counted:
            train(made, self.entry.forms[0], self.epochs, self.lr)
            made.eval()
        return made

    def test_it_learns_the_next_item(self) -> None:
        if self.learns:
            found = (scores(self.trained(), _WALKS).argmax(1) + 1).tolist()
            wrong = sum(one != other for one, other in zip(found, _FOLLOWING, strict=True))
            assert wrong == 0, f"{wrong} of {WALKED} walks go on with the wrong item after {self.epochs} epochs"

    def test_every_item_has_a_finite_score_and_no_other(self) -> None:
        made = self.build()
        found = scores(made, _WALKS)
        assert found.shape == (WALKED, ITEMS), "a score for every item, item number 1 first"
        assert found.dtype == torch.float32
        assert bool(torch.isfinite(found).all())
        lists = topk(made.scorer(), Histories.from_lists(_WALKS), ITEMS).items
        assert np.array_equal(np.sort(lists, 1), np.tile(np.arange(1, ITEMS + 1), (WALKED, 1)))

    def test_padding_changes_nothing(self) -> None:
        made = self.build()
        if not self.counted:
            made.eval()
        together = scores(made, [[3, 4, 5, 6, 7], [9], [2, 8]])
        largest = max(1.0, float(together.abs().max()))
        for row, history in ((1, [9]), (2, [2, 8])):
            alone = scores(made, [history])
            difference = float((together[row : row + 1] - alone).abs().max())
            assert difference <= self.tolerance * largest, f"scores move by {difference:.2g} with what is beside them"

    def test_a_form_all_shows_no_label(self) -> None:
        """Gradients of the loss at early positions must not reach later items of the history."""
        if not self.learns or self.counted or "all" not in self.entry.forms or not hasattr(self.build(), "states"):
            return
        from recbase.nn.transformer import Packing

        made = self.build().eval()
        users = torch.arange(1) if getattr(made, "reads_users", False) else None
        states = []
        for history in ([3, 4, 5, 6], [3, 4, 9, 1]):
            items, lengths = torch.tensor([history]), torch.tensor([4])
            with torch.no_grad():
                states.append(made.states(items, Packing.of(lengths, 4), users))
        assert torch.equal(states[0][:2], states[1][:2]), "a state changes with later items: all shows its label"
        assert not torch.equal(states[0][2:], states[1][2:]), "a state does not change with its own item"

    def test_same_seed_same_result(self) -> None:
        def metrics() -> Any:
            made = self.build()
            losses = [] if self.counted else train(made, self.entry.forms[0], epochs=1)
            return losses, summarize(rank_targets(made.scorer(), targets()))

        assert metrics() == metrics()

    def test_a_run_folder_gives_the_model_back(self, tmp_path: Path) -> None:
        made = self.build()
        if not self.counted:
            made.eval()
        items = pl.DataFrame({"item_id": [f"i{number}" for number in range(ITEMS)]})
        save_run(tmp_path / "run", self.model, made, items, {"recipe": "default"})
        again = load_run(tmp_path / "run", MODELS).model
        assert type(again) is type(made)
        assert again.config() == made.config()
        assert torch.equal(scores(again, _WALKS), scores(made, _WALKS))

    def test_a_pretrained_folder_gives_the_model_back(self, tmp_path: Path) -> None:
        made = self.build()
        made.save_pretrained(tmp_path / "model", item_ids=[f"i{number}" for number in range(ITEMS)])
        again = type(made).from_pretrained(tmp_path / "model")
        assert torch.equal(scores(again, _WALKS), scores(made, _WALKS))

    def test_every_parameter_is_trained(self) -> None:
        """Processes wait for the gradient of every parameter, of a batch without rows too."""
        if self.counted:
            return
        made, form = self.build(), self.entry.forms[0]
        full = next(iter(batches(made, form)))[0]
        empty = next(iter(batches(made, form, Histories.from_lists([[1, 2]]), rank=1, world=2)))[0]
        for batch in (full, empty):
            made.zero_grad()
            made(batch).loss.backward()
            idle = [key for key, value in made.named_parameters() if value.grad is None]
            assert not idle or getattr(made, "unused_parameters", False), f"without a gradient: {', '.join(idle)}"
        assert float(made(empty).loss.detach()) == 0, "a batch without rows has no share in the loss"

    def test_micro_batches_of_a_step_sum_to_the_step(self) -> None:
        if self.counted or not self.micro_batches_sum:
            return
        results = []
        for micro in (1, 3):
            made = self.build().eval()
            step = next(iter(batches(made, self.entry.forms[0], batch_size=24, micro_batches=micro, seed=2)))
            losses = [made(batch).loss for batch in step]
            results.append(float(sum(loss.detach() for loss in losses)))
        assert abs(results[0] - results[1]) <= 1e-4 * abs(results[0]), f"{results[0]:.6f} is not {results[1]:.6f}"

    def test_recipes_are_options(self) -> None:
        target = MODELS[self.model]
        known = {option.name for option in options_from(target, SHAPES)} | {"form"}
        known |= {option.name for option in options_from("recbase.train.loop:TrainConfig")}
        known |= {option.name for option in options_from("seqrec.item_content:Content")}
        if self.model == "ccfrec":  # the one model with a stage of its own after the training
            known |= {option.name for option in options_from("seqrec.training:ItemIdStage")}
        for recipe, values in recipes_from(target).items():
            assert set(values) <= known, f"recipe {recipe} sets what is no option: {set(values) - known}"
            assert values.get("form", self.entry.forms[0]) in self.entry.forms if self.entry.forms else True

    def test_options_are_documented_and_checked(self) -> None:
        kind = resolve(self.model, MODELS)
        assert (kind.__doc__ or "").strip(), "its docstring is the help of the command"
        for option in options_from(MODELS[self.model], skip=SHAPES):
            assert option.help, f"{option.spelled} has no line in the docstring"

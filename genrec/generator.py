"""What generative recommenders share: the codes of the catalogue, the loss over their levels, and lists of items.

A :class:`Generator` keeps its catalogue's codes in a buffer, so that a run folder answers by itself. Knows no
architecture: a model says how histories are encoded and gives the logits of the next code, step by step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from genrec.dense import DenseHead, both_scores, last_states, rank_both
from genrec.nets.attention import Ragged
from genrec.nets.losses import children_loss, level_loss
from genrec.search.decoding import Beams, Logits, Normalization, score_items, search_beams
from genrec.search.trie import CodeTrie
from genrec.search.vocabulary import NO_CODE
from recbase.data.sequences import SequenceBatch
from recbase.model import Network
from recbase.train.loop import LossOutput

__all__ = ["Generator", "Samples", "samples"]

_STEP_CHILDREN = 1 << 23  # children of all prefixes of a step; some 40 bytes each


class Generator(Network):
    """A model that answers a history with the codes of the next item.

    A subclass passes ``locals()`` of its constructor and defines `encode_histories`, `start`, `step` and ``forward``;
    with ``start`` and ``step`` it is a :class:`genrec.search.decoding.CodeDecoder`.

    Parameters
    ----------
    arguments : mapping
        The constructor's arguments by name; ``items``, ``sizes`` and ``max_len`` must be among them.
    width : int, default 1
        Codes that make one step of decoding (BBQRec's triples have 3).

    Attributes
    ----------
    code_table : int32 Tensor [N + 1, L]
        Codes of item i in row i; row 0 is padding. -1 fills the end of codes that are shorter than others.
    priority : int32 Tensor [N]
        Of items with equal codes the one of the highest priority is recommended: their events in training.

    Raises
    ------
    ValueError
        If an argument is out of its range.
    """

    registry: ClassVar[str] = "genrec"
    training_arrays: ClassVar[tuple[str, ...]] = ()  # rows an item that only a training reads
    code_table: Tensor
    priority: Tensor

    def __init__(self, arguments: Mapping[str, Any], width: int = 1) -> None:
        super().__init__(arguments)
        self.sizes = tuple(int(size) for size in self._config["sizes"])
        self.width = width
        self.register_buffer("code_table", torch.full((self.items + 1, len(self.sizes)), NO_CODE, dtype=torch.int32))
        self.register_buffer("priority", torch.zeros(self.items, dtype=torch.int32))
        self.normalize: Normalization = self._config.get("normalize", "vocabulary")
        self._trie: CodeTrie | None = None
        self._leaves: tuple[CodeTrie, Tensor] | None = None
        self.dense: DenseHead | None = None
        self.dense_weight = 0.0
        self.group = len(self.sizes)  # tokens an item in the encoder

    def with_codes(self, codes: np.ndarray, priority: np.ndarray | None = None) -> Any:
        """Set the codes of the catalogue, int [N, L], and who stands for items that share one, int [N].

        Raises
        ------
        ValueError
            If the table does not fit the catalogue.
        """
        if codes.shape != (self.items, len(self.sizes)):
            raise ValueError(f"codes have shape {codes.shape}; the model expects {(self.items, len(self.sizes))}")
        self.code_table[1:] = torch.from_numpy(codes.astype(np.int32))
        if priority is not None:
            self.priority.copy_(torch.from_numpy(priority.astype(np.int32)))
        self._trie = None
        return self

    @property
    def trie(self) -> CodeTrie:
        """The catalogue as a prefix tree, on the device of the model; built when it is first asked for."""
        if self._trie is None or self._trie.device != self.code_table.device:
            self._trie = CodeTrie.from_codes(
                self.code_table[1:],
                self.sizes,
                widths=self.width,
                priority=self.priority,
                device=self.code_table.device,
            )
        return self._trie

    def load_state_dict(self, *given: Any, **named: Any) -> Any:
        """As in PyTorch; the tree is built anew."""
        self._trie = None
        return super().load_state_dict(*given, **named)

    def index_ranges(self) -> dict[str, Any]:
        """Least and largest value of the buffers that index tables."""
        return {"code_table": (NO_CODE, np.array(self.sizes) - 1)}

    def code_parts(self) -> list[Tensor]:
        """Codes of the catalogue [N, l], a table for every tree that is searched."""
        return [self.code_table[1:]]

    def check_restored(self) -> None:
        """Refuse codes that name no item: none at all, or with a gap before their end."""
        if self.dense is not None and not (0 <= float(self.dense.weight) < float("inf")):
            raise ValueError(f"'dense.weight' is {float(self.dense.weight)}; expected a finite number of at least 0")
        for part in self.code_parts():
            ended = part < 0
            wrong = ended[:, 0] | (ended[:, :-1] & ~ended[:, 1:]).any(1)
            if bool(wrong.any()):
                row = int(wrong.nonzero()[0, 0])
                raise ValueError(
                    f"'code_table' gives item {row + 1} the codes {part[row].tolist()}, expected one or more codes, "
                    f"filled up with {NO_CODE} at the end"
                )

    # ---------------------------------------------------------------------------------------- the dense head

    def dense_content(self) -> Tensor:
        """Content of items, which :class:`genrec.dense.DenseHead` reads besides their rows, [N + 1, D]."""
        raise NotImplementedError

    def dense_loss(self, memory: Any, found: Samples, items: Tensor) -> Tensor:
        """Sum over the targets of the dense head's cross-entropy among all items.

        Parameters
        ----------
        memory : Memory
            Of the histories of the batch, whose items are the last tokens of every row.
        found : Samples
        items : int64 Tensor [B, T]
            The histories, right padded with 0.
        """
        assert self.dense is not None
        states, ragged = memory.states, memory.ragged
        states = states[self.group - 1 :: self.group] if found.one_pass else last_states(states, ragged)[found.rows]
        later = torch.arange(items.shape[1], device=items.device) > found.steps[:, None]
        seen = items[found.rows].masked_fill(later, 0)
        return self.dense.loss(states, self.dense_content()[1:], seen, found.items)

    def with_dense(
        self, loss: Tensor, parts: dict[str, Tensor], memory: Any, found: Samples, batch: SequenceBatch
    ) -> LossOutput:
        """Loss of the codes and its parts, with that of the dense head where there is one; of this batch's share."""
        if self.dense is not None:
            dense = self.dense_loss(memory, found, batch.items) / batch.target_count
            parts = parts | {"dense": dense.detach()}
            loss = loss + self.dense_weight * dense
        return LossOutput(loss, parts)

    def take_choices(self, judged: Generator) -> None:
        """Take what validation has chosen of a model that is otherwise this one: the weight of the dense head."""
        if self.dense is not None and judged.dense is not None:
            self.dense.weight.copy_(judged.dense.weight)

    def _dense_scores(self, memory: Any, items: Tensor) -> Tensor:
        """Logits of all items by the dense head, [B, N]: of encoded histories and the items in them, [B, T]."""
        assert self.dense is not None
        states = last_states(memory.states, memory.ragged)
        return self.dense.scores(states, self.dense_content()[1:], items.to(states.device))

    @property
    def _weight(self) -> float:
        """Weight of the dense head in lists, 0 where there is none."""
        return 0.0 if self.dense is None else float(self.dense.weight)

    def _item_leaves(self) -> Tensor:
        """Leaf of every item, int64 [N]."""
        if self._leaves is None or self._leaves[0] is not self.trie:
            self._leaves = self.trie, self.trie.path(self.code_table[1:])[:, -1]
        return self._leaves[1]

    # ------------------------------------------------------------------------------------ what a model defines

    def encode_histories(self, items: Tensor, lengths: Tensor, users: Tensor | None = None) -> Any:
        """Encode histories for decoding: items [B, T], right padded, lengths [B] and, where known, users [B]."""
        raise NotImplementedError

    def start(self, memory: Any) -> Any:
        """State before the first code; see :class:`genrec.search.decoding.CodeDecoder`."""
        raise NotImplementedError

    def step(self, state: Any, parents: Tensor | None, tokens: Tensor | None) -> tuple[Logits, Any]:
        """Logits of the next code; see :class:`genrec.search.decoding.CodeDecoder`."""
        raise NotImplementedError

    # ------------------------------------------------------------------------------------------------ training

    def code_loss(self, logits: Sequence[Tensor], codes: Tensor, targets: Tensor, scale: float = 1.0) -> Tensor:
        """Sum over rows of the mean -log p of their codes over the levels, normalized as in the search.

        Parameters
        ----------
        logits : list of Tensor [S, V_l]
        codes : int64 Tensor [S, L]
            Of the target items.
        targets : int64 Tensor [S, L]
            Outputs that are right; -100 where a code has ended.
        scale : float, default 1.0
            Multiplies the logits.
        """
        if self.normalize == "children":
            return children_loss(logits, codes, self.trie, scale)
        return level_loss(logits, targets, scale)

    # --------------------------------------------------------------------------------------------- items out

    def rows_at_once(self, beams: int) -> int:
        """Histories that can be searched together within a bounded memory.

        A step holds every child of every prefix. Where codes repeat, thousands of items may follow one prefix, and a
        batch that is small for codes of 256 children would fill the memory.
        """
        widest = 1
        for trie in self.search_trees():
            prefixes = [1, *(len(tokens) for tokens in trie.tokens[:-1])]
            for count, most in zip(prefixes, trie.fan_outs, strict=True):
                widest = max(widest, min(beams, count) * most)
        if self.dense is not None:
            widest = max(widest, self.items)
        return max(1, _STEP_CHILDREN // widest)

    def search_trees(self) -> tuple[CodeTrie, ...]:
        """The trees that a search walks."""
        return (self.trie,)

    @torch.no_grad()
    def search(
        self,
        items: Tensor,
        lengths: Tensor,
        beams: int = 20,
        n_best: int = 10,
        mask: Tensor | np.ndarray | None = None,
        exclude: Tensor | np.ndarray | Sequence[Sequence[int]] | None = None,
        users: Tensor | None = None,
        exact: bool = False,
    ) -> Beams:
        """The best items of every history, by beam search or (``exact``) by scoring every item.

        Where the model has a dense head of some weight, lists are ranked by both; see :func:`genrec.dense.rank_both`.

        Parameters
        ----------
        items : int64 Tensor [B, T]
            Right padded with 0.
        lengths : int64 Tensor [B]
        beams, n_best, mask, exclude, exact
            See :func:`genrec.search.decoding.beam_search`.
        users : int64 Tensor [B], optional
            Rows of the users in the training histories, -1 for strangers.
        """
        device, training = self.code_table.device, self.training
        self.eval()
        memory = self.encode_histories(
            items.to(device), lengths.to(device), None if users is None else users.to(device)
        )
        about = (beams, n_best, mask, exclude, self.normalize, exact)
        if not (weight := self._weight):
            found = search_beams(self, memory, self.trie, *about)
        else:
            dense = self._dense_scores(memory, items)
            found = rank_both(self, memory, dense, weight, self.trie, self._item_leaves(), *about)
        self.train(training)
        return found

    @torch.no_grad()
    def score_all(self, items: Tensor, lengths: Tensor, users: Tensor | None = None) -> Tensor:
        """Log-probability of every item's codes, and the weighted one of the dense head if any, float32 [B, N]."""
        device, training = self.code_table.device, self.training
        self.eval()
        memory = self.encode_histories(
            items.to(device), lengths.to(device), None if users is None else users.to(device)
        )
        if not (weight := self._weight):
            scores = score_items(self, memory, self.trie, self.normalize)
        else:
            dense = self._dense_scores(memory, items)
            generated, logged = both_scores(self, memory, dense, self.trie, self._item_leaves(), self.normalize)
            scores = generated + weight * logged
        self.train(training)
        return scores

    @torch.no_grad()
    def score_both(
        self, items: Tensor, lengths: Tensor, users: Tensor | None = None, beams: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Log-probability of items by their codes and by the dense head; see :func:`genrec.dense.both_scores`."""
        assert self.dense is not None
        device, training = self.code_table.device, self.training
        self.eval()
        memory = self.encode_histories(
            items.to(device), lengths.to(device), None if users is None else users.to(device)
        )
        dense = self._dense_scores(memory, items)
        found = both_scores(self, memory, dense, self.trie, self._item_leaves(), self.normalize, beams)
        self.train(training)
        return found


@dataclass(frozen=True)
class Samples:
    """The targets of a batch.

    Attributes
    ----------
    rows, steps, items : int64 Tensor [S]
        Row, position and item number of each.
    one_pass : bool
        Whether every item of a history is followed by a target; else there is one target a row.
    """

    rows: Tensor
    steps: Tensor
    items: Tensor
    one_pass: bool


def samples(batch: SequenceBatch, causal: bool) -> Samples:
    """The targets of a batch: one a row, or all of a history as ``Ragged.of(batch.lengths, T)`` packs its items.

    Parameters
    ----------
    batch : SequenceBatch
    causal : bool
        Whether the model's encoder is causal, as it must be where a row has several targets.

    Raises
    ------
    ValueError
        If rows have several targets and the encoder is not causal, or a position of a history has none.
    """
    there = batch.targets > 0
    rows, steps = there.nonzero(as_tuple=True)
    if one_pass := len(rows) != len(batch.items):
        if not causal:
            raise ValueError("sample form all needs causal_encoder=True: targets would be seen by the encoder")
        if not bool((there == batch.valid).all()):
            raise ValueError("sample form all expects a target at every position of a history")
        width = batch.items.shape[1]
        index = Ragged.of(batch.lengths, width).index
        rows, steps = index // width, index % width
    return Samples(rows, steps, batch.targets[rows, steps], one_pass)

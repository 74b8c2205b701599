"""MAERec: SASRec over item vectors smoothed by a transition graph, with a graph autoencoder beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypedDict, Unpack

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from recbase.arguments import (
    Count,
    Depth,
    Dropout,
    Heads,
    Large,
    LargeOrOff,
    Length,
    Samples,
    Share,
    Weight,
    Width,
    taken,
)
from recbase.data.sequences import Histories, SequenceBatch
from recbase.model import initialise
from recbase.nn.draws import draw_integers, draw_uniform
from recbase.nn.transformer import Encoder, Packing
from recbase.train.loop import LossOutput
from recbase.train.processes import process_count
from seqrec.objectives import next_item_loss, target_states
from seqrec.sequential import SequentialModel, TableScorer

__all__ = ["RECIPES", "MAERec"]

RECIPES = {
    "default": {"epochs": 60, "batch_size": 256, "patience": 8, "lr": 2e-3},
    "paper": {"dim": 32, "heads": 4, "ffn": 128, "dropout": 0.3, "attention_dropout": 0.3, "loss": "bce",
              "negatives": 1, "seeds": 50, "rebuilt_edges": 2048, "edge_negatives": 40, "batch_size": 256, "lr": 1e-3,
              "weight_decay": 1e-6, "optimizer": "adam", "epochs": 20},
}  # fmt: skip

_RECENT = 10  # steps whose losses the reward of the mask looks back on


class _Smooth(torch.autograd.Function):
    """Product with a symmetric sparse matrix, which is its own transpose in the backward pass."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, x: Tensor) -> Tensor:
        ctx.matrix = matrix
        with torch.autocast(x.device.type, enabled=False):
            return torch.sparse.mm(matrix, x.float())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor]:
        return None, torch.sparse.mm(ctx.matrix, grads[0].float())


@dataclass(frozen=True)
class Masking:
    """Masking of paths of the item graph and their rebuilding; `MAERec` says what each setting means."""

    seeds: Samples = 50
    mask_depth: Depth = 3
    path_prob: Share = 0.5
    rebuilt_edges: Samples = 256
    edge_negatives: Count = 20
    graph_weight: Weight = 0.1
    mask_weight: Weight = 0.1
    slow_reward: Share = 0.2


class MAERecOptions(TypedDict, total=False):
    """The settings of `Masking`, as keywords of `MAERec`."""

    seeds: Samples
    mask_depth: Depth
    path_prob: Share
    rebuilt_edges: Samples
    edge_negatives: Count
    graph_weight: Weight
    mask_weight: Weight
    slow_reward: Share


class MAERec(SequentialModel):
    """Graph masked autoencoder for sequential recommendation (Ye et al., SIGIR 2023, arXiv 2305.04619).

    Items at most ``reach`` events apart in a training history are joined; item vectors are the sum of the layers of a
    linear graph convolution. In every step the neighbourhoods of ``seeds`` items are masked, along paths of
    ``mask_depth`` steps, the seeds being those whose vector agrees most with its neighbourhood, plus Gumbel noise; a
    decoder rebuilds some of the masked edges, and the agreement is itself trained, weighted by whether the last
    next-item losses fell faster than before. A causal Transformer reads the smoothed vectors.

    Departures: the graph is made of training histories alone and holds the training transitions themselves, so the
    training loss is optimistic; the decoder's loss is the negative LOG probability, as in the paper (the released code
    leaves the logarithm out); a fresh mask every step (released: every tenth); path ends are sampled from all touched
    items (the released code adds item numbers there); full softmax instead of binary cross-entropy with one negative
    (recipe ``paper``); post-LN blocks of this toolkit, whose last output is used instead of the sum of all.

    Parameters
    ----------
    items : int
        Items in the catalogue, N.
    edges : int, default 0
        Entries of the graph's matrix; set with the histories.
    dim : int, default 64
        Width of item vectors and blocks.
    layers : int, default 2
        Transformer blocks.
    heads : int, default 2
        Attention heads; must divide ``dim``.
    ffn : int, default 256
        Width of the feed-forward layers.
    dropout : float, default 0.3
        On embeddings and on the output of every sub-layer.
    attention_dropout : float, default 0.0
        On attention weights.
    max_len : int, default 50
        Longest history, in items; older ones are cut.
    loss : {"ce", "sampled", "bce", "bpr"}, default "ce"
        Full softmax; softmax over shared negatives; binary cross-entropy (the paper); BPR.
    negatives : int, default 128
        Uniform negatives a target (bce, bpr) or a step (sampled).
    reach : int, default 3
        Longest distance in a history that makes an edge, in events.
    graph_layers : int, default 2
        Layers of the graph convolution.
    seeds : int, default 50
        Items whose neighbourhoods are masked in a step; at most a tenth of the catalogue.
    mask_depth : int, default 3
        Steps of the masked paths.
    path_prob : float, default 0.5
        Share of the items reached whose paths go on, to the power of the step.
    rebuilt_edges : int, default 256
        Masked edges that are rebuilt in a step.
    edge_negatives : int, default 20
        Items that stand in for one end of such an edge.
    graph_weight : float, default 0.1
        Weight of the rebuilding; 0 turns masking off.
    mask_weight : float, default 0.1
        Weight of the agreement of the masked items with their neighbourhoods.
    slow_reward : float, default 0.2
        Reward of the mask where the next-item loss fell slower than before; otherwise it is 1.
    """

    unfilled: ClassVar[tuple[str, ...]] = ("recent",)  # NaN where there was no step yet

    setting_groups = (Masking,)

    def __init__(
        self,
        items: Large,
        edges: LargeOrOff = 0,
        dim: Width = 64,
        layers: Depth = 2,
        heads: Heads = 2,
        ffn: Width = 256,
        dropout: Dropout = 0.3,
        attention_dropout: Dropout = 0.0,
        max_len: Length = 50,
        loss: Literal["ce", "sampled", "bce", "bpr"] = "ce",
        negatives: Count = 128,
        reach: Length = 3,
        graph_layers: Depth = 2,
        **options: Unpack[MAERecOptions],
    ) -> None:
        super().__init__(locals())
        masking = taken(Masking, options)
        self.dropout, self.loss, self.negatives = dropout, loss, negatives
        self.reach, self.graph_layers = reach, graph_layers
        self.mask_depth, self.path_prob, self.seeds = (
            masking.mask_depth,
            masking.path_prob,
            min(masking.seeds, max(1, items // 10)),
        )
        self.rebuilt_edges, self.edge_negatives = masking.rebuilt_edges, masking.edge_negatives
        self.graph_weight, self.mask_weight = masking.graph_weight, masking.mask_weight
        self.slow_reward = masking.slow_reward
        self.item_embedding = nn.Embedding(items + 1, dim, padding_idx=0)
        self.position_embedding = nn.Embedding(max_len, dim)
        self.embedding_norm = nn.LayerNorm(dim, eps=1e-12)
        self.encoder = Encoder(layers, dim, heads, ffn, dropout, attention_dropout)
        width = dim * graph_layers**2
        self.decoder = nn.Sequential(
            nn.Linear(width, dim * graph_layers), nn.ReLU(), nn.Linear(dim * graph_layers, dim), nn.ReLU(),
            nn.Linear(dim, 1), nn.Sigmoid(),
        )  # fmt: skip
        initialise(self)
        for layer in self.decoder:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
        self.row_starts: Tensor
        self.columns: Tensor
        self.recent: Tensor
        self.step_seed: Tensor
        self.register_buffer("row_starts", torch.zeros(items + 2, dtype=torch.int64))
        self.register_buffer("columns", torch.zeros(edges, dtype=torch.int64))
        # Losses of the latest steps, the latest last; the last entry gathers the current step. NaN: no step yet.
        self.register_buffer("recent", torch.full((_RECENT + 1,), torch.nan))
        self.register_buffer("step_seed", torch.full((), -1, dtype=torch.int64))
        self.unused_parameters = masking.graph_weight == 0

    def index_ranges(self) -> dict[str, Any]:
        """Least and largest value of the buffers that index tables."""
        return {"columns": (0, self.items), "row_starts": (0, len(self.columns))}

    def check_restored(self) -> None:
        """Refuse a graph whose rows do not follow each other."""
        starts = self.row_starts
        if int(starts[0]) or int(starts[-1]) != len(self.columns) or bool((starts.diff() < 0).any()):
            raise ValueError(f"'row_starts' must rise from 0 to {len(self.columns)}, the number of edges")

    def with_content(self, histories: Histories) -> MAERec:
        """Make the graph of the training histories, and return the model."""
        items, offsets = histories.flat()
        owner = np.repeat(np.arange(len(histories)), np.diff(offsets))
        size, keys = self.items + 1, []
        for steps in range(1, self.reach + 1):
            same = owner[:-steps] == owner[steps:]
            first, second = (part[same].astype(np.int64) for part in (items[:-steps], items[steps:]))
            keys += [first * size + second, second * size + first]
        pairs = np.unique(np.concatenate(keys)) if keys else np.zeros(0, dtype=np.int64)
        pairs = pairs[pairs // size != pairs % size]
        counts = np.bincount(pairs // size, minlength=size)
        self.row_starts = torch.from_numpy(np.concatenate([[0], np.cumsum(counts)]))
        self.columns = torch.from_numpy(pairs % size)
        self._config["edges"] = len(pairs)
        return self

    # The graph -------------------------------------------------------------------------------------------------------

    def edge_rows(self) -> Tensor:
        """Row of each entry of the matrix, int64 [E]."""
        counts = self.row_starts.diff()
        return torch.arange(len(counts), device=counts.device).repeat_interleave(counts)

    def matrix(self, kept: Tensor | None = None) -> Tensor:
        """D^-1/2 A D^-1/2 as a sparse matrix [N + 1, N + 1], without the entries that are not ``kept`` (bool [E])."""
        rows = self.edge_rows()
        values = torch.ones(len(rows), device=rows.device) if kept is None else kept.float()
        degree = torch.zeros(self.items + 1, device=rows.device).index_add_(0, rows, values).clamp_min(1)
        values = values * (degree[rows] * degree[self.columns]).rsqrt()
        size = (self.items + 1, self.items + 1)
        places = torch.stack([rows, self.columns])
        return torch.sparse_coo_tensor(places, values, size, is_coalesced=True, check_invariants=False)

    def smoothed(self, matrix: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Sum of the layers of the graph convolution, and these layers: [N + 1, D] each."""
        levels = [self.item_embedding.weight]
        for _ in range(self.graph_layers):
            levels.append(_Smooth.apply(matrix, levels[-1]))
        return torch.stack(levels).sum(0), levels

    def agreement(self, matrix: Tensor) -> Tensor:
        """Cosine of each item's vector with that of what it reaches in ``mask_depth`` steps: [N + 1], 0 for padding."""
        own = self.item_embedding.weight
        reached, around = own, torch.zeros_like(own)
        for _ in range(self.mask_depth):
            reached = _Smooth.apply(matrix, reached)
            around = around + reached - own
        return F.cosine_similarity(around, own, dim=1)

    @torch.no_grad()
    def mask(self, agreement: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Entries of the matrix to mask, bool [E], and the seeds of the mask, int64."""
        nodes = torch.arange(self.items + 1, device=agreement.device)
        noise = draw_uniform(seed + 1, nodes).clamp(1e-6, 1 - 1e-6)
        scores = agreement.detach() - torch.log(-torch.log(noise))
        scores[0] = -torch.inf
        chosen = scores.topk(self.seeds).indices
        rows = self.edge_rows()
        masked = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
        current = torch.zeros_like(nodes, dtype=torch.bool).index_fill_(0, chosen, True)
        for step in range(self.mask_depth):
            touched = (current[rows] | current[self.columns]) & ~masked
            masked = masked | touched
            reached = torch.zeros_like(current).index_fill_(0, rows[touched], True)
            current = reached & (draw_uniform(seed + 2 + step, nodes) < self.path_prob ** (step + 1))
        return masked, chosen

    def rebuild(self, levels: list[Tensor], masked: Tensor, seed: int) -> Tensor:
        """Mean negative log probability of masked edges among edges with one end exchanged."""
        rows = self.edge_rows()
        candidates = masked.nonzero()[:, 0]
        if len(candidates) == 0:
            return levels[0].sum() * 0 + sum(p.sum() * 0 for p in self.decoder.parameters())
        order = draw_uniform(seed + 20, candidates).argsort()
        edges = candidates[order[: self.rebuilt_edges]]
        left, right = rows[edges], self.columns[edges]  # [M]
        draws = torch.arange(self.edge_negatives, device=rows.device)
        wrong = 1 + draw_integers(seed + 21, self.items, edges[:, None], draws[None, :])  # [M, R]
        first = draws < self.edge_negatives // 2
        lefts = torch.cat([left[:, None], torch.where(first, left[:, None], wrong)], 1)
        rights = torch.cat([right[:, None], torch.where(first, wrong, right[:, None])], 1)
        pairs = torch.cat(
            [levels[i][lefts] * levels[j][rights] for i in range(self.graph_layers) for j in range(self.graph_layers)],
            2,
        )
        scores = self.decoder(pairs)[:, :, 0].float()  # [M, 1 + R]
        keys = rows * (self.items + 1) + self.columns  # ascending
        asked = lefts * (self.items + 1) + rights
        real = keys[torch.searchsorted(keys, asked).clamp_max(len(keys) - 1)] == asked
        real[:, 0] = False  # the edge itself is the one that is right
        scores = scores.masked_fill(real, -torch.inf)
        return F.cross_entropy(scores, torch.zeros(len(edges), dtype=torch.int64, device=rows.device))

    # Training and scoring --------------------------------------------------------------------------------------------

    def forward(self, batch: SequenceBatch) -> LossOutput:
        """This batch's share of the next-item loss, the rebuilding and the mask's agreement of the step."""
        share = len(batch.items) / batch.row_count
        masking = self.graph_weight > 0 and len(self.columns) > 0
        extra = self.item_embedding.weight.sum() * 0
        parts = {}
        if masking:
            agreement = self.agreement(self.matrix())
            masked, chosen = self.mask(agreement, batch.seed)
            table, levels = self.smoothed(self.matrix(~masked))
            rebuilt = self.rebuild(levels, masked, batch.seed) * share
            agreed = -agreement[chosen].mean() * self._reward(batch.seed) * share
            extra = extra + self.graph_weight * rebuilt + self.mask_weight * agreed
            parts = {"graph": rebuilt.detach(), "mask": agreed.detach()}
        else:
            table, _ = self.smoothed(self.matrix())
        packing = Packing.of(batch.lengths, batch.items.shape[1])
        states, targets = target_states(self.read(table, batch.items, packing), packing, batch)
        loss = next_item_loss(states, table[1:], targets, batch, self.loss, self.negatives)
        if masking:
            self.recent[-1] += loss.detach()
        return LossOutput(loss + extra, {self.loss: loss.detach()} | parts)

    @torch.no_grad()
    def _reward(self, seed: int) -> float:
        """1, or less where the last step's loss fell less than those before; the same on every process."""
        if int(self.step_seed) != seed:
            last = self.recent[-1].clone()
            if process_count() > 1:
                dist.all_reduce(last)
            self.recent[:-2] = self.recent[1:-1].clone()
            self.recent[-2], self.recent[-1] = last, 0.0
            self.step_seed.fill_(seed)
        known = self.recent[:-1]
        falls = -(known[~known.isnan()]).diff()
        if len(falls) < 2:
            return 1.0
        return 1.0 if bool(falls[-1] > falls[:-1].mean()) else self.slow_reward

    def read(self, table: Tensor, items: Tensor, packing: Packing) -> Tensor:
        """States of all real tokens over smoothed vectors [N + 1, D]: items [B, T] -> [S, D]."""
        tokens = self.embedding_norm(table[packing.pack(items)] + self.position_embedding(packing.steps))
        encoded: Tensor = self.encoder(F.dropout(tokens, self.dropout, self.training), packing)
        return encoded

    def states(self, items: Tensor, packing: Packing, users: Tensor | None = None) -> Tensor:
        """States of all real tokens over the whole graph: items [B, T] -> [S, D]."""
        return self.read(self.smoothed(self.matrix())[0], items, packing)

    def candidates(self) -> Tensor:
        """Smoothed item vectors over the whole graph, [N, D]."""
        return self.smoothed(self.matrix())[0][1:]

    def scorer(self) -> TableScorer:
        """Scores of all items; the graph convolution is computed once."""
        with torch.no_grad():
            table = self.smoothed(self.matrix())[0]
        return TableScorer(_Reader(self, table), table[1:])


class _Reader:
    """User vectors of a MAERec whose smoothed vectors are at hand."""

    def __init__(self, model: MAERec, table: Tensor) -> None:
        self.model, self.table, self.max_len = model, table, model.max_len

    def eval(self) -> _Reader:
        self.model.eval()
        return self

    def user_vectors(self, items: Tensor, lengths: Tensor) -> Tensor:
        packing = Packing.of(lengths, items.shape[1])
        return self.model.read(self.table, items, packing)[packing.last]

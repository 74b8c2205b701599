"""MISSRec: a decoder reads the items, an encoder the interests behind them; each user weighs text and image anew."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
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
    NonNegative,
    Share,
    Temperature,
    Weight,
    Width,
)
from recbase.data.sequences import SequenceBatch
from recbase.model import Network, initialise
from recbase.nn.transformer import Attention, Encoder, Packing
from recbase.train.loop import LossOutput
from seqrec.modalities import ModalityVectors
from seqrec.objectives import target_states

__all__ = ["RECIPES", "InterestDecoder", "MISSRec", "MISSRecScorer", "density_peaks"]

RECIPES = {
    "default": {"epochs": 60, "batch_size": 1024, "patience": 6, "lr": 1e-3},
    "paper": {"dim": 300, "layers": 2, "heads": 4, "ffn": 256, "dropout": 0.5, "attention_dropout": 0.5,
              "interest_ratio": 0.5, "temperature": 0.07, "orthogonality": 1e-4, "max_len": 50, "batch_size": 1024,
              "lr": 1e-3, "form": "prefix"},
}  # fmt: skip

_BLOCK = 1 << 22  # distances at once


def density_peaks(vectors: Tensor, clusters: int, neighbours: int = 5) -> Tensor:
    """Cluster by density peaks with nearest neighbours (DPC-KNN; Du et al., Knowledge-Based Systems 2016).

    A point's density is exp(- mean squared distance to its nearest neighbours). Centres are the points of the largest
    product of density and distance to the nearest denser point; the others belong to their nearest centre. Equal
    densities go by row. Costs all pairwise distances three times, in blocks.

    Parameters
    ----------
    vectors : Tensor [N, D]
    clusters : int
        Centres; all points if there are fewer.
    neighbours : int, default 5

    Returns
    -------
    int64 Tensor [N]
        Row of each point's centre.
    """
    count, device = len(vectors), vectors.device
    if count <= clusters:
        return torch.arange(count, device=device)
    vectors = vectors - vectors.mean(0)  # distances are products of vectors: far from zero they would lose their digits
    size = max(1, _BLOCK // count)
    blocks = [torch.arange(lo, min(lo + size, count), device=device) for lo in range(0, count, size)]
    nearest = min(neighbours, count - 1)
    spread = []
    for rows in blocks:
        squared = torch.cdist(vectors[rows], vectors).square()
        squared[torch.arange(len(rows), device=device), rows] = torch.inf
        spread.append(squared.topk(nearest, largest=False).values.mean(1))
    thin = torch.cat(spread)  # small where dense
    place = thin.argsort(stable=True).argsort()
    gaps = []
    for rows in blocks:
        distance = torch.cdist(vectors[rows], vectors)
        denser = place[None, :] < place[rows, None]
        gap = distance.masked_fill(~denser, torch.inf).amin(1)
        gaps.append(torch.where(gap.isinf(), distance.amax(1), gap))  # the densest point of all
    centres = (torch.cat(gaps) * (-thin).exp()).argsort(descending=True, stable=True)[:clusters]
    owner = torch.cat([centres[torch.cdist(vectors[rows], vectors[centres]).argmin(1)] for rows in blocks])
    owner[centres] = centres
    return owner


class InterestDecoder(nn.Module):
    """Post-LN block: self-attention of the items, attention to the interests, feed-forward.

    Parameters
    ----------
    dim, heads, ffn : int
    dropout, attention_dropout : float
    """

    def __init__(self, dim: int, heads: int, ffn: int, dropout: float, attention_dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.attention, self.cross = (Attention(dim, heads, attention_dropout) for _ in range(2))
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(dim, eps=1e-12) for _ in range(3))
        self.up, self.down = nn.Linear(dim, ffn), nn.Linear(ffn, dim)

    def forward(self, x: Tensor, packing: Packing, memory: Tensor, known: Tensor) -> Tensor:
        """Packed items [S, D], memory [B, W, D] of which ``known`` bool [B, W] are interests -> [S, D]."""
        x = self.norm1(x + self._drop(self.attention.packed(x, x, packing, causal=False)))
        mask = known[:, None, None, :].expand(-1, 1, packing.width, -1)
        attended = packing.pack(self.cross(packing.unpack(x), memory, mask))
        x = self.norm2(x + self._drop(attended))
        normed: Tensor = self.norm3(x + self._drop(self.down(self._drop(F.gelu(self.up(x))))))
        return normed

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class MISSRec(Network):
    """Multi-modal interest-aware sequence representation (Wang et al., ACM MM 2023, arXiv 2308.11175).

    The downstream form, trained from scratch: the pretraining over several domains is left out. Text and image vectors
    pass a linear adaptor each. Items are clustered by density peaks; the centres of a history's items, each once, are
    the user's interests: a Transformer encoder reads them, and a decoder that sees the whole history both ways attends
    to them (so PREFIX form only). A candidate's score is the average, with weights 2 and 1, of the cosines with its
    text and image, mixed by a softmax of these very cosines (so by user), and the cosine with its item embedding. The
    penalty keeps a user's encoded interests apart. Ours: clusters are made for text and images apart, on the vectors
    before the adaptors, once; an interest is its adapted centre; an item without image has no image interest and is
    scored by its text; without pictures at all the mix is the text. The mix is no dot product, so there are no item
    vectors to export, and training holds the scores of all items for each row of a micro-batch.

    Parameters
    ----------
    items : int
        Items in the catalogue, N.
    text_dim : int
        Width of the text vectors.
    image_dim : int, default 0
        Width of the image vectors; 0 where there are none.
    dim : int, default 64
        Width of embeddings and blocks.
    layers : int, default 2
        Blocks of the encoder, and of the decoder.
    heads : int, default 4
        Attention heads; must divide ``dim``.
    ffn : int, default 256
        Width of the feed-forward layers.
    interest_ratio : float, default 0.5
        Clusters, as a share of the items.
    neighbours : int, default 5
        Nearest neighbours that a point's density is taken from.
    mix_sharpness : float, default 1.0
        Factor on the cosines inside the softmax that mixes text and image.
    orthogonality : float, default 0.0001
        Weight of the penalty on the squared cosines of a user's interests.
    temperature : float, default 0.07
        Divides the cosines.
    dropout : float, default 0.5
        On embeddings and on the output of every sub-layer.
    attention_dropout : float, default 0.0
        On attention weights.
    max_len : int, default 50
        Longest history, in items; older ones are cut.
    """

    interest: Tensor

    def __init__(
        self,
        items: Large,
        text_dim: LargeOrOff,
        image_dim: LargeOrOff = 0,
        dim: Width = 64,
        layers: Depth = 2,
        heads: Heads = 4,
        ffn: Width = 256,
        interest_ratio: Share = 0.5,
        neighbours: Count = 5,
        mix_sharpness: NonNegative = 1.0,
        orthogonality: Weight = 1e-4,
        temperature: Temperature = 0.07,
        dropout: Dropout = 0.5,
        attention_dropout: Dropout = 0.0,
        max_len: Length = 50,
    ) -> None:
        super().__init__(locals())
        self.items, self.max_len, self.dropout = items, max_len, dropout
        self.interest_ratio, self.neighbours = interest_ratio, neighbours
        self.mix_sharpness, self.orthogonality, self.temperature = mix_sharpness, orthogonality, temperature
        self.features = ModalityVectors(items, text_dim, image_dim)
        widths = self.features.widths
        # The item in the centre of each item's cluster, for each modality; 0 where it has no vector.
        self.register_buffer("interest", torch.zeros(len(widths), items + 1, dtype=torch.int64))
        self.item_embedding = nn.Embedding(items + 1, dim, padding_idx=0)
        self.position_embedding = nn.Embedding(max_len, dim)
        self.adapt = nn.ModuleList(nn.Linear(width, dim) for width in widths)
        self.embedding_norm = nn.LayerNorm(dim, eps=1e-12)
        self.encoder = Encoder(layers, dim, heads, ffn, dropout, attention_dropout, causal=False)
        self.decoder = nn.ModuleList(
            InterestDecoder(dim, heads, ffn, dropout, attention_dropout) for _ in range(layers)
        )
        initialise(self)

    def index_ranges(self) -> dict[str, Any]:
        """Least and largest value of the buffers that index tables."""
        return {"interest": (0, self.items)}

    def with_content(
        self, text: np.ndarray, images: np.ndarray | None = None, missing_images: np.ndarray | None = None
    ) -> MISSRec:
        """Set the text vectors [N, d] and, where there are some, image vectors [N, d] and which are missing, [N].

        Finds the interests: all pairwise distances of the items, in blocks.
        """
        self.features.fill(text, images, missing_images)
        clusters = max(1, round(self.interest_ratio * self.items))
        for at, (table, there) in enumerate(zip(self.features.tables(), self.features.present(), strict=True)):
            rows = there.nonzero()[:, 0]
            self.interest[at] = 0
            if len(rows):
                self.interest[at, rows] = rows[density_peaks(table[rows], clusters, self.neighbours)]
        return self

    # The sequence ----------------------------------------------------------------------------------------------------

    def interests(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """Adapted centres of the items of histories, each once: items [B, T] -> [B, W, D] and which there are, [B, W].

        Those that there are come first; W is the largest number of them in a row.
        """
        found = []
        for at, (adapt, table) in enumerate(zip(self.adapt, self.features.tables(), strict=True)):
            centres = self.interest[at][items]  # [B, T]
            same = centres[:, :, None] == centres[:, None, :]
            repeated = same.tril(-1).any(2)
            found.append((centres, (centres > 0) & ~repeated, adapt, table))
        known = torch.cat([part[1] for part in found], 1)
        steps = torch.arange(known.shape[1], device=items.device)
        order = (steps + torch.where(known, 0, 1 << 20)).argsort(dim=1)
        if not torch.compiler.is_exporting():
            order = order[:, : max(1, int(known.sum(1).max()) if len(known) else 1)]
        tokens = torch.cat([adapt(table[centres]) for centres, _, adapt, table in found], 1)
        return tokens.gather(1, order[:, :, None].expand(-1, -1, tokens.shape[2])), known.gather(1, order)

    def encoded(self, items: Tensor, packing: Packing) -> tuple[Tensor, Tensor, Tensor]:
        """Decoder states of all real tokens [S, D], encoded interests [B, W, D] and which there are, bool [B, W]."""
        tokens, known = self.interests(items)
        among = Packing.of(known.sum(1), known.shape[1])
        memory = among.unpack(self.encoder(self._drop(self.embedding_norm(among.pack(tokens))), among))
        numbers = packing.pack(items)
        x = self.item_embedding(numbers) + self.position_embedding(packing.steps)
        parts = zip(self.adapt, self.features.tables(), self.features.present(), strict=True)
        for adapt, table, there in parts:
            x = x + adapt(table[numbers]) * there[numbers][:, None]
        x = self._drop(self.embedding_norm(x))
        for block in self.decoder:
            x = block(x, packing, memory, known)
        return x, memory, known

    def states(self, items: Tensor, packing: Packing, users: Tensor | None = None) -> Tensor:
        """Decoder states; only the last of a history may be trained on: items [B, T] -> [S, D]."""
        return self.encoded(items, packing)[0]

    # Scores ----------------------------------------------------------------------------------------------------------

    def tables(self) -> list[Tensor]:
        """Tables that states are compared with, of unit length: item embeddings, texts, images; [N, D] each."""
        parts = [adapt(table[1:]) for adapt, table in zip(self.adapt, self.features.tables(), strict=True)]
        return [F.normalize(part.float(), dim=1) for part in (self.item_embedding.weight[1:], *parts)]

    def scores(self, states: Tensor, tables: list[Tensor]) -> Tensor:
        """Cosines of states [M, D] with all items, mixed and divided by the temperature: float32 [M, N]."""
        states = F.normalize(states.float(), dim=1)
        with torch.autocast(states.device.type, enabled=False):
            by_id, *others = (states @ table.T for table in tables)
        mixed = others[0]
        if len(others) > 1:
            cosines = torch.stack(others)  # [2, M, N]
            gone = ~torch.stack(self.features.present())[:, None, 1:]
            weights = (cosines * self.mix_sharpness).masked_fill(gone, -torch.inf).softmax(0)
            mixed = (cosines * weights).sum(0)
        return (2 * mixed + by_id) / (3 * self.temperature)

    def forward(self, batch: SequenceBatch) -> LossOutput:
        """This batch's share of the mean loss over the targets of the step, and of the penalty over its rows."""
        packing = Packing.of(batch.lengths, batch.items.shape[1])
        states, memory, known = self.encoded(batch.items, packing)
        chosen, targets = target_states(states, packing, batch)
        loss = F.cross_entropy(self.scores(chosen, self.tables()), targets - 1, reduction="sum") / batch.target_count
        parts = {"ce": loss.detach()}
        if self.orthogonality:
            penalty = self._overlap(memory, known).sum() / batch.row_count
            loss, parts = loss + self.orthogonality * penalty, parts | {"orthogonality": penalty.detach()}
        return LossOutput(loss, parts)

    @staticmethod
    def _overlap(memory: Tensor, known: Tensor) -> Tensor:
        """Mean squared cosine of two different interests of each row: [B]."""
        units = F.normalize(memory.float(), dim=2) * known[:, :, None]
        squared = (units @ units.transpose(1, 2)).square().sum((1, 2))
        count = known.sum(1)
        return (squared - count) / (count * (count - 1)).clamp_min(1)

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)

    def scorer(self) -> MISSRecScorer:
        """Scores of all items; their vectors are computed once."""
        return MISSRecScorer(self)


class MISSRecScorer:
    """Scores of all items by a MISSRec.

    Parameters
    ----------
    model : MISSRec
    """

    def __init__(self, model: MISSRec) -> None:
        self.model, self.n_items, self.max_len = model.eval(), model.items, model.max_len
        with torch.no_grad():
            self.tables = model.tables()

    @torch.no_grad()
    def __call__(self, items: Tensor, lengths: Tensor) -> Tensor:
        """[B, T] -> float32 [B, N]."""
        device = self.tables[0].device
        items, lengths = items.to(device), lengths.to(device)
        packing = Packing.of(lengths, items.shape[1])
        return self.model.scores(self.model.states(items, packing)[packing.last], self.tables)

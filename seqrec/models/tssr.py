"""TSSR: item ids and item content as two streams that are contrasted, cross-attended and gated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Unpack

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
    Temperature,
    Weight,
    Width,
    taken,
)
from recbase.data.sequences import SequenceBatch
from recbase.nn.losses import gather_with_gradient, info_nce
from recbase.nn.transformer import Attention, Packing
from recbase.train.loop import LossOutput
from recbase.train.processes import process_count
from seqrec.finetuned import EndToEndModel, FinetunedEncoder, Finetuning, FinetuningOptions
from seqrec.layers import ItemFeatures, biased_rows, with_one

__all__ = ["RECIPES", "TSSR", "ScaledBlock", "TwoStreams", "item_contrast", "pooled", "user_contrast"]

_DEFAULT = {"epochs": 60, "batch_size": 256, "patience": 8}
_PAPER = {
    "dim": 128,
    "uni_layers": 2,
    "cross_layers": 1,
    "heads": 4,
    "ffn": 256,
    "dropout": 0.1,
    "attention_dropout": 0.1,
    "max_len": 10,
    "item_table": "untied",
    "batch_size": 256,
    "lr": 1e-4,
    "optimizer": "adam",
    "form": "all",
}

RECIPES = {
    "default": _DEFAULT,
    "paper": _PAPER,
    "no-user-contrast": {**_DEFAULT, "user_weight": 0.0},
    "no-item-contrast": {**_DEFAULT, "item_weight": 0.0},
    "no-contrast": {**_DEFAULT, "user_weight": 0.0, "item_weight": 0.0},
}


class ScaledBlock(nn.Module):
    """Attention and feed-forward with post-norm residuals scaled by a1 and a2, which start at 1e-8.

    y = LN(x + Drop(a1 attention(x, context, context))), z = LN(y + Drop(a2 feed-forward(y))). A position sees itself
    and older positions of its history, in the context too.

    Parameters
    ----------
    dim, heads, ffn : int
        Width, heads, width of the feed-forward layer.
    dropout, attention_dropout : float
    """

    def __init__(self, dim: int, heads: int, ffn: int, dropout: float, attention_dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.attention = Attention(dim, heads, attention_dropout)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.up, self.down = nn.Linear(dim, ffn), nn.Linear(ffn, dim)
        self.a1, self.a2 = nn.Parameter(torch.tensor(1e-8)), nn.Parameter(torch.tensor(1e-8))

    def forward(self, x: Tensor, context: Tensor, packing: Packing) -> Tensor:
        """Packed [S, D] -> [S, D]."""
        attended = self.a1 * self.attention.packed(x, context, packing, causal=True)
        x = self.norm1(x + F.dropout(attended, self.dropout, self.training))
        forward = self.a2 * self.down(F.gelu(self.up(x)))
        x = self.norm2(x + F.dropout(forward, self.dropout, self.training))
        return x


class TwoStreams(nn.Module):
    """The encoders of the id and the content stream, the cross-attention between them, and the gate that merges them.

    Parameters
    ----------
    uni_layers, cross_layers : int
        Blocks of each stream before and in the exchange.
    dim, heads, ffn : int
    dropout, attention_dropout : float
    """

    def __init__(
        self,
        uni_layers: int,
        cross_layers: int,
        dim: int,
        heads: int,
        ffn: int,
        dropout: float,
        attention_dropout: float,
    ) -> None:
        super().__init__()

        def stack(layers: int) -> nn.ModuleList:
            return nn.ModuleList(ScaledBlock(dim, heads, ffn, dropout, attention_dropout) for _ in range(layers))

        self.id_encoder, self.content_encoder = stack(uni_layers), stack(uni_layers)
        self.id_cross, self.content_cross = stack(cross_layers), stack(cross_layers)
        self.gate = nn.Linear(2 * dim, dim)

    def unimodal(self, ids: Tensor, content: Tensor, packing: Packing) -> tuple[Tensor, Tensor]:
        """F_id and F_con: each stream by itself, packed [S, D] each."""
        for block in self.id_encoder:
            ids = block(ids, ids, packing)
        for block in self.content_encoder:
            content = block(content, content, packing)
        return ids, content

    def crossed(self, ids: Tensor, content: Tensor, packing: Packing) -> tuple[Tensor, Tensor]:
        """Each stream with the other's unimodal output as keys and values, the same at every layer: [S, D] each."""
        crossed_ids, crossed_content = ids, content
        for block in self.id_cross:
            crossed_ids = block(crossed_ids, content, packing)
        for block in self.content_cross:
            crossed_content = block(crossed_content, ids, packing)
        return crossed_ids, crossed_content

    def share(self, ids: Tensor, content: Tensor) -> Tensor:
        """Share of the id stream in every element, in (0, 1): [S, D]."""
        return torch.sigmoid(self.gate(torch.cat([ids, content], 1)))

    def merged(self, ids: Tensor, content: Tensor) -> Tensor:
        """The two crossed streams as one: [S, D]."""
        share = self.share(ids, content)
        return share * ids + (1 - share) * content


def pooled(states: Tensor, packing: Packing) -> Tensor:
    """Mean over the real tokens of each history: packed [S, D] -> float32 [B, D]."""
    sums = torch.zeros(packing.rows, states.shape[1], device=states.device).index_add(0, packing.row, states.float())
    return sums / packing.lengths[:, None]


def user_contrast(
    ids: Tensor, content: Tensor, row_count: int, temperature: float, histories: Tensor | None = None
) -> Tensor:
    """Share of L_u, the contrast of users: a user's two vectors against those of the other users of the step.

    Parameters
    ----------
    ids, content : Tensor [B, D]
        Pooled unimodal outputs; compared by cosine.
    row_count : int
        Users of the step.
    temperature : float
    histories : int64 Tensor [B, T], optional
        Where given, users with equal histories are no negatives of each other.

    Returns
    -------
    Tensor []
        The sum of both directions, each a mean over users.
    """
    (every_id, first), (every_content, _) = gather_with_gradient(ids), gather_with_gradient(content)
    own, everyone = None, None
    if histories is not None:
        own = _fingerprints(histories)
        everyone = gather_with_gradient(own[:, None].double())[0][:, 0].long()
    total = info_nce(ids, every_content, temperature, first, own, everyone)
    total = total + info_nce(content, every_id, temperature, first, own, everyone)
    return total / row_count


def _fingerprints(histories: Tensor) -> Tensor:
    """A number below 2^52 for each history [B, T], equal for equal ones whatever the padding."""
    found = torch.zeros_like(histories[:, 0])
    for column in range(histories.shape[1]):
        mixed = (found * 6364136223846793005 + histories[:, column] + 1442695040888963407) ^ (found >> 29)
        found = torch.where(histories[:, column] > 0, mixed, found)
    return found & ((1 << 52) - 1)


def item_contrast(
    states: Tensor, embeddings: Tensor, batch: SequenceBatch, packing: Packing, temperature: float, max_len: int
) -> Tensor:
    """Share of one direction of L_i: a state of one stream against the next item's raw embedding of the other stream.

    The negatives of user u at step l are the items that the other users of the step have at l + 1; those that are the
    positive itself are left out. Only items of the histories are positives, so that the last target is not among them.

    Parameters
    ----------
    states, embeddings : packed Tensor [S, D]
        Unimodal outputs of one stream, raw embeddings of the other; compared by inner product.
    batch : SequenceBatch
    packing : Packing
    temperature : float
    max_len : int
        Longest history, so that processes agree on a width.

    Returns
    -------
    Tensor []
        Mean over all users and steps of the step that have a next item.
    """
    many = process_count() > 1
    extra = max_len - max(1, packing.width) if many else 0  # a process without rows has no width
    anchors = F.pad(packing.unpack(states)[:, :-1], (0, 0, 0, extra))  # [B, T - 1, D]
    positives = F.pad(packing.unpack(embeddings)[:, 1:], (0, 0, 0, extra))
    ids = F.pad(batch.items[:, 1:], (0, extra))  # [B, T - 1], 0 = no next item
    gathered, first = gather_with_gradient(positives.flatten(1))
    every_id = gather_with_gradient(ids.double())[0].long()  # [G, T - 1]
    every = gathered.unflatten(1, positives.shape[1:])  # [G, T - 1, D]
    if not bool((ids > 0).any()):
        return gathered.sum() * 0 + states.sum() * 0
    logits = torch.einsum("btd,gtd->btg", anchors, every).float() / temperature
    own = torch.arange(len(ids), device=ids.device) + first
    itself = own[:, None, None] == torch.arange(len(every), device=ids.device)
    columns = every_id.T[None]  # [1, T - 1, G]
    hidden = (columns == 0) | ((columns == ids[..., None]) & ~itself)
    logits = logits.masked_fill(hidden, -torch.inf)
    valid = ids > 0
    targets = own[:, None].expand_as(ids)[valid]
    total = F.cross_entropy(logits[valid], targets, reduction="sum")
    return total / (batch.step_lengths - 1).sum()


@dataclass(frozen=True)
class Contrasts:
    """The contrasts of users and of items; `TSSR` says what each setting means."""

    user_weight: Weight = 1.0
    item_weight: Weight = 1.0
    user_temperature: Temperature = 0.2
    item_temperature: Temperature = 1.0
    mask_equal_histories: bool = False


class TSSROptions(FinetuningOptions, total=False):
    """The settings of `Contrasts` and `Finetuning`, as keywords of `TSSR`."""

    user_weight: Weight
    item_weight: Weight
    user_temperature: Temperature
    item_temperature: Temperature
    mask_equal_histories: bool


class TSSR(EndToEndModel):
    """Two-stream sequential recommendation with contrast of ids and content (Cheng et al. 2024, arXiv 2403.07623).

    Item ids and item content each have an embedding, positions and a causal encoder; a contrast of users (pooled
    streams) and one of items (a state with the next item's embedding of the other stream) align them; each stream then
    attends to the other under the same causal mask, an element-wise gate merges both, and a softmax over all items
    follows. Content is text vectors, image vectors, semantic codes, or raw text and pictures through an encoder that is
    fine-tuned. Where paper and released code differ: two layers a stream (code: 1) and one of exchange (code: 4); a
    position table a stream (code: one); pooling over real items only (code: over padding too); an item contrast with a
    temperature, of 1 (code: without); an output table of its own with a bias (``item_table`` untied, as in the code;
    the paper speaks of inner products with embeddings). Departures from both: negatives that are the positive item are
    left out; steps count from the oldest item, since histories are padded on the right; the model is smaller and has
    more dropout by default (recipe ``paper``: the paper's sizes); frozen content vectors by default, where the paper
    fine-tunes ResNet-50 (add ``--content pictures``) or BERT (``--content sentences``; MIND). Recipes
    ``no-user-contrast``, ``no-item-contrast``, ``no-contrast`` are the paper's ablations.

    Parameters
    ----------
    items : int
        Items in the catalogue, N.
    text_dim, image_dim : int, default 0
        Widths of text and image vectors; 0 where there are none.
    sizes : list of int, optional
        Codes of each level.
    backbone_config : dict, optional
        Configuration of the fine-tuned encoder; set when it is loaded.
    content : {"text", "images", "codes", "sentences", "pictures"}, default "text"
        What the content stream reads: frozen vectors, codes, or raw text and image files through an encoder that is
        trained too.
    dim : int, default 64
        Width of embeddings and blocks.
    uni_layers : int, default 2
        Blocks of each stream before the exchange.
    cross_layers : int, default 1
        Cross-attention blocks of each stream.
    heads : int, default 2
        Attention heads; must divide ``dim``.
    ffn : int, default 256
        Width of the feed-forward layers.
    dropout : float, default 0.5
        On embeddings and on the output of every sub-layer.
    attention_dropout : float, default 0.0
        On attention weights.
    max_len : int, default 50
        Longest history, in items; older ones are cut.
    item_table : {"untied", "tied-id", "id-plus-content"}, default "untied"
        What states are scored against: a table of its own with a bias; the id embeddings; the sum of both embeddings.
    shared_positions : bool, default False
        One position table for both streams.
    user_weight : float, default 1.0
        Weight of the contrast of users; 0 turns it off.
    item_weight : float, default 1.0
        Weight of the contrast of items; 0 turns it off.
    user_temperature : float, default 0.2
        Divides the cosines of users.
    item_temperature : float, default 1.0
        Divides the inner products of items.
    mask_equal_histories : bool, default False
        Users with equal histories are no negatives of each other.
    loss : {"ce", "sampled"}, default "ce"
        Full softmax, or softmax over shared uniform negatives.
    negatives : int, default 256
        Negatives a step (sampled).
    backbone, tune, adapter_dim, pooling, max_tokens, picture_size, encoder_chunk
        The encoder of sentences or pictures; see `seqrec.finetuned.Finetuning`.
    """

    setting_groups = (Contrasts, Finetuning)

    def __init__(
        self,
        items: Large,
        text_dim: LargeOrOff = 0,
        image_dim: LargeOrOff = 0,
        sizes: list[int] | None = None,
        backbone_config: dict[str, Any] | None = None,
        content: Literal["text", "images", "codes", "sentences", "pictures"] = "text",
        dim: Width = 64,
        uni_layers: Depth = 2,
        cross_layers: Depth = 1,
        heads: Heads = 2,
        ffn: Width = 256,
        dropout: Dropout = 0.5,
        attention_dropout: Dropout = 0.0,
        max_len: Length = 50,
        item_table: Literal["untied", "tied-id", "id-plus-content"] = "untied",
        shared_positions: bool = False,
        loss: Literal["ce", "sampled"] = "ce",
        negatives: Count = 256,
        **options: Unpack[TSSROptions],
    ) -> None:
        super().__init__(locals())
        contrasts, tuning = taken(Contrasts, options), taken(Finetuning, options)
        self.loss, self.negatives, self.dropout, self.item_table = loss, negatives, dropout, item_table
        self.user_weight, self.item_weight = contrasts.user_weight, contrasts.item_weight
        self.user_temperature, self.item_temperature = contrasts.user_temperature, contrasts.item_temperature
        self.mask_equal_histories = contrasts.mask_equal_histories
        self.content: ItemFeatures | FinetunedEncoder
        if content == "sentences" or content == "pictures":
            if item_table == "id-plus-content":
                raise ValueError(
                    f"--item-table id-plus-content would encode all items at every step with --content {content}; "
                    "use untied or tied-id"
                )
            self.content = self.made_encoder(content, dim, backbone_config, tuning)
        else:
            self.content = ItemFeatures(items, dim, content, text_dim, image_dim, sizes)
        self.item_embedding = nn.Embedding(items + 1, dim, padding_idx=0)
        self.positions = nn.ModuleList(nn.Embedding(max_len, dim) for _ in range(1 if shared_positions else 2))
        self.streams = TwoStreams(uni_layers, cross_layers, dim, heads, ffn, dropout, attention_dropout)
        if item_table == "untied":
            self.output = nn.Linear(dim, items)
        self._initialise()

    def _initialise(self) -> None:
        """The released code's start: embeddings U(-s, s) with s = sqrt(1 / (N + 1)), Xavier weights, biases 0.1."""
        spared = set(self.content.backbone.modules()) if isinstance(self.content, FinetunedEncoder) else set()
        bound = (1 / (self.items + 1)) ** 0.5
        for module in self.modules():
            if module in spared:
                continue
            if isinstance(module, nn.Linear):
                nn.init.xavier_normal_(module.weight)
                nn.init.constant_(module.bias, 0.1)
            elif isinstance(module, nn.Embedding):
                nn.init.uniform_(module.weight, -bound, bound)
                if module.padding_idx is not None:
                    nn.init.zeros_(module.weight[module.padding_idx])
        if isinstance(self.content, FinetunedEncoder):
            self.content.start()

    @staticmethod
    def reads(arguments: Mapping[str, Any]) -> tuple[str, ...]:
        """Inputs under these options."""
        return ("ids", arguments.get("content", "text"))

    def with_content(self, **given: Any) -> TSSR:
        """Set the items' content and return the model.

        Parameters
        ----------
        **given
            ``text`` float [N, d]; ``images`` float [N, d] and ``missing_images`` bool [N]; ``codes`` int [N, L];
            ``sentences``, a list of N texts; or ``pictures``, a list of N paths or None. Only what ``content`` names
            is read.

        Raises
        ------
        ValueError
            If it is not there or has another shape.
        """
        if isinstance(self.content, FinetunedEncoder):
            self.content.set(given.get("sentences"), given.get("pictures"))
        else:
            self.content.set(given)
        return self

    def embeddings(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Raw id and content embeddings of items, before positions: int64 [S] -> [S, D] each."""
        return self.item_embedding(numbers), self.content(numbers)

    def unimodal(self, ids: Tensor, content: Tensor, packing: Packing) -> tuple[Tensor, Tensor]:
        """F_id and F_con of packed raw embeddings, [S, D] each."""
        placed = [
            F.dropout(tokens + table(packing.steps), self.dropout, self.training)
            for tokens, table in ((ids, self.positions[0]), (content, self.positions[-1]))
        ]
        return self.streams.unimodal(placed[0], placed[1], packing)

    def final(self, ids: Tensor, content: Tensor, packing: Packing) -> Tensor:
        """States that are scored, from the unimodal outputs: [S, D], with a 1 behind them for the bias if untied."""
        states = self.streams.merged(*self.streams.crossed(ids, content, packing))
        return with_one(states) if self.item_table == "untied" else states

    def states(self, items: Tensor, packing: Packing, users: Tensor | None = None) -> Tensor:
        """States of all real tokens: items [B, T] -> [S, D], or [S, D + 1] with an untied table."""
        return self.final(*self.unimodal(*self.embeddings(packing.pack(items)), packing), packing)

    def candidates(self) -> Tensor:
        """Vectors that states are scored against: [N, D], with the bias behind it if untied."""
        if self.item_table == "untied":
            return biased_rows(self.output)
        table = self.item_embedding.weight[1:]
        return table if self.item_table == "tied-id" else table + self.content.table()

    def forward(self, batch: SequenceBatch) -> LossOutput:
        """This batch's share of the next-item loss and the two contrasts of the step."""
        packing = Packing.of(batch.lengths, batch.items.shape[1])
        raw_id, raw_content = self.embeddings(packing.pack(batch.items))
        ids, content = self.unimodal(raw_id, raw_content, packing)
        loss = self.next_item(self.final(ids, content, packing), packing, batch)
        parts = {self.loss: loss.detach()}
        if self.user_weight:
            histories = batch.items if self.mask_equal_histories else None
            users = (pooled(ids, packing), pooled(content, packing))
            share = user_contrast(*users, batch.row_count, self.user_temperature, histories)
            loss, parts["users"] = loss + self.user_weight * share, share.detach()
        if self.item_weight:
            settings = (batch, packing, self.item_temperature, self.max_len)
            share = item_contrast(ids, raw_content, *settings) + item_contrast(content, raw_id, *settings)
            loss, parts["items"] = loss + self.item_weight * share, share.detach()
        return LossOutput(loss, parts)

    @torch.no_grad()
    def item_pairs(self) -> tuple[Tensor, Tensor]:
        """Raw id and content embeddings of all items, in eval mode: [N, D] each."""
        self.eval()
        self.encode_items()
        return self.item_embedding.weight[1:].detach(), self.content.table().detach().float()

    @torch.no_grad()
    def user_pairs(self, items: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Pooled unimodal outputs f_id and f_con of histories, in eval mode: items [B, T] -> [B, D] each."""
        self.eval()
        packing = Packing.of(lengths, items.shape[1])
        ids, content = self.unimodal(*self.embeddings(packing.pack(items)), packing)
        return pooled(ids, packing), pooled(content, packing)

"""EAGER: two streams of codes, from behaviour and from content, each with a decoder, merged by confidence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genrec.generator import Generator, samples
from genrec.models.prorec import Preparation as PRORecPreparation
from genrec.nets.attention import Ragged
from genrec.nets.distilling import DistillingDecoder
from genrec.nets.losses import level_loss
from genrec.nets.post_norm import PostNormEncoder
from genrec.nets.t5_blocks import Memory
from genrec.preparation import Ingredients, Sources
from genrec.search.decoding import Beams, search_beams
from genrec.search.trie import CodeTrie
from recbase.arguments import Count, Depth, Dropout, Heads, Large, Length, Share, Temperature, Weight, Width
from recbase.data.sequences import SequenceBatch
from recbase.evaluate.recommender import NO_ITEM
from recbase.model import initialise
from recbase.nn.draws import draw_integers, draw_uniform
from recbase.train.loop import LossOutput

if TYPE_CHECKING:
    pass

__all__ = ["EAGER", "RECIPES", "Preparation"]

RECIPES = {
    "default": {"epochs": 40, "batch_size": 256, "lr": 1e-3, "warmup_steps": 300, "patience": 5, "precision": "auto"},
    "paper": {
        "epochs": 400,
        "batch_size": 256,
        "lr": 1e-3,
        "schedule": "inverse_sqrt",
        "warmup_steps": 2000,
        "weight_decay": 1e-7,
        "optimizer": "adam",
        "beams": 100,
        "precision": "no",
        "stage1_form": "prefix",
        "stage1_recipe": "paper",
        "pca": None,
        "whiten": False,
        "codebook_size": 256,
    },
}


@dataclass(frozen=True)
class Preparation(PRORecPreparation):
    """Two sets of balanced codes: of a plain DIN's item vectors and of the text's."""

    method: ClassVar[str] = "hierarchical"

    def prepare(self, sources: Sources) -> Ingredients:
        """Codes of behaviour, then those of the text, side by side: [N, Lb + Ls]."""
        import semtok
        from semtok.codes import ItemCodes

        if sources.codes is not None:
            raise ValueError("EAGER makes two sets of codes: leave --codes out (--stage1 takes a run's item vectors)")
        record: dict[str, Any] = {}
        behaviour = self._behaviour(sources, record)
        text = self._text(sources, record)
        parts, folders = [], []
        for vectors in (behaviour, text):
            folder = self._codes(sources, vectors, record)
            parts.append(semtok.load_codes(folder).align(sources.item_ids))
            folders.append(str(folder))
        joined = ItemCodes(
            np.concatenate([part.codes for part in parts], 1),
            tuple(size for part in parts for size in part.sizes),
            sources.item_ids,
            {
                "behaviour": slice(0, parts[0].levels),
                "semantic": slice(parts[0].levels, parts[0].levels + parts[1].levels),
            },
        )
        record |= {"codes": joined.hash, "codes_folders": folders}
        arrays = {"behaviour": behaviour, "semantic": text}
        shapes = {"behaviour_dim": behaviour.shape[1], "semantic_dim": text.shape[1]}
        shapes["behaviour_levels"] = parts[0].levels
        return Ingredients(joined, arrays, shapes, record)

    def _behaviour(self, sources: Sources, record: dict[str, Any]) -> np.ndarray:
        from dataclasses import replace

        plain = replace(self, source="collaborative")
        return PRORecPreparation._behaviour(plain, sources, record)


class EAGER(Generator):
    """Two-stream generation with behaviour-semantic collaboration (Wang et al., KDD 2024, arXiv 2406.14017).

    One encoder reads the history as item tokens; two decoders write the item's code in the behaviour stream and in the
    semantic one. A last token of each is drawn to the item's vector of its kind, and a transfer network ties the
    streams: it recovers masked behaviour codes from semantic ones and tells matching pairs of codes from others. A
    search runs in both streams; the items of both lists are ranked by the sum of the two log-probabilities. Departs
    from the release: time-sorted data and validation instead of file order and test, one code an item (capacity-limited
    clusters instead of clusters filled up with copies), a softmax a level over its own codes.

    Parameters
    ----------
    items : int
        Items in the catalogue, N.
    sizes : list of int [Lb + Ls]
        Codes of each level, those of the behaviour stream first.
    behaviour_levels : int, default 2
        Levels of the behaviour stream, Lb.
    behaviour_dim : int, default 0
        Width of the behaviour vectors.
    semantic_dim : int, default 0
        Width of the semantic vectors.
    dim : int, default 128
        Width of tokens, D.
    encoder_layers : int, default 1
        Blocks of the encoder.
    decoder_layers : int, default 4
        Blocks of each decoder.
    heads : int, default 4
        Attention heads; must divide ``dim``.
    ffn : int, default 1024
        Width of the feed-forward layers.
    dropout : float, default 0.1
        On the output of every sub-layer, and on attention weights.
    behaviour_weight : float, default 1.0
        Weight of the distillation of behaviour vectors.
    semantic_weight : float, default 10.0
        Weight of the distillation of semantic vectors.
    distill_negatives : int, default 2048
        Random items that a target's vector is told from.
    distill_temperature : float, default 0.3
        Temperature of the distillation.
    recovery_weight : float, default 1.0
        Weight of recovering masked behaviour codes; 0 leaves it out.
    recognition_weight : float, default 1.0
        Weight of recognizing matching codes; 0 leaves it out.
    mask_ratio : float, default 0.5
        Share of behaviour codes that are masked for recovery.
    max_len : int, default 20
        Longest history, in items; older ones are cut.
    causal_encoder : bool, default False
        Whether items of the history see only what came before them. Sample form ``all`` needs it and turns it on: one
        pass a user, in which every item is a target whose decoders see the items before it (ours, not the paper's).
    """

    behaviour: Tensor
    semantic: Tensor

    training_arrays = ("behaviour", "semantic")

    def __init__(
        self,
        items: Large,
        sizes: list[int],
        behaviour_levels: int = 2,
        behaviour_dim: int = 0,
        semantic_dim: int = 0,
        dim: Width = 128,
        encoder_layers: Depth = 1,
        decoder_layers: Depth = 4,
        heads: Heads = 4,
        ffn: Width = 1024,
        dropout: Dropout = 0.1,
        behaviour_weight: Weight = 1.0,
        semantic_weight: Weight = 10.0,
        distill_negatives: Count = 2048,
        distill_temperature: Temperature = 0.3,
        recovery_weight: Weight = 1.0,
        recognition_weight: Weight = 1.0,
        mask_ratio: Share = 0.5,
        max_len: Length = 20,
        causal_encoder: bool = False,
    ) -> None:
        super().__init__(locals())
        if not 0 < behaviour_levels < len(sizes):
            raise ValueError(f"behaviour_levels is {behaviour_levels} of {len(sizes)} levels; both streams need one")
        self.split, self.dropout, self.mask_ratio = behaviour_levels, dropout, mask_ratio
        self.weights = (
            behaviour_weight if behaviour_dim else 0.0,
            semantic_weight if semantic_dim else 0.0,
        )
        self.recovery_weight, self.recognition_weight = recovery_weight, recognition_weight
        self.item_embedding = nn.Embedding(items + 1, dim, padding_idx=0)
        self.source_position = nn.Embedding(max_len, dim)
        self.source_norm = nn.LayerNorm(dim, eps=1e-12)
        self.encoder = PostNormEncoder(dim, encoder_layers, heads, ffn, dropout, dropout, causal_encoder)
        self.decoders = nn.ModuleList(
            DistillingDecoder(
                part, items, dim, decoder_layers, heads, ffn, dropout,
                width if weight else 0, distill_negatives, distill_temperature,
            )
            for part, width, weight in zip(
                (sizes[:behaviour_levels], sizes[behaviour_levels:]), (behaviour_dim, semantic_dim), self.weights,
                strict=True,
            )
        )  # fmt: skip
        self.transfer = PostNormEncoder(dim, 1, heads, ffn, dropout, dropout)
        self.transfer_position = nn.Embedding(len(sizes) + 1, dim)
        self.mask_token, self.match_token = nn.Parameter(torch.empty(dim)), nn.Parameter(torch.empty(dim))
        self.matches = nn.Linear(dim, 1)
        self.register_buffer("behaviour", torch.zeros(items + 1, behaviour_dim))
        self.register_buffer("semantic", torch.zeros(items + 1, semantic_dim))
        initialise(self)
        for token in (self.mask_token, self.match_token):
            nn.init.normal_(token, std=0.02)
        self._tries: tuple[CodeTrie, CodeTrie] | None = None

    def with_arrays(self, behaviour: np.ndarray, semantic: np.ndarray) -> EAGER:
        """Set the distilled vectors, float32 [N, d] each; they are not trained."""
        self.behaviour[1:] = torch.from_numpy(np.asarray(behaviour, dtype=np.float32))
        self.semantic[1:] = torch.from_numpy(np.asarray(semantic, dtype=np.float32))
        return self

    def with_codes(self, codes: np.ndarray, priority: np.ndarray | None = None) -> Any:
        """Set the codes of the catalogue, int [N, Lb + Ls], and who stands for items that share one, int [N]."""
        self._tries = None
        return super().with_codes(codes, priority)

    def search_trees(self) -> tuple[CodeTrie, ...]:
        """The trees that a search walks: of behaviour and of content."""
        return self.tries

    def load_state_dict(self, *given: Any, **named: Any) -> Any:
        """As in PyTorch; the trees are built anew."""
        self._tries = None
        return super().load_state_dict(*given, **named)

    def code_parts(self) -> list[Tensor]:
        """Codes of behaviour and of content."""
        table = self.code_table[1:]
        return [table[:, : self.split], table[:, self.split :]]

    @property
    def streams(self) -> tuple[DistillingDecoder, DistillingDecoder]:
        """The decoders of behaviour and of content."""
        first, second = self.decoders
        assert isinstance(first, DistillingDecoder)
        assert isinstance(second, DistillingDecoder)
        return first, second

    @property
    def tries(self) -> tuple[CodeTrie, CodeTrie]:
        """The catalogue as a prefix tree of each stream."""
        if self._tries is None or self._tries[0].device != self.code_table.device:
            table = self.code_table[1:]
            first, second = table[:, : self.split], table[:, self.split :]
            self._tries = (
                CodeTrie.from_codes(first, self.sizes[: self.split], priority=self.priority),
                CodeTrie.from_codes(second, self.sizes[self.split :], priority=self.priority),
            )
        return self._tries

    def encode_histories(self, items: Tensor, lengths: Tensor, users: Tensor | None = None) -> Memory:
        """Encoded items of histories: [B, T], right padded, and lengths [B]."""
        ragged = Ragged.of(lengths, items.shape[1])
        x = self.source_norm(self.item_embedding(ragged.pack(items)) + self.source_position(ragged.steps))
        memory: Memory = self.encoder(F.dropout(x, self.dropout, self.training), ragged)
        return memory

    def forward(self, batch: SequenceBatch) -> LossOutput:
        """This batch's share of the mean loss over all targets of the step."""
        sampled = samples(batch, self.encoder.causal)
        targets = sampled.items
        memory = self.encode_histories(batch.items, batch.lengths)
        codes = self.code_table[targets].long()
        total = torch.zeros((), device=codes.device)
        parts: dict[str, Tensor] = {}
        names = ("behaviour", "semantic")
        own = (codes[:, : self.split], codes[:, self.split :])
        vectors = (self.behaviour, self.semantic)
        for name, stream, right, known, weight in zip(names, self.streams, own, vectors, self.weights, strict=True):
            states = stream.prefixes(right, memory, batch.lengths, 1) if sampled.one_pass else stream(right, memory)
            parts[name] = level_loss(stream.all_logits(states), stream.vocabulary.targets(right)) / batch.target_count
            total = total + parts[name]
            if weight:
                found = stream.distill(states[:, -1], targets, known, batch.seed) / batch.target_count
                parts[f"distill {name}"] = found
                total = total + weight * found
        places = (batch.positions[sampled.rows], sampled.steps)
        if self.recovery_weight:
            parts["recovery"] = self._recover(codes, batch.seed, places) / batch.target_count
            total = total + self.recovery_weight * parts["recovery"]
        if self.recognition_weight:
            parts["recognition"] = self._recognize(codes, targets, batch.seed, places) / batch.target_count
            total = total + self.recognition_weight * parts["recognition"]
        return LossOutput(total, {name: part.detach() for name, part in parts.items()})

    # ------------------------------------------------------------------------------------- semantic transfer

    def _transferred(self, behaviour: Tensor, semantic: Tensor) -> Tensor:
        """States of [match, behaviour codes, semantic codes], which all see each other: [S, 1 + Lb + Ls, D]."""
        second = self.streams[1]
        known = second.embedding(second.vocabulary.tokens(semantic))
        start = self.match_token.expand(len(known), 1, -1)
        x = torch.cat([start, behaviour, known], 1) + self.transfer_position.weight
        full = torch.full((len(x),), x.shape[1], device=x.device)
        states: Tensor = self.transfer(x.flatten(0, 1), Ragged.of(full, x.shape[1])).states
        return states.unflatten(0, (len(x), -1))

    def _recover(self, codes: Tensor, seed: int, places: tuple[Tensor, Tensor]) -> Tensor:
        """Sum over targets of the mean cross-entropy of their masked behaviour codes; at least one is masked."""
        first = self.streams[0]
        own = codes[:, : self.split]
        levels = torch.arange(self.split, device=codes.device)
        chance = draw_uniform(seed + 2, *(place[:, None] for place in places), levels)
        masked = (chance < self.mask_ratio) | (chance == chance.amin(1, keepdim=True))
        tokens = first.embedding(first.vocabulary.tokens(own))
        given = torch.where(masked[..., None], self.mask_token.to(tokens.dtype), tokens)
        states = self._transferred(given, codes[:, self.split :])
        total = torch.zeros((), device=codes.device)
        for level in range(self.split):
            losses = F.cross_entropy(first.logits(states[:, 1 + level], level).float(), own[:, level], reduction="none")
            total = total + (losses * masked[:, level] / masked.sum(1)).sum()
        return total

    def _recognize(self, codes: Tensor, targets: Tensor, seed: int, places: tuple[Tensor, Tensor]) -> Tensor:
        """Sum over targets of telling their pair of codes from that with another item's semantic code."""
        other = (targets + draw_integers(seed + 3, max(1, self.items - 1), *places)) % self.items + 1
        wrong = self.code_table[other].long()[:, self.split :]
        first = self.streams[0]
        given = first.embedding(first.vocabulary.tokens(codes[:, : self.split]))
        right = self.matches(self._transferred(given, codes[:, self.split :])[:, 0])[:, 0].float()
        false = self.matches(self._transferred(given, wrong)[:, 0])[:, 0].float()
        found = F.softplus(-right) + F.softplus(false)
        same = (wrong == codes[:, self.split :]).all(1)  # the other item has the same semantic code
        return torch.where(same, F.softplus(-right), found).sum() / 2

    # ------------------------------------------------------------------------------------------------ search

    @torch.no_grad()
    def search(
        self,
        items: Tensor,
        lengths: Tensor,
        beams: int = 20,
        n_best: int = 10,
        mask: Any = None,
        exclude: Any = None,
        users: Tensor | None = None,
        exact: bool = False,
    ) -> Beams:
        """The best items of both streams' lists, by the sum of their log-probabilities; see `Generator.search`."""
        device, training = self.code_table.device, self.training
        self.eval()
        memory = self.encode_histories(items.to(device), lengths.to(device))
        found = [
            search_beams(stream, memory, trie, beams, n_best if exact else beams, mask, exclude, exact=exact).items
            for stream, trie in zip(self.streams, self.tries, strict=True)
        ]
        union = _distinct(torch.cat(found, 1))  # [B, C]
        codes = self.code_table[union.clamp(min=0)].long().clamp(min=0)
        parts = (codes[..., : self.split], codes[..., self.split :])
        scores = sum(stream.score_codes(memory, part) for stream, part in zip(self.streams, parts, strict=True))
        assert isinstance(scores, Tensor)
        scores = scores.masked_fill(union == NO_ITEM, -torch.inf)
        ordered = union.argsort(dim=1, stable=True)  # ties go to the smaller number
        union, scores = union.gather(1, ordered), scores.gather(1, ordered)
        best, order = scores.sort(dim=1, descending=True, stable=True)
        best, chosen = best[:, :n_best], union.gather(1, order)[:, :n_best]
        short = n_best - chosen.shape[1]
        if short > 0:
            best, chosen = F.pad(best, (0, short), value=-torch.inf), F.pad(chosen, (0, short), value=NO_ITEM)
        self.train(training)
        return Beams(chosen, best, torch.full_like(chosen, -1))

    @torch.no_grad()
    def score_all(self, items: Tensor, lengths: Tensor, users: Tensor | None = None) -> Tensor:
        """Sum of both streams' log-probabilities of every item, float32 [B, N]."""
        device, training = self.code_table.device, self.training
        self.eval()
        memory = self.encode_histories(items.to(device), lengths.to(device))
        codes = self.code_table[1:].long().expand(len(items), -1, -1)
        first, second = self.streams
        scores = first.score_codes(memory, codes[..., : self.split])
        scores = scores + second.score_codes(memory, codes[..., self.split :])
        self.train(training)
        return scores


def _distinct(items: Tensor) -> Tensor:
    """Each item of a row once, in ascending order; -1 fills what is left: int64 [B, C] -> [B, C]."""
    ordered = items.sort(dim=1).values
    twice = torch.zeros_like(ordered, dtype=torch.bool)
    twice[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    return ordered.masked_fill(twice, NO_ITEM)

"""A decoder of codes whose last token, never used in a search, is drawn to the vector of the target.

PRORec has one of them, EAGER one a modality.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genrec.nets.attention import Ragged
from genrec.nets.post_norm import PostNormDecoder
from genrec.nets.t5 import DecoderState
from genrec.nets.t5_blocks import Memory
from genrec.search.vocabulary import BOS, CodeVocabulary
from recbase.nn.draws import draw_integers

__all__ = ["DistillingDecoder"]


class DistillingDecoder(nn.Module):
    """Token embeddings, learned positions, post-norm blocks, tied heads a level, and the token that distils.

    Parameters
    ----------
    sizes : sequence of int [L]
        Codes of each level.
    items : int
        N.
    dim, layers, heads, ffn : int
    dropout : float
    vector_dim : int
        Width of the distilled vectors; 0 leaves the distillation out.
    negatives : int
        Random items that the target's vector is told from; no more than there are others.
    temperature : float
        Of that contrast.
    recency : int, default 0
        See :class:`genrec.nets.post_norm.PostNormDecoder`.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        items: int,
        dim: int,
        layers: int,
        heads: int,
        ffn: int,
        dropout: float,
        vector_dim: int,
        negatives: int,
        temperature: float,
        recency: int = 0,
    ) -> None:
        super().__init__()
        self.vocabulary, self.items, self.dropout = CodeVocabulary(sizes), items, dropout
        self.levels, self.temperature = len(sizes), temperature
        self.negatives = min(negatives, max(1, items - 1))
        self.embedding = nn.Embedding(self.vocabulary.size, dim)
        self.position = nn.Embedding(len(sizes) + 2, dim)
        self.norm = nn.LayerNorm(dim, eps=1e-12)
        self.blocks = PostNormDecoder(dim, layers, heads, ffn, dropout, dropout, recency)
        self.summary = nn.Parameter(torch.randn(dim) * 0.02)
        self.project = nn.Linear(dim, vector_dim) if vector_dim else None

    def inputs(self, codes: Tensor, leaves: Tensor | None = None) -> Tensor:
        """Start, codes, and the token that distils (which alone reads the last code): [S, L] -> [S, L (+ 2), D].

        Parameters
        ----------
        leaves : Tensor [S, D], optional
            What the last code is read as, where it has embeddings of its own.
        """
        tokens = self.vocabulary.tokens(codes)
        given = tokens if self.project is not None else tokens[:, :-1]
        embedded = self.embedding(torch.cat([torch.full_like(tokens[:, :1], BOS), given], 1))
        if self.project is not None:
            if leaves is not None:
                embedded = torch.cat([embedded[:, :-1], leaves[:, None].to(embedded.dtype)], 1)
            embedded = torch.cat([embedded, self.summary.expand(len(codes), 1, -1)], 1)
        return self._placed(embedded, 0)

    def _placed(self, embedded: Tensor, first: int) -> Tensor:
        places = self.position.weight[first : first + embedded.shape[1]]
        return F.dropout(self.norm(embedded + places), self.dropout, self.training)

    def forward(self, codes: Tensor, memory: Memory, leaves: Tensor | None = None) -> Tensor:
        """States of the inputs of codes [B, L]; rows as in the batch that was encoded."""
        states: Tensor = self.blocks(self.inputs(codes, leaves), memory)
        return states

    def prefixes(
        self, codes: Tensor, memory: Memory, lengths: Tensor, group: int, leaves: Tensor | None = None
    ) -> Tensor:
        """States after every item of histories of ``lengths`` [B] items, each ``group`` tokens of the memory.

        Codes [S, L] are one row an item, packed as ``Ragged.of(lengths, T)`` packs them.
        """
        embedded = self.inputs(codes, leaves)
        return self.blocks.prefixes(embedded, memory, Ragged.of(embedded.shape[1] * lengths), group)

    def logits(self, states: Tensor, level: int) -> Tensor:
        """Logits of one level: states [..., D] to [..., V_l]; heads are the level's token embeddings."""
        tokens = self.vocabulary.level_tokens(level).to(states.device)
        return F.linear(states, self.embedding.weight[tokens])

    def all_logits(self, states: Tensor, codes: Tensor | None = None) -> list[Tensor]:
        """Logits of every level from the states of :meth:`forward`: L of [S, V_l]; they do not depend on the codes."""
        return [self.logits(states[:, level], level) for level in range(self.levels)]

    def distill(self, states: Tensor, targets: Tensor, vectors: Tensor, seed: int) -> Tensor:
        """Sum of the contrasts of projected last states [S, D] with their targets' vectors, by cosine.

        Parameters
        ----------
        targets : int64 Tensor [S]
            Item numbers.
        vectors : Tensor [N + 1, vector_dim]
        seed : int
            Of the step's random items, which all targets share; one that is the target itself does not count.
        """
        assert self.project is not None
        drawn = draw_integers(seed, self.items, torch.arange(self.negatives, device=targets.device)) + 1
        query = F.normalize(self.project(states).float(), dim=-1)
        right = (query * F.normalize(vectors[targets], dim=-1)).sum(-1)
        wrong = query @ F.normalize(vectors[drawn], dim=-1).T
        wrong = wrong.masked_fill(drawn[None] == targets[:, None], -torch.inf)
        logits = torch.cat([right[:, None], wrong], 1) / self.temperature
        return -F.log_softmax(logits, 1)[:, 0].sum()

    def start(self, memory: Memory) -> DecoderState:
        """State before the first code."""
        return self.blocks.start(memory)

    def step(self, state: DecoderState, parents: Tensor | None, tokens: Tensor | None) -> tuple[Tensor, DecoderState]:
        """Logits of the next code; the distilling token is not used."""
        level = state.steps
        states, state = self.step_states(state, parents, tokens)
        return self.logits(states, level), state

    def step_states(
        self, state: DecoderState, parents: Tensor | None, tokens: Tensor | None
    ) -> tuple[Tensor, DecoderState]:
        """States [B, W, D] that the next code is read from."""
        level = state.steps
        if tokens is None:
            given = torch.full((len(state.keys[0]), 1), BOS, device=state.keys[0].device)
        else:
            given = self.vocabulary.level_codes_to_tokens(level - 1, tokens)
        x = self._placed(self.embedding(given)[:, :, None], level)[:, :, 0]
        return self.blocks.step(state, parents, x)

"""Output embeddings of the leaves of a prefix tree: the last code is chosen among items, not among shared codes.

Codes of a hierarchical clustering mean nothing outside their cluster: code 3 of one cluster and code 3 of another are
only the third item of each. EAGER's release (arXiv 2406.14017) has an embedding of its own for every leaf.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from genrec.nets.distilling import DistillingDecoder
from genrec.nets.t5 import DecoderState
from genrec.nets.t5_blocks import Memory
from genrec.search.trie import CodeTrie

__all__ = ["LeafDecoder", "LeafHead"]


class LeafHead(nn.Module):
    """Logits of the last code: products of a state with the embeddings of the leaves below its prefix.

    Rows are item numbers, so that a catalogue that loses items keeps what the others learned.

    Parameters
    ----------
    items : int
        N; every item needs codes of its own.
    dim : int
        Width of states and leaves, D.
    """

    def __init__(self, items: int, dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(items + 1, dim, padding_idx=0)

    def forward(self, states: Tensor, nodes: Tensor, trie: CodeTrie) -> Tensor:
        """Logits [..., V] of the codes that may follow; -inf where a prefix has no such child.

        Parameters
        ----------
        states : Tensor [..., D]
        nodes : int64 Tensor [...]
            Prefixes of all codes but the last, as the trie numbers them.
        trie : CodeTrie
            Of N items, all told apart.

        Raises
        ------
        ValueError
            If items share their codes.
        """
        if not trie.unique:
            raise ValueError(
                f"{len(trie)} items share {len(trie.tokens[-1])} codes; embeddings of leaves need codes that tell all "
                "items apart: have them made unique (--unique)"
            )
        flat, step = states.reshape(-1, states.shape[-1]), trie.steps - 1
        # prefixes of one node side by side: its leaves are looked up once
        distinct, group = nodes.flatten().unique(return_inverse=True)
        order = group.argsort(stable=True)
        counts = torch.bincount(group, minlength=len(distinct))
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order), device=order.device) - (counts.cumsum(0) - counts)[group[order]]
        most = int(counts.max()) if len(order) else 0
        padded = flat.new_zeros(len(distinct), most, flat.shape[1]).index_put((group, place), flat)
        children, there = trie.expand(step, distinct)  # [G, M]
        leaves = self.embedding(trie.items[children].long())
        scores = torch.bmm(padded, leaves.to(flat.dtype).transpose(1, 2)).float()[group, place]  # [R, M]
        size = trie.sizes[-1]
        codes = torch.where(there, trie.tokens[step][children, 0].long(), size)[group]
        logits = scores.new_full((len(flat), size + 1), -torch.inf).scatter(1, codes, scores)[:, :size]
        return logits.unflatten(0, nodes.shape)


@dataclass(frozen=True)
class LeafDecoder:
    """A decoder of codes whose last one is chosen by the embeddings of leaves; a view on parts of a model.

    It is a :class:`genrec.search.decoding.CodeDecoder`.
    """

    decoder: DistillingDecoder
    head: LeafHead
    trie: CodeTrie

    def all_logits(self, states: Tensor, codes: Tensor) -> list[Tensor]:
        """Logits of every level from states [S, L (+ 2), D] and target codes [S, L]: L of [S, V_l]."""
        last = self.decoder.levels - 1
        logits = [self.decoder.logits(states[:, level], level) for level in range(last)]
        return [*logits, self.head(states[:, last], self.trie.walk(codes[:, :last]), self.trie)]

    def start(self, memory: Memory) -> _Prefixes:
        """State before the first code."""
        return _Prefixes(self.decoder.start(memory))

    def step(self, state: _Prefixes, parents: Tensor | None, tokens: Tensor | None) -> tuple[Tensor, _Prefixes]:
        """Logits of the next code; the distilling token is not used."""
        level, nodes = state.decoder.steps, state.nodes
        states, after = self.decoder.step_states(state.decoder, parents, tokens)
        if level == 0:
            nodes = torch.zeros(states.shape[:2], dtype=torch.int64, device=states.device)
        else:
            assert nodes is not None
            assert parents is not None
            assert tokens is not None
            nodes = self.trie.descend(level - 1, nodes.gather(1, parents), tokens).clamp(min=0)
        if level < self.decoder.levels - 1:
            return self.decoder.logits(states, level), _Prefixes(after, nodes)
        return self.head(states, nodes, self.trie), _Prefixes(after, nodes)


@dataclass(frozen=True)
class _Prefixes:
    """State of the decoder, and the node of the tree that each prefix has come to, int64 [B, W]."""

    decoder: DecoderState
    nodes: Tensor | None = None

"""Output embeddings of the leaves of a prefix tree: the last code is chosen among items, not among shared codes.

Codes of a hierarchical clustering mean nothing outside their cluster: code 3 of one cluster and code 3 of another are
only the third item of each. EAGER's release (arXiv 2406.14017) has an embedding of its own for every leaf.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from genrec.search.trie import CodeTrie

__all__ = ["LeafHead"]


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

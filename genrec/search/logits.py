"""The trie as a logits processor of transformers, for causal language models that generate item codes.

Knows the trie and the tokens generated so far. Works with greedy search, sampling and beams of ``generate``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessor

from genrec.search.trie import CodeTrie

__all__ = ["TrieLogitsProcessor"]


class TrieLogitsProcessor(LogitsProcessor):
    """Leaves only the tokens that continue a code of the catalogue, then only the end of the sequence.

    Build the trie over the model's own token ids: ``CodeTrie.from_codes(token_ids [N, C], sizes=[vocabulary] * C)``.

    Scores are those of :func:`genrec.search.decoding.beam_search`: a code costs its log-probability even where it is
    the only one that exists (with ``normalize="children"`` such a code is free), and what follows a whole code is
    certain and costs nothing. So a search that runs until the end token ranks and scores items as one that stops after
    the codes. Give ``generate`` the option ``length_penalty=0``; others divide the scores by lengths that say nothing
    of items.

    Parameters
    ----------
    trie : CodeTrie
        Of token ids; one token a step.
    prompt_length : int
        Tokens before the first code: the padded width of the prompts (1 for an encoder-decoder, its start token).
    end_token : int
        Token that follows a whole code, usually the model's end of sequence.
    num_beams : int, default 1
        Rows of ``input_ids`` that belong to one request, where ``mask`` or ``exclude`` have a row a request.
    mask, exclude
        As in :meth:`genrec.search.trie.CodeTrie.allow`.
    levels : sequence of int64 Tensor, optional
        The tokens of each step's own softmax, for models trained with one a level (TIGER of this package): scores are
        normalized over them before anything is forbidden. ``generate`` normalizes over all tokens.
    normalize : {"vocabulary", "children"}, default "vocabulary"
        ``children`` for models trained so: scores are normalized over the tokens that continue some code, whatever
        is allowed.

    Raises
    ------
    ValueError
        If a node of the trie is a tuple, ``levels`` are not one a step, ``end_token`` is below 0 or ``normalize`` is
        neither; while generating, if a request has no allowed item at all, or the trie or ``end_token`` is a token
        that the model does not have.

    Notes
    -----
    No step is ever unconstrained. A row that is no prefix of an allowed item's code can only end, and
    :meth:`genrec.search.trie.CodeTrie.find` says -1 for it. Where there are more beams than items, ``generate`` fills
    its lists with rows of a score of about -1e9 that repeat items: drop them.
    """

    def __init__(
        self,
        trie: CodeTrie,
        prompt_length: int,
        end_token: int,
        num_beams: int = 1,
        mask: Tensor | np.ndarray | None = None,
        exclude: Tensor | np.ndarray | Sequence[Sequence[int]] | None = None,
        levels: Sequence[Tensor] | None = None,
        normalize: Literal["vocabulary", "children"] = "vocabulary",
    ) -> None:
        if max(trie.widths) > 1:
            raise ValueError(f"the trie has steps of {trie.widths} codes; generate() needs one token a step")
        if levels is not None and len(levels) != trie.steps:
            raise ValueError(f"levels has the tokens of {len(levels)} steps, but the trie has {trie.steps}")
        if normalize not in ("vocabulary", "children"):
            raise ValueError(f"normalize must be vocabulary or children, got {normalize!r}")
        if end_token < 0:
            raise ValueError(f"end_token must be a token of the model, 0 or above, got {end_token}")
        self.levels, self.normalize = levels, normalize
        self.trie, self.prompt_length, self.end_token = trie, prompt_length, end_token
        self.num_beams = num_beams
        self.allowed = None if mask is None and exclude is None else trie.allow(mask, exclude)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores [rows, V] with -inf at every token that may not come next."""
        if self.end_token >= scores.shape[1]:
            raise ValueError(f"end_token is {self.end_token} but the model has only {scores.shape[1]} tokens")
        generated = input_ids[:, self.prompt_length :]
        step = generated.shape[1]
        if step >= self.trie.steps:
            return self._ended(scores)
        if self.trie.sizes[step] > scores.shape[1]:
            raise ValueError(f"the trie has {self.trie.sizes[step]} tokens but the model only {scores.shape[1]}")
        nodes = self.trie.walk(generated) if step else torch.zeros_like(input_ids[:, 0])
        if self.levels is not None:
            own = self.levels[step].to(scores.device)
            scores = scores - scores[:, own].logsumexp(1, keepdim=True)
        children, there = self.trie.expand(step, nodes)  # [rows, M]
        tokens = self.trie.tokens[step][:, 0][children].long()
        if self.normalize == "children":
            total = scores.gather(1, tokens).masked_fill(~there, -torch.inf).logsumexp(1, keepdim=True)
            scores = scores - total.masked_fill(total == -torch.inf, 0.0)
        there = self._allowed(step, children, there)
        keep = torch.zeros_like(scores, dtype=torch.int8).scatter_add_(1, tokens, there.to(torch.int8))
        over = ~there.any(1)  # no code goes on: only the end can come, as it does after one that has ended
        if not step and bool(over.any()):
            row = int(over.nonzero()[0, 0]) // self.num_beams
            raise ValueError(f"request {row} has no allowed item among the {len(self.trie)} of the trie")
        if step and self.trie.ragged:
            over = over | (self.trie.closed(step, nodes.clamp(min=0)) & (nodes >= 0))
        return torch.where(over[:, None], self._ended(scores), scores.masked_fill(keep == 0, -torch.inf))

    def _ended(self, scores: Tensor) -> Tensor:
        """Scores of rows whose code is whole: the end is certain, so it costs nothing."""
        ended = torch.full_like(scores, -torch.inf)
        ended[:, self.end_token] = 0
        return ended

    def _allowed(self, step: int, children: Tensor, there: Tensor) -> Tensor:
        """Marks of the children that lead to an allowed item, bool [rows, M]."""
        if self.allowed is None:
            return there
        rows = len(children)
        if self.allowed.rows not in (1, rows // self.num_beams):
            raise ValueError(f"mask and exclude are of {self.allowed.rows} requests, but there are {rows} rows")
        beams = self.num_beams if self.allowed.rows > 1 else 1
        counts = self.allowed.count(step + 1, children.unflatten(0, (rows // beams, beams)))
        return there & (counts.flatten(0, 1) > 0)

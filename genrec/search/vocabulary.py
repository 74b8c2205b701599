"""Tokens of generative recommenders: which token stands for which code of which level.

One vocabulary for encoder input, decoder input and output: a few special tokens, optional buckets of users, then the
codes of every level, one level after the other. Knows nothing of models or items beyond their codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from recbase.nn.draws import draw_integers
from semtok.codes import ItemCodes

__all__ = ["BOS", "END", "NO_CODE", "PAD", "CodeVocabulary"]

PAD, BOS, END = 0, 1, 2
"""Tokens of padding, of the start of decoding, and of the end of a code that is shorter than others."""

NO_CODE = -1
"""What fills the end of a code that is shorter than others."""

_SPECIALS = 3
_USER_SEED = 0x4116B7A8CF541562  # with this one users keep the buckets that models already saved were trained with


class CodeVocabulary:
    """Token numbers: 0 padding, 1 start of decoding, 2 end of a code, user buckets, then the codes level by level.

    Parameters
    ----------
    sizes : sequence of int [L]
        Codes of each level, as in :class:`semtok.codes.ItemCodes`.
    user_buckets : int, default 0
        Tokens into which users are hashed (TIGER has 2,000); 0 turns them off.
    ragged : bool, default False
        Whether some items have fewer than L codes (the rest filled with -1): every level but the first then has one
        more output, its last, which says that the code has ended.

    Attributes
    ----------
    size : int
        All tokens.
    levels : int
        L.

    Raises
    ------
    ValueError
        If there is no level, a level has no code, or ``user_buckets`` is negative.

    Examples
    --------
    >>> vocabulary = CodeVocabulary([4, 4])
    >>> vocabulary.tokens(torch.tensor([[0, 3]])).tolist()
    [[3, 10]]
    """

    def __init__(self, sizes: Sequence[int], user_buckets: int = 0, ragged: bool = False) -> None:
        self.sizes = tuple(int(size) for size in sizes)
        if not self.sizes or min(self.sizes) < 1:
            raise ValueError(f"sizes is {self.sizes}; expected at least one level and one code a level")
        if user_buckets < 0:
            raise ValueError(f"--user-buckets must be at least 0, got {user_buckets}")
        self.user_buckets, self.ragged, self.levels = user_buckets, ragged, len(self.sizes)
        self.first_code = _SPECIALS + user_buckets
        self.offsets = [self.first_code + sum(self.sizes[:level]) for level in range(self.levels)]
        self.size = self.first_code + sum(self.sizes)

    @classmethod
    def of(cls, codes: ItemCodes, user_buckets: int = 0) -> CodeVocabulary:
        """The vocabulary of some item codes."""
        return cls(codes.sizes, user_buckets)

    def __repr__(self) -> str:
        return f"CodeVocabulary({self.size} tokens, sizes={self.sizes}, user_buckets={self.user_buckets})"

    @cached_property
    def _first(self) -> Tensor:
        return torch.tensor(self.offsets)

    @property
    def output_sizes(self) -> tuple[int, ...]:
        """Outputs of each level: its codes, and the end of the code where that can come."""
        return tuple(size + (self.ragged and level > 0) for level, size in enumerate(self.sizes))

    def level_tokens(self, level: int) -> Tensor:
        """Tokens of one level's outputs, int64 [output_sizes[level]]: output j is ``level_tokens(level)[j]``."""
        tokens = torch.arange(self.offsets[level], self.offsets[level] + self.sizes[level])
        return torch.cat([tokens, torch.tensor([END])]) if self.output_sizes[level] > self.sizes[level] else tokens

    def tokens(self, codes: Tensor) -> Tensor:
        """Codes of all levels to tokens: int [..., L] to int64 [..., L]; -1 becomes padding."""
        return torch.where(codes >= 0, codes.long() + self._first.to(codes.device), PAD)

    def level_codes_to_tokens(self, level: int, codes: Tensor) -> Tensor:
        """Outputs of one level (its codes, and the end as the last) to tokens: int [...] to int64 [...]."""
        tokens = codes.long() + self.offsets[level]
        return torch.where(codes < self.sizes[level], tokens, END) if self.ragged else tokens

    def codes(self, tokens: Tensor) -> Tensor:
        """Tokens of all levels to codes: int64 [..., L] to int64 [..., L]; what is no code of its level becomes -1."""
        codes = tokens - self._first.to(tokens.device)
        sizes = torch.tensor(self.sizes, device=tokens.device)
        return torch.where((codes >= 0) & (codes < sizes), codes, NO_CODE)

    def targets(self, codes: Tensor) -> Tensor:
        """Right output at each level, int64 [..., L]; -100 (ignored by cross-entropy) after the end.

        The first missing code of a ragged row is the output "end", the last of its level.
        """
        targets = codes.long()
        if not self.ragged:
            return targets
        missing = targets < 0
        first = missing & (missing.cumsum(-1) == 1)
        sizes = torch.tensor(self.sizes, device=codes.device)
        return torch.where(first, sizes, targets.masked_fill(missing, -100))

    def user_tokens(self, users: Tensor) -> Tensor:
        """Token of each user's bucket: int64 [...] to int64 [...], by a hash that is the same everywhere.

        Raises
        ------
        ValueError
            If the vocabulary has no user buckets.
        """
        if not self.user_buckets:
            raise ValueError("the vocabulary has no user buckets; make it with user_buckets above 0")
        return _SPECIALS + draw_integers(_USER_SEED, self.user_buckets, users.long())

    def table(self, codes: ItemCodes | np.ndarray | Tensor) -> Tensor:
        """Tokens of every item, int64 [N + 1, L]: row i is item number i, row 0 is padding."""
        array = codes.codes if isinstance(codes, ItemCodes) else codes
        tokens = self.tokens(torch.as_tensor(array))
        return torch.cat([tokens.new_full((1, self.levels), PAD), tokens])

    def history(self, items: Tensor, lengths: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens of histories: items [B, T] right padded and lengths [B] to tokens [B, T * L] and lengths [B].

        Codes shorter than L are closed up, so that padding stands only at the end.

        Parameters
        ----------
        items : int64 Tensor [B, T]
        lengths : int64 Tensor [B]
        table : int64 Tensor [N + 1, L]
            From :meth:`table`.
        """
        tokens = table[items].flatten(1)
        if not self.ragged:
            return tokens, lengths * self.levels
        real = tokens != PAD
        order = real.to(torch.int8).argsort(dim=1, descending=True, stable=True)
        return tokens.gather(1, order), real.sum(1)

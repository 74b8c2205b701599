"""The contract of a tokenizer, as tests that a package with one of its own runs.

    # test_signs.py of the package
    from semtok.testing import TokenizerContract
    from sign_codes import SignCodes

    class TestSignCodes(TokenizerContract):
        tokenizer = SignCodes
        settings = {"bits": 6}

pytest finds the tests of the class; nothing else is needed. Knows no method of this package.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from semtok.tokenizer import ItemTokenizer

__all__ = ["TokenizerContract"]


class TokenizerContract:
    """Tests that every tokenizer passes; a subclass whose name starts with Test names its tokenizer.

    Attributes
    ----------
    tokenizer : type of ItemTokenizer
    settings : dict
        Arguments of its constructor that make it small.
    rows, columns : int
        Vectors that it is fitted on, and their numbers.
    decodes_within : float
        Largest mean squared distance between vectors and what their codes stand for, as a share of the variance; 1 is
        what a single code reaches. None for methods whose codes keep directions alone.
    nearest : bool
        Whether ``encode`` goes for codes near the vector; False for codes that are drawn.
    """

    tokenizer: ClassVar[type[ItemTokenizer]]
    settings: ClassVar[dict[str, Any]] = {}
    rows: ClassVar[int] = 200
    columns: ClassVar[int] = 16
    decodes_within: ClassVar[float | None] = None
    nearest: ClassVar[bool] = True

    def vectors(self) -> np.ndarray:
        """Vectors around a few centres, float32 [rows, columns]; the same at every call."""
        rng = np.random.default_rng(0)
        centres = rng.standard_normal((12, self.columns))
        drawn = centres[rng.integers(0, 12, self.rows)] + 0.2 * rng.standard_normal((self.rows, self.columns))
        return drawn.astype(np.float32)

    def fit_arguments(self) -> dict[str, Any]:
        """Further arguments of ``fit``, for methods that learn from more than vectors."""
        return {}

    def fitted(self) -> Any:
        """The tokenizer, fitted on `vectors`."""
        made = self.tokenizer(**self.settings)
        return made.fit(self.vectors(), **self.fit_arguments())

    def test_codes_lie_in_their_levels(self) -> None:
        made, vectors = self.fitted(), self.vectors()
        codes = np.asarray(made.encode(vectors))
        assert codes.shape == (self.rows, len(made.sizes_)), "encode gives one code a level for every row"
        assert np.issubdtype(codes.dtype, np.integer), f"codes are integers, got {codes.dtype}"
        assert (codes >= -1).all(), "a code is 0 or more, or -1 where it has ended"
        assert (codes[:, 0] >= 0).all(), "every item has a first code"
        assert (codes < np.asarray(made.sizes_)).all(), "a code lies below the size of its level"
        assert len(np.unique(codes, axis=0)) > 1, "vectors that differ are told apart"

    def test_a_fitted_tokenizer_says_what_it_is(self) -> None:
        made = self.fitted()
        assert made.n_features_in_ == self.columns
        assert sorted(part.start for part in made.blocks_.values())[0] == 0
        assert sum(part.stop - part.start for part in made.blocks_.values()) == len(made.sizes_)
        assert self.tokenizer.method, "method names the tokenizer in commands and folders"
        assert (self.tokenizer.__doc__ or "").strip(), "its docstring is the help of the command"

    def test_fit_returns_the_tokenizer_and_leaves_its_arguments(self) -> None:
        made = self.tokenizer(**self.settings)
        before = made.get_params()
        assert made.fit(self.vectors(), **self.fit_arguments()) is made
        assert made.get_params() == before, "fit does not change what the constructor was given"

    def test_scikit_learn_can_clone_it(self) -> None:
        from sklearn.base import clone

        made = self.tokenizer(**self.settings)
        assert clone(made).get_params() == made.get_params()

    def test_a_row_has_its_codes_whatever_stands_beside_it(self) -> None:
        made, vectors = self.fitted(), self.vectors()
        whole = np.asarray(made.encode(vectors))
        assert np.array_equal(np.asarray(made.encode(vectors[50:53])), whole[50:53])
        assert np.array_equal(np.asarray(made.encode(vectors[::-1])), whole[::-1])

    def test_same_seed_same_codes(self) -> None:
        assert np.array_equal(self.fitted().encode(self.vectors()), self.fitted().encode(self.vectors()))

    def test_codes_stand_for_vectors(self) -> None:
        made, vectors = self.fitted(), self.vectors()
        codes = made.encode(vectors)
        back = np.asarray(made.decode(codes))
        assert back.shape == vectors.shape
        assert np.isfinite(back).all()
        same = np.asarray(made.decode(codes[7:9]))
        np.testing.assert_allclose(same, back[7:9], rtol=1e-5, atol=1e-6)
        if self.decodes_within is not None:
            error = ((back - vectors) ** 2).sum(1).mean() / ((vectors - vectors.mean(0)) ** 2).sum(1).mean()
            assert error <= self.decodes_within, f"codes keep too little: {error:.3f} of the variance is lost"

    def test_a_folder_gives_the_tokenizer_back(self, tmp_path: Path) -> None:
        made, vectors = self.fitted(), self.vectors()
        ids = [f"item-{number}" for number in range(self.rows)]
        made.save(tmp_path / "codes", made.item_codes(vectors, ids))
        again = self.tokenizer.load(tmp_path / "codes")
        assert type(again) is self.tokenizer
        assert again.get_params() == made.get_params()
        assert np.array_equal(again.encode(vectors), made.encode(vectors))
        np.testing.assert_allclose(again.decode(made.encode(vectors)), made.decode(made.encode(vectors)), rtol=1e-6)

    def test_costs_agree_with_what_codes_stand_for(self) -> None:
        if self.tokenizer.costs is ItemTokenizer.costs:
            return  # without costs its codes are made unique by a suffix alone
        made, vectors = self.fitted(), self.vectors()
        codes = np.asarray(made.encode(vectors))
        costs = np.asarray(made.costs(vectors[:20], codes[:20], -1))
        assert costs.shape == (20, made.sizes_[-1])
        own = costs[np.arange(20), codes[:20, -1]]
        assert (own >= 0).all()
        assert np.isfinite(own).all()
        finite = costs[np.isfinite(costs)]
        if self.nearest:
            assert own.mean() < finite.mean(), "codes that encode chooses cost less than others do on average"

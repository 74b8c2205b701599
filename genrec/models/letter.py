"""LETTER: TIGER on codes that also know collaboration and are evenly used, trained with a temperature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from genrec.models.tiger import SMALL, TIGER
from genrec.preparation import Preparation as ItemCodePreparation
from recbase.arguments import Depth, Dropout, Heads, Large, Length, Temperature, Width

if TYPE_CHECKING:
    from recbase.data.catalog import Dataset

__all__ = ["LETTER", "RECIPES", "Preparation"]

RECIPES = {
    "default": {"epochs": 40, "batch_size": 256, "lr": 1e-3, "warmup_steps": 300, "patience": 5, "precision": "auto"},
    "paper": {
        "epochs": 200,
        "batch_size": 256,
        "lr": 5e-4,
        "optimizer": "adamw",
        "weight_decay": 0.01,
        "schedule": "cosine",
        "warmup_share": 0.01,
        "patience": 0,
        "precision": "no",
        "levels": 4,
        "codebook_size": 256,
        "tokenizer_recipe": "paper",
        "pca": None,
        "whiten": False,
    },
    "small": SMALL,
}


@dataclass(frozen=True)
class Preparation(ItemCodePreparation):
    """LETTER codes of the item text and of the training part's co-occurrence."""

    method: ClassVar[str] = "letter"

    def tokenizer_arguments(self, dataset: Dataset, seed: int, method: str | None = None) -> dict[str, Any]:
        """As of any tokenizer; small codebooks are clustered into fewer groups."""
        found = super().tokenizer_arguments(dataset, seed, method)
        return {"groups": min(10, found["codebook_size"] // 2)} | found


class LETTER(TIGER):
    """Learnable tokenizer for generative recommendation (Wang et al., CIKM 2024, arXiv 2405.07314), with TIGER.

    The generator is TIGER's; its ranking-guided loss is a cross-entropy of logits divided by a temperature, which below
    1 weighs the codes that come close to the right one. As in the release the temperature is of the loss alone: a
    search, and an exported model, read the logits as they are, so scores are not the probabilities that were trained.
    Departs from the release as TIGER does: a softmax a level, only codes that exist, metrics of items (the release
    accepts any item of a colliding code); and its codes learn collaboration from counts of what occurs together (PPMI)
    where the release has item vectors of SASRec. The release keeps the temperature's value to itself for most sets, so
    the default is ours; 1.0 is plain cross-entropy. Recipe ``small`` is TIGER's. No recipe names a text encoder: give
    it by ``--encoder``.

    Parameters
    ----------
    items : int
        Items in the catalogue, N.
    sizes : list of int [L]
        Codes of each level.
    dim : int, default 128
        Width of tokens, D.
    encoder_layers : int, default 4
        Blocks of the encoder.
    decoder_layers : int, default 4
        Blocks of the decoder.
    heads : int, default 6
        Attention heads.
    head_dim : int, default 64
        Width of a head.
    ffn : int, default 1024
        Width of the feed-forward layers.
    dropout : float, default 0.1
        On the output of every sub-layer, and on attention weights.
    activation : {"relu", "gated-gelu"}, default "relu"
        Of the feed-forward layers.
    tied : bool, default True
        Whether the heads are the token embeddings.
    max_len : int, default 20
        Longest history, in items; older ones are cut.
    temperature : float, default 0.7
        Divides the logits in the loss, not in a search.
    causal_encoder : bool, default False
        See TIGER.
    normalize : {"vocabulary", "children"}, default "vocabulary"
        See TIGER.
    """

    def __init__(
        self,
        items: Large,
        sizes: list[int],
        dim: Width = 128,
        encoder_layers: Depth = 4,
        decoder_layers: Depth = 4,
        heads: Heads = 6,
        head_dim: Width = 64,
        ffn: Width = 1024,
        dropout: Dropout = 0.1,
        activation: Literal["relu", "gated-gelu"] = "relu",
        tied: bool = True,
        max_len: Length = 20,
        temperature: Temperature = 0.7,
        causal_encoder: bool = False,
        normalize: Literal["vocabulary", "children"] = "vocabulary",
    ) -> None:
        given = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__(**given)
        self._config = given

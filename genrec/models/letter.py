"""LETTER: TIGER on codes that also know collaboration and are evenly used, trained with a temperature."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from genrec.models.tiger import DENSE, SMALL, TIGER
from genrec.preparation import Preparation as ItemCodePreparation
from genrec.preparation import Sources, train_first
from recbase.arguments import (
    Count,
    Depth,
    Dropout,
    Heads,
    Large,
    Length,
    Temperature,
    Weight,
    Width,
    check_arguments,
)
from recbase.pipeline import step

if TYPE_CHECKING:
    pass

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
        "encoder": "huggyllama/llama-7b",
        "collaborative": "sasrec",
    },
    "small": SMALL,
    "dense": DENSE,
}


@dataclass(frozen=True)
class Preparation(ItemCodePreparation):
    """LETTER codes of the item text and of the training part's behaviour."""

    method: ClassVar[str] = "letter"
    collaborative: Literal["ppmi", "sasrec"] = "ppmi"
    """Item vectors that codes follow besides the text: of co-occurrence (ppmi), or of a SASRec trained for it."""
    collaborative_dim: Width = 32
    """Width of SASRec's item vectors."""
    collaborative_epochs: Count = 60
    """Passes over the users in the training of SASRec at most."""

    def collaborative_run(self, sources: Sources) -> Path | None:
        """Run folder of the SASRec, trained once and kept in the cache; none where codes follow co-occurrence."""
        if self.collaborative == "ppmi":
            return None
        key = {"data": sources.dataset.trained_hash, "seed": sources.seed, "dim": self.collaborative_dim}
        key |= {"epochs": self.collaborative_epochs}
        return step(sources.cache, "sasrec", key, "config.json", partial(self._train, sources))

    def _train(self, sources: Sources, target: Path) -> None:
        """Train SASRec by its own recipe; validation, never test, says when it stops."""
        from accelerate.utils import set_seed

        from recbase.cli.options import recipe_of
        from recbase.evaluate.ranking import validator
        from recbase.train.loop import TrainConfig
        from seqrec.models.sasrec import SASRec

        set_seed(sources.seed)
        dataset = sources.dataset
        chosen = recipe_of("seqrec.models.sasrec:SASRec", "default")
        chosen |= {"epochs": self.collaborative_epochs, "seed": sources.seed, "quiet": sources.quiet}
        model, judge = SASRec(dataset.n_items, self.collaborative_dim), validator(dataset.split().valid)
        train_first("sasrec", model, dataset, "all", judge, TrainConfig(**chosen), target)


class LETTER(TIGER):
    """Learnable tokenizer for generative recommendation (Wang et al., CIKM 2024, arXiv 2405.07314), with TIGER.

    The generator is TIGER's; its ranking-guided loss is a cross-entropy of logits divided by a temperature, which below
    1 weighs the codes that come close to the right one. As in the release the temperature is of the loss alone: unless
    ``search_temperature`` says otherwise a search reads the logits as they are, so that scores are not the
    probabilities that were trained. Departs from the release as TIGER does: a softmax a level, only codes that exist,
    metrics of items (the release accepts any item of a colliding code), no end token after the history
    (``recency_bias`` tells what is last). By default its codes learn collaboration from counts of what occurs together
    (PPMI); recipe ``paper`` takes item vectors of SASRec, as the release does, 32 wide, and text vectors of LLaMA-7B.
    The release keeps the temperature's value to itself for most sets, so the default is ours; 1.0 is plain
    cross-entropy. Recipes ``small`` and ``dense`` are TIGER's.

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
        Divides the logits in the loss.
    causal_encoder : bool, default False
        See TIGER.
    normalize : {"vocabulary", "children"}, default "vocabulary"
        See TIGER.
    recency_bias : bool, default False
        See TIGER.
    dense_weight : float, default 0.0
        See TIGER.
    dense_temperature : float, default 0.12
        Temperature of the dense head.
    search_temperature : float, default 1.0
        Divides the logits in a search; that of the loss makes scores the probabilities that were trained. The release
        has 1.
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
        recency_bias: bool = False,
        dense_weight: Weight = 0.0,
        dense_temperature: Temperature = 0.12,
        search_temperature: Temperature = 1.0,
    ) -> None:
        given = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__(**{name: value for name, value in given.items() if name != "search_temperature"})
        check_arguments(type(self), given)
        self._config = given
        self.t5.search_scale = 1 / search_temperature

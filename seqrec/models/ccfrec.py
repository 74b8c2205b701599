"""CCFRec: item codes query the item's text, and a causal Transformer reads the fused items.

The item encoder (semantic fusion) is trained together with the backbone; for deployment its outputs are tabulated, and
a recommendation costs what SASRec's does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypedDict, Unpack

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from recbase.arguments import (
    Depth,
    Dropout,
    Heads,
    Large,
    LargeOrOff,
    Length,
    Share,
    Temperature,
    Weight,
    Width,
    taken,
)
from recbase.data.sequences import SequenceBatch
from recbase.model import Network, initialise
from recbase.nn.draws import draw_integers, draw_uniform
from recbase.nn.losses import gather_with_gradient, info_nce, linear_cross_entropy
from recbase.nn.transformer import Packing
from recbase.train.loop import LossOutput
from seqrec.layers import FusionLayer
from seqrec.models.ccfrec_tabulated import Backbone, CCFRecScorer, Negatives, NextItem, TabulatedCCFRec

__all__ = ["RECIPES", "CCFRec"]

_DEFAULT = {"epochs": 200, "batch_size": 256, "lr": 2e-3, "warmup_steps": 100, "patience": 10, "precision": "auto"}

_PAPER = {
    "encoder": "sentence-transformers/sentence-t5-base",
    "pca": 128,
    "whiten": True,
    "code_method": "pq",
    "code_levels": 4,
    "temperature": 0.07,
    "mask_ratio": 0.5,
    "id_form": "inputs",
    "id_loss": "base",
    "form": "prefix",
    "batch_size": 400,
    "weight_decay": 1e-4,
    "optimizer": "adamw",
    "schedule": "constant",
    "warmup_steps": 500,
    "epochs": 500,
    "patience": 10,
    "precision": "no",
    "mask_share": 1.0,
    "in_batch_negatives": False,
    "max_len": 20,
}

_SCIENTIFIC = _PAPER | {
    "lr": 5e-4,
    "negatives": 25_000,
    "mcm_weight": 0.2,
    "msa_weight": 0.4,
    "dropout": 0.4,
    "fusion_dropout": 0.1,
    "fusion_attention_dropout": 0.1,
}

RECIPES = {
    "default": _DEFAULT,
    "no-cross-attention": _DEFAULT | {"fusion": False, "residual_in_candidates": False},
    # Not the paper's model: two tables of item ids in place of the fusion, chosen on validation (docs/results).
    "ids": {
        "item_ids": "two",
        "normalize_fused": True,
        "fusion": False,
        "mcm_weight": 0.0,
        "msa_weight": 0.0,
        "temperature": 0.12,
        "ffn": 256,
        "epochs": 60,
        "batch_size": 256,
        "lr": 2e-3,
        "warmup_steps": 100,
        "patience": 6,
        "validate_every": 1,
        "precision": "auto",
    },
    # Section 4.1.4 of the paper, and the settings released for each of its data sets.
    "paper": _SCIENTIFIC,
    "paper-scientific": _SCIENTIFIC,
    "paper-instrument": _PAPER
    | {"lr": 1e-3, "negatives": 24_000, "mcm_weight": 0.6, "msa_weight": 0.4, "dropout": 0.3}
    | {"fusion_dropout": 0.3, "fusion_attention_dropout": 0.3},
    "paper-game": _PAPER
    | {"lr": 1e-3, "negatives": 25_000, "mcm_weight": 0.3, "msa_weight": 0.5, "dropout": 0.2}
    | {"fusion_dropout": 0.1, "fusion_attention_dropout": 0.1},
    "paper-baby": _PAPER
    | {"lr": 5e-4, "negatives": 25_000, "mcm_weight": 0.3, "msa_weight": 0.5, "dropout": 0.2}
    | {"fusion_dropout": 0.2, "fusion_attention_dropout": 0.2},
}

_CHUNK = 512  # items fused at a time
_KEEP_ACTIVATIONS = 6_000  # items fused without recomputing activations in the backward pass


@dataclass(frozen=True)
class Fusion:
    """Settings of the codes that query an item's text; `CCFRec` says what each setting means."""

    fusion: bool = True
    fusion_layers: Depth = 2
    fusion_dropout: Dropout = 0.1
    fusion_attention_dropout: Dropout = 0.0
    text: Literal["views", "codes"] = "views"


@dataclass(frozen=True)
class MaskedPass:
    """Settings of the pass over masked histories and of its losses; `CCFRec` says what each setting means."""

    mcm_weight: Weight = 0.2
    msa_weight: Weight = 0.4
    mask_ratio: Share = 0.5
    mask_share: Share = 0.25
    mcm_vocabulary: Literal["all", "own"] = "all"
    mask_vectors: Literal["shared", "position"] = "shared"
    mask_equal_targets: bool = False


class CCFRecOptions(TypedDict, total=False):
    """The settings of `Fusion` and `MaskedPass`, as keywords of `CCFRec`."""

    fusion: bool
    fusion_layers: Depth
    fusion_dropout: Dropout
    fusion_attention_dropout: Dropout
    text: Literal["views", "codes"]
    mcm_weight: Weight
    msa_weight: Weight
    mask_ratio: Share
    mask_share: Share
    mcm_vocabulary: Literal["all", "own"]
    mask_vectors: Literal["shared", "position"]
    mask_equal_targets: bool


class CCFRec(Network):
    """Code-guided fusion of text and collaborative signals (Liu et al., KDD 2025, arXiv 2503.12183).

    Where paper and released code differ this follows the code: whitened PCA of the text vectors (section 2.3.1),
    residuals and layer norms in the fusion module (2.3.2), the mean of the code embeddings added to candidates only
    (2.3.3 adds it to inputs too: ``--residual-in-sequence``), AdamW with weight decay and warm-up, and attention
    dropout of the fusion equal to its other dropout. Departures from both: vectors and codes come of one PCA, where the
    code fits it twice; [MASK] is no candidate of masked code modelling. Ours, off in the paper's recipes: the
    all-positions form (a target at every position, the masked pass on a share of the users), targets of a step as
    negatives, a softmax over all items where the catalogue is small. Ours in every recipe: fusion once per distinct
    item of a step in the pass without masks, and a gradient for the shared [MASK] vector through its lookup.

    Recipes ``paper`` (``paper-scientific``), ``paper-instrument``, ``paper-game`` and ``paper-baby`` are the settings
    released for each data set, with Sentence-T5 as encoder, four codes of 256 a view, and a stage of item ids
    (4.4.5) that adds ids to the recommender's inputs and trains them by the model's own loss. Elsewhere that stage adds
    the ids to candidates too and takes a softmax over all items, unless ``--id-form`` and ``--id-loss`` say otherwise.
    Recipe ``no-cross-attention`` is "w/o CA" of section 4.3: text vectors and code embeddings under one mean, the same
    for inputs and candidates. Recipe ``ids`` is not the paper's model.

    Parameters
    ----------
    items : int
        Items in the catalogue, N.
    sizes : list of int
        Codes of each code position, L entries (views x codes a view).
    views : int
        Text vectors an item, m.
    text_dim : int, default 128
        Width of the text vectors.
    dim : int, default 128
        Width D of code embeddings, fusion and backbone.
    layers : int, default 2
        Blocks of the backbone.
    heads : int, default 2
        Attention heads of backbone and fusion; must divide ``dim``.
    ffn : int, default 512
        Width of the feed-forward layers.
    fusion_layers : int, default 2
        Layers of the semantic-fusion module.
    dropout : float, default 0.3
        Of the backbone (attention weights too).
    fusion_dropout : float, default 0.1
        On the output of every sub-layer of the fusion module.
    fusion_attention_dropout : float, default 0.0
        On the attention weights of the fusion module.
    max_len : int, default 20
        Longest history, in items; older ones are cut.
    temperature : float, default 0.07
        Divides all cosines.
    mcm_weight : float, default 0.2
        alpha, weight of masked code modelling; 0 turns it off (ablation "w/o MCM").
    msa_weight : float, default 0.4
        beta, weight of masked sequence alignment; 0 turns it off (ablation "w/o MSA").
    mask_ratio : float, default 0.5
        Probability rho that a code is selected for masking; of those 80 % become [MASK], 10 % a random code.
    mask_share : float, default 0.25
        Share of a step's rows whose histories go through the masked pass.
    negatives : int, default -1
        Uniform negatives a step; 0 = all items, -1 = all up to 5,000 (GPU 30,000), above that 1,024 (GPU 8,192).
    in_batch_negatives : bool, default True
        Whether the targets of the step are negatives of each other (the released code: no).
    residual_in_sequence : bool, default False
        Add the mean code embedding to sequence inputs too (paper: yes; released code: candidates only).
    residual_in_candidates : bool, default True
        Add the mean code embedding to candidates. Not for the paper's "w/o CA", where an item is one mean.
    mcm_vocabulary : {"all", "own"}, default "all"
        Codes that a masked code is told apart from: those of all positions, or of its own.
    mask_vectors : {"shared", "position"}, default "shared"
        One [MASK] vector, or one a code position.
    text : {"views", "codes"}, default "views"
        What the codes attend to; ``codes`` is the ablation "w/o text".
    fusion : bool, default True
        False leaves the fusion module out: the mean of an item's code embeddings and text vectors stands for what it
        gives. With ``residual_in_candidates=False`` that mean is the item, as in the ablation "w/o CA" of section 4.3.
    mask_equal_targets : bool, default False
        In the sequence alignment, rows of the same target are no negatives of each other.
    item_ids : {"none", "inputs", "shared", "two"}, default "none"
        Item embeddings trained together with the fusion: none (the paper's main stage); added to the inputs; one table
        for inputs and candidates; or a table for each. Not in the paper, whose ids come in a stage of their own.
    normalize_fused : bool, default False
        Give the fused vectors unit length before ids are added, so that neither drowns the other. Not in the paper.
    correct_sampling : bool, default False
        Let each sampled negative stand for as many items as were not sampled for it, so that the loss estimates the
        softmax over all items. Not in the paper. With in-batch negatives alone.
    """

    setting_groups = (Fusion, MaskedPass)

    def __init__(
        self,
        items: Large,
        sizes: list[int],
        views: int,
        text_dim: LargeOrOff = 128,
        dim: Width = 128,
        layers: Depth = 2,
        heads: Heads = 2,
        ffn: Width = 512,
        dropout: Dropout = 0.3,
        max_len: Length = 20,
        temperature: Temperature = 0.07,
        negatives: Negatives = -1,
        in_batch_negatives: bool = True,
        residual_in_sequence: bool = False,
        residual_in_candidates: bool = True,
        item_ids: Literal["none", "inputs", "shared", "two"] = "none",
        normalize_fused: bool = False,
        correct_sampling: bool = False,
        **options: Unpack[CCFRecOptions],
    ) -> None:
        super().__init__(locals() | {"sizes": [int(size) for size in sizes]})
        if not sizes or min(sizes) < 1:
            raise ValueError(f"sizes must hold a positive number for every code position, got {list(sizes)}")
        fused, masked = taken(Fusion, options), taken(MaskedPass, options)
        self.dim, self.code_count = dim, int(sum(sizes))
        self.scale, self.temperature = 1 / temperature, temperature
        self.mcm_weight, self.msa_weight = (masked.mcm_weight if fused.fusion else 0.0), masked.msa_weight
        self.mask_ratio, self.mask_share = masked.mask_ratio, masked.mask_share
        self.next_item = NextItem(items, self.scale, negatives, in_batch_negatives, correct_sampling)
        self.residual_in_sequence, self.residual_in_candidates = residual_in_sequence, residual_in_candidates
        self.mask_equal_targets = masked.mask_equal_targets
        self.mcm_vocabulary, self.mask_vectors, self.text_source = (
            masked.mcm_vocabulary,
            masked.mask_vectors,
            fused.text,
        )
        levels = len(sizes)
        # Row 0 is the shared [MASK]; rows 1.. are the codes, position by position; then [MASK] rows a position, if any.
        extra = levels if masked.mask_vectors == "position" else 0
        self.code_embedding = nn.Embedding(1 + self.code_count + extra, dim)
        self.text_projection = nn.Linear(text_dim, dim) if not fused.fusion and text_dim != dim else nn.Identity()
        context = text_dim if fused.text == "views" else dim
        self.fusion = nn.ModuleList(
            FusionLayer(dim, heads, ffn, fused.fusion_dropout, fused.fusion_attention_dropout, context)
            for _ in range(fused.fusion_layers if fused.fusion else 0)
        )
        self.backbone = Backbone(dim, layers, heads, ffn, dropout, max_len)
        offsets = torch.tensor([0, *np.cumsum(sizes)[:-1].tolist()]) + 1
        self.codes: Tensor
        self.text: Tensor
        self.offsets: Tensor
        self.register_buffer("offsets", offsets, persistent=False)
        self.register_buffer("codes", torch.zeros(items + 1, levels, dtype=torch.int64))
        self.register_buffer("text", torch.zeros(items + 1, views, text_dim))
        self.item_ids, self.normalize_fused = item_ids, normalize_fused
        if item_ids != "none":
            self.input_ids = nn.Embedding(items + 1, dim, padding_idx=0)
        if item_ids == "two":
            self.candidate_ids = nn.Embedding(items + 1, dim, padding_idx=0)
        initialise(self)

    def with_content(self, codes: np.ndarray | Tensor, views: np.ndarray | Tensor) -> CCFRec:
        """Set the items' codes and text vectors (frozen inputs, saved with the model) and return the model.

        Parameters
        ----------
        codes : int [N, L]
            Codes of item 1..N, each below the size of its position.
        views : float32 [N, m, E]
            Text vectors of item 1..N.

        Raises
        ------
        ValueError
            If a shape, or a code's range, does not fit the model.
        """
        code, vectors = torch.as_tensor(codes).long(), torch.as_tensor(views).float()
        for name, found, expected in (
            ("codes", tuple(code.shape), (self.items, self.codes.shape[1])),
            ("text", tuple(vectors.shape), (self.items, *self.text.shape[1:])),
        ):
            if found != expected:
                raise ValueError(f"{name} has shape {found} but the model expects {expected}")
        sizes = torch.tensor(self._config["sizes"])
        if bool((code < 0).any() or (code >= sizes).any()):
            raise ValueError(f"codes must lie below the level sizes {self._config['sizes']}, found {int(code.max())}")
        if not bool(torch.isfinite(vectors).all()):
            raise ValueError("text holds NaN or infinite values")
        self.codes[1:], self.text[1:] = code + self.offsets.cpu(), vectors
        return self

    def index_ranges(self) -> dict[str, Any]:
        """Least and largest value of the buffers that index tables."""
        return {"codes": (0, (self.offsets + torch.tensor(self._config["sizes"]) - 1).numpy())}

    # Items -----------------------------------------------------------------------------------------------------------

    def fuse(self, codes: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Fused codes and the mean of the raw code embeddings.

        Parameters
        ----------
        codes : int64 [M, L]
            Flat code ids, 0 = [MASK].
        text : float32 [M, m, E]

        Returns
        -------
        hidden : [M, L, D]
        code_mean : [M, D]
        """
        embedded = self.code_embedding(codes)
        hidden, context = embedded, text if self.text_source == "views" else embedded
        for layer in self.fusion:
            hidden = layer(hidden, context)
        if not self.fusion:
            hidden = torch.cat([embedded, self.text_projection(text)], 1)
        return hidden, embedded.mean(1)

    def item_representations(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """Input and candidate vectors of items: [M] -> two of [M, D], computed in chunks."""
        recompute = torch.is_grad_enabled() and len(items) > _KEEP_ACTIVATIONS
        parts = []
        for chunk in items.split(_CHUNK):
            if recompute:
                parts.append(checkpoint(self._represent, chunk, use_reentrant=False))
            else:
                parts.append(self._represent(chunk))
        inputs, candidates = zip(*parts, strict=True)
        return torch.cat(inputs), torch.cat(candidates)

    def _represent(self, items: Tensor) -> tuple[Tensor, Tensor]:
        hidden, code_mean = self.fuse(self.codes[items], self.text[items])
        return self._inputs(hidden, code_mean, items), self._outputs(hidden, code_mean, items)

    def _inputs(self, hidden: Tensor, code_mean: Tensor, items: Tensor) -> Tensor:
        """Vectors that the backbone reads: [M, D]."""
        pooled = hidden.mean(1)
        pooled = self._scaled(pooled + code_mean if self.residual_in_sequence else pooled)
        return pooled if self.item_ids == "none" else pooled + self.input_ids(items)

    def _outputs(self, hidden: Tensor, code_mean: Tensor, items: Tensor) -> Tensor:
        """Vectors that states are scored against: [M, D]."""
        pooled = hidden.mean(1)
        pooled = self._scaled(pooled + code_mean if self.residual_in_candidates else pooled)
        if self.item_ids in ("none", "inputs"):
            return pooled
        return pooled + (self.candidate_ids if self.item_ids == "two" else self.input_ids)(items)

    def _scaled(self, pooled: Tensor) -> Tensor:
        return F.normalize(pooled, dim=1) if self.normalize_fused else pooled

    # Training --------------------------------------------------------------------------------------------------------

    def forward(self, batch: SequenceBatch) -> LossOutput:
        """This batch's share of L_CE + alpha L_MCM + beta L_MSA of the step."""
        packing = Packing.of(batch.lengths, batch.items.shape[1])
        tokens = packing.pack(batch.items)
        candidates, distinct = self._candidates(batch, tokens)
        inputs, representations = self.item_representations(distinct)
        states = self.backbone(inputs[torch.searchsorted(distinct, tokens)], packing)
        loss = self.next_item(states, packing.pack(batch.targets), representations, candidates, distinct, batch)
        parts = {"ce": loss.detach()}
        if self.mcm_weight or self.msa_weight:
            mcm, msa = self._masked_pass(batch, states[packing.last])
            loss = loss + self.mcm_weight * mcm + self.msa_weight * msa
            parts |= {"mcm": mcm.detach(), "msa": msa.detach()}
        return LossOutput(loss, parts)

    def _candidates(self, batch: SequenceBatch, tokens: Tensor) -> tuple[Tensor | None, Tensor]:
        """Negative items (None = all) and the distinct items to be fused, ascending."""
        negatives = self.next_item.draw(batch, tokens.device)
        if negatives is None:
            return None, torch.arange(1, self.items + 1, device=tokens.device)
        return negatives, torch.cat([tokens, negatives, batch.step_targets]).unique()

    def _masked_pass(self, batch: SequenceBatch, clean: Tensor) -> tuple[Tensor, Tensor]:
        """Shares of L_MCM and L_MSA. ``clean`` [B, D]: last states of the pass without masks."""
        device = batch.items.device
        everyone = torch.arange(batch.row_count, device=device)
        chosen_count = max(1, round(self.mask_share * batch.row_count))
        chosen = draw_uniform(batch.seed + 1, everyone).argsort()[:chosen_count].sort().values
        rows = torch.isin(batch.positions, chosen).nonzero()[:, 0]
        step_selected = self._selected(batch.seed, chosen, int(batch.step_lengths.max()))
        in_history = torch.arange(step_selected.shape[1], device=device) < batch.step_lengths[chosen][:, None]
        code_total = int((step_selected & in_history[:, :, None]).sum())
        if len(rows) == 0:
            empty = clean.sum() * 0 + self.code_embedding.weight.sum() * 0
            # The other processes wait for this one's rows, in the backward pass too.
            return empty, empty + self._align(clean[:0], clean[:0], batch.lengths[:0])
        packing = Packing.of(batch.lengths[rows], batch.items.shape[1])
        tokens = packing.pack(batch.items[rows])
        selected = packing.pack(self._selected(batch.seed, batch.positions[rows], packing.width))
        codes = self.codes[tokens]
        masked = self._mask(codes, selected, batch.seed, packing.pack(self._keys(batch.positions[rows], packing.width)))
        inputs, mcm = self._fuse_masked(masked, codes, selected, tokens)
        hidden_last = self.backbone(inputs, packing)[packing.last]
        msa = self._align(hidden_last, clean[rows], self._last_targets(batch)[rows])
        return mcm / max(1, code_total), msa / chosen_count

    def _keys(self, positions: Tensor, width: int) -> Tensor:
        """The random-draw coordinates (row, step, code) folded into one number: int64 [B, T, L]."""
        steps = torch.arange(width, device=positions.device)[:, None]
        code = torch.arange(self.codes.shape[1], device=positions.device)
        return (positions[:, None, None] * self.max_len + steps) * len(code) + code

    def _selected(self, seed: int, positions: Tensor, width: int) -> Tensor:
        """Codes selected for masking, bool [B, T, L]."""
        return draw_uniform(seed + 2, self._keys(positions, width)) < self.mask_ratio

    def _mask(self, codes: Tensor, selected: Tensor, seed: int, keys: Tensor) -> Tensor:
        """BERT's 80/10/10 on the selected codes: flat ids [S, L] -> flat ids [S, L]."""
        fate = draw_uniform(seed + 3, keys)
        random = draw_integers(seed + 4, self.code_count, keys) + 1
        hidden = torch.zeros_like(codes)
        if self.mask_vectors == "position":
            hidden = hidden + 1 + self.code_count + torch.arange(codes.shape[1], device=codes.device)
        replaced = torch.where(fate < 0.8, hidden, torch.where(fate < 0.9, random, codes))
        return torch.where(selected, replaced, codes)

    def _fuse_masked(self, masked: Tensor, codes: Tensor, selected: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        inputs, states, truths, positions = [], [], [], []
        for at in range(0, len(masked), _CHUNK):
            part = slice(at, at + _CHUNK)
            hidden, code_mean = self.fuse(masked[part], self.text[items[part]])
            inputs.append(self._inputs(hidden, code_mean, items[part]))
            if self.mcm_weight:
                where = selected[part].nonzero(as_tuple=True)
                states.append(hidden[where])
                truths.append(codes[part][where])
                positions.append(where[1])
        if not self.mcm_weight:
            return torch.cat(inputs), torch.zeros((), device=masked.device)
        mcm = self._masked_codes(torch.cat(states), torch.cat(truths), torch.cat(positions))
        return torch.cat(inputs), mcm

    def _masked_codes(self, states: Tensor, truths: Tensor, positions: Tensor) -> Tensor:
        """Sum over masked codes of -log p(code), by cosine with the code table."""
        states = F.normalize(states.float(), dim=1)
        table = F.normalize(self.code_embedding.weight[1 : 1 + self.code_count].float(), dim=1)
        if self.mcm_vocabulary == "all":
            return linear_cross_entropy(states, table, truths - 1, self.scale)
        total = states.new_zeros(())
        for level, size in enumerate(self._config["sizes"]):
            first = int(self.offsets[level]) - 1
            mine = positions == level
            own = table[first : first + size]
            total = total + linear_cross_entropy(states[mine], own, truths[mine] - 1 - first, self.scale)
        return total

    def _align(self, masked: Tensor, clean: Tensor, targets: Tensor) -> Tensor:
        """Sum over rows of the symmetric contrast between masked and clean states, over all processes' rows."""
        all_masked, first = gather_with_gradient(masked)
        all_clean, _ = gather_with_gradient(clean)
        ids = all_ids = None
        if self.mask_equal_targets:
            gathered, _ = gather_with_gradient(targets[:, None].double())
            ids, all_ids = targets, gathered[:, 0].long()
        forth = info_nce(masked, all_clean, self.temperature, first, ids, all_ids)
        back = info_nce(clean, all_masked, self.temperature, first, ids, all_ids)
        return (forth + back) / 2

    @staticmethod
    def _last_targets(batch: SequenceBatch) -> Tensor:
        return batch.targets.gather(1, batch.lengths[:, None] - 1)[:, 0]

    # Recommending ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def tables(self) -> tuple[Tensor, Tensor]:
        """Input table and candidate table of all items, [N, D] each, in eval mode."""
        training = self.training
        self.eval()
        inputs, candidates = self.item_representations(torch.arange(1, self.items + 1, device=self.codes.device))
        self.train(training)
        return inputs.float(), F.normalize(candidates.float(), dim=1)

    def item_vectors(self) -> Tensor:
        """Unit-length candidate vectors, [N, D]."""
        return self.tables()[1]

    def scorer(self) -> CCFRecScorer:
        """Cosine scores from tables computed once."""
        return CCFRecScorer(self.backbone, *self.tables(), self.max_len)

    @torch.no_grad()
    def live_scores(self, items: Tensor, lengths: Tensor) -> Tensor:
        """Scores [B, N] through the fusion module itself, for comparison with the tabulated ones."""
        self.eval()
        packing = Packing.of(lengths, items.shape[1])
        inputs, _ = self.item_representations(packing.pack(items))
        users = F.normalize(self.backbone(inputs, packing)[packing.last], dim=1)
        everything = torch.arange(1, self.items + 1, device=items.device)
        return users @ F.normalize(self.item_representations(everything)[1], dim=1).T

    def tabulated(
        self,
        item_ids: bool = False,
        id_in_candidates: bool = True,
        id_tables: Literal["one", "two"] = "one",
        own_loss: bool = False,
    ) -> TabulatedCCFRec:
        """The deployed form: the fusion module replaced by its tables.

        Parameters
        ----------
        item_ids : bool, default False
            Add trainable id embeddings (zeros) to the inputs, for the stage of section 4.4.5; all else is frozen.
        id_in_candidates : bool, default True
            Add ids to the candidates as well (the paper: no).
        id_tables : {"one", "two"}, default "one"
            The ids of candidates are those of the inputs, or a table of their own.
        own_loss : bool, default False
            Train the ids by this model's loss and negatives, as the paper, and not by a softmax over all items.
        """
        training = self.training
        self.eval()
        with torch.no_grad():
            everything = torch.arange(1, self.items + 1, device=self.codes.device)
            inputs, candidates = self.item_representations(everything)
        self.train(training)
        kept = ["items", "dim", "layers", "heads", "ffn", "dropout", "max_len", "temperature"]
        kept += ["negatives", "in_batch_negatives", "correct_sampling"] if own_loss else []
        config = {name: self._config[name] for name in kept}
        deployed = TabulatedCCFRec(**config, item_ids=item_ids, id_in_candidates=id_in_candidates, id_tables=id_tables)
        deployed.backbone.load_state_dict(self.backbone.state_dict())
        deployed.inputs[1:], deployed.candidates[1:] = inputs.float(), candidates.float()
        return deployed.to(self.codes.device)

"""Behaviour-bound codes: an id, a text and an image stream quantized by one codebook a level (BBQRec's tokenizer).

Learns from item vectors and from the sequences in which items were used. What is fitted is reduced to arrays, and codes
are made from these by the NumPy program that also serves a saved folder, so both give the same codes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed
from sklearn.utils.validation import validate_data
from torch import Tensor, nn

from recbase.arguments import (
    CodebookSize,
    Count,
    CountOrOff,
    Depth,
    Dropout,
    Heads,
    Large,
    LargeOrOff,
    LearningRate,
    Length,
    Levels,
    Samples,
    Seconds,
    Seed,
    Temperature,
    Weight,
    Width,
    check_arguments,
)
from recbase.data.sequences import Histories
from recbase.data.splits import Targets
from recbase.evaluate.ranking import rank_targets, summarize
from recbase.train.loop import TrainConfig, fit, make_accelerator
from semtok.codecs.behavior import Behavior
from semtok.codecs.drawn import row_keys
from semtok.methods.behavior.batches import ItemBatches
from semtok.methods.behavior.network import BehaviorNetwork, BehaviorScorer
from semtok.tokenizer import ItemTokenizer, Self

__all__ = ["RECIPES", "STREAMS", "BehaviorTokenizer"]

Stream = Literal["id", "text", "image"]
STREAMS: tuple[Stream, ...] = ("id", "text", "image")
RECIPES = {
    "default": {"steps": 600, "precision": "auto"},
    "paper": {
        "levels": 3,
        "codebook_size": 256,
        "latent_dim": 128,
        "temperature": 0.1,
        "commitment": 0.25,
        "mim_weight": 1.0,
        "rec_weight": 1.0,
        "batch_size": 256,
        "max_len": 20,
        "steps": 20_000,
        "patience": 10,
    },
}
_VALIDATION_USERS, _VALIDATION_SHARE = 2000, 0.2


# The settings are dataclasses that the tokenizer inherits, for to scikit-learn each setting is an attribute of its own;
# the docstring of the tokenizer says what each means.


@dataclass(kw_only=True, eq=False, repr=False)
class Streams:
    """Settings of what is quantized, and of its codes."""

    levels: Levels = 3
    codebook_size: CodebookSize = 256
    latent_dim: Width = 128
    hidden: tuple[Width, ...] = (512, 256)
    streams: tuple[Stream, ...] = STREAMS
    codes_budget: Levels | None = None
    shared_codebook: bool = True


@dataclass(kw_only=True, eq=False, repr=False)
class Losses:
    """Settings of the losses and of the estimator of mutual information."""

    mim: bool = True
    rec: bool = True
    reconstruction_weight: Weight = 1.0
    rq_weight: Weight = 1.0
    mim_weight: Weight = 0.1
    rec_weight: Weight = 1.0
    commitment: Weight = 0.25
    temperature: Temperature = 0.1
    clamp_mim: bool = False
    sampled_mim: bool = False
    inner_steps: Count = 5
    inner_lr: LearningRate = 1e-2


@dataclass(kw_only=True, eq=False, repr=False)
class SequenceEncoder:
    """Settings of the encoder of sequences."""

    sequence_layers: Depth = 2
    heads: Heads = 2
    dropout: Dropout = 0.2
    max_len: Length = 20


@dataclass(kw_only=True, eq=False, repr=False)
class Training:
    """Settings of the training."""

    steps: Large = 5000
    batch_size: Samples = 256
    lr: LearningRate = 1e-3
    weight_decay: Weight = 1e-4
    validate_every: Large = 200
    patience: CountOrOff = 5
    max_seconds: Seconds | None = None
    precision: str = "no"


@dataclass(kw_only=True, eq=False, repr=False)
class BehaviorTokenizer(Training, SequenceEncoder, Losses, Streams, ItemTokenizer):
    """Behaviour-bound codes: stage 1 of BBQRec (Behavior-Bind Quantization for Multi-Modal Sequential Recommendation).

    Text and image of an item each pass two encoders: a modality-specific and a behaviour-aligned one, whose outputs are
    kept from sharing information by the CLUB bound. The aligned outputs and a learned row for the item itself (the id
    stream) are quantized by residuals with ONE codebook a level, shared by the streams; text and image are decoded from
    the quantized aligned and the specific part together; and a causal sequence encoder over the quantized vectors must
    tell the next item of a history, so that what is quantized is what behaviour needs.

    An item has ``levels`` codes of each stream, level by level: columns id, text, image of level 1, then of level 2
    and so on, and ``blocks_`` names the columns of each level. A stream that is absent (no such view, or left out by
    an argument) has no columns.

    Chosen where the paper is silent: encoders of two hidden layers; what is quantized is layer-normalized (without
    scale and shift), for rows of the id stream start at .01 and would have no code in common with the others; all
    squared errors are means over the columns; inputs standardized a column; a learned vector
    where an item lacks a modality, which then counts for neither its reconstruction nor its mutual information;
    codebooks started by k-means on the residuals of all streams; codes that no item had for some steps are moved to
    residuals of random items; what is kept is the state of the highest recall@10, on next items held out of the given
    sequences, less the share of items whose codes another item has already.

    Parameters
    ----------
    levels : int, default 3
        Codes of each stream, L.
    codebook_size : int, default 256
        Codes of each level, K.
    latent_dim : int, default 128
        Width of what is quantized.
    hidden : tuple of int, default (512, 256)
        Hidden layers of the encoders; the decoders have them in reverse.
    streams : tuple of str, default ("id", "text", "image")
        Which streams are quantized, of those the vectors have.
    codes_budget : int or None, default None
        Codes of an item in all, levels times streams; sets the levels. For comparing tokenizers at equal budgets.
    shared_codebook : bool, default True
        One codebook a level for all streams; off: one for each stream.
    mim : bool, default True
        Minimize mutual information; off: no modality-specific encoders either.
    rec : bool, default True
        Contrast sequences with next items; off: no id stream either, as nothing else would teach it.
    reconstruction_weight : float, default 1.0
        Weight of the reconstruction of the streams' vectors.
    rq_weight : float, default 1.0
        Weight of the residual quantizer's loss.
    rec_weight : float, default 1.0
        Weight of the contrast of sequences with next items.
    mim_weight : float, default 0.1
        Weight of the mutual information, which is summed over the columns; the paper has 1.
    commitment : float, default 0.25
        Weight of moving vectors to their codes, against moving codes to their vectors.
    temperature : float, default 0.1
        Divides the cosines of the contrast.
    clamp_mim : bool, default False
        Count a negative estimate of the mutual information as 0.
    sampled_mim : bool, default False
        Estimate the mutual information from one random pairing instead of all pairs.
    inner_steps : int, default 5
        Steps of the estimator's own optimizer before each step.
    inner_lr : float, default 0.01
        Learning rate of the estimator: ten times that of the rest, because encoders that change faster than the
        estimator can follow lower its value without sharing less.
    revive_every : int, default 50
        Steps after which codes that no item of them had are moved to residuals of random items; 0 turns it off.
    sequence_layers : int, default 2
        Blocks of the sequence encoder.
    heads : int, default 2
        Attention heads of the sequence encoder; must divide ``latent_dim`` times the streams.
    dropout : float, default 0.2
        Dropout of the sequence encoder.
    max_len : int, default 20
        Longest history, in items.
    neighbors : int, default 10
        Trained items whose mean stands in for the id row of a new item.
    steps : int, default 5000
        Optimizer steps at most, rounded up to whole passes over the sequences.
    batch_size : int, default 256
        Sequences of a step.
    lr : float, default 0.001
        Learning rate of AdamW.
    weight_decay : float, default 0.0001
        Weight decay of matrices.
    validate_every : int, default 200
        Steps between validations at least, rounded up to whole passes.
    patience : int, default 5
        Validations without improvement after which training stops; 0 turns it off.
    max_seconds : float or None, default None
        Seconds after which training stops and keeps the best.
    precision : {"no", "auto", "bf16", "fp16"}, default "no"
        Mixed precision while training; auto is bf16 where the hardware is fast at it.
    seed : int, default 0
        Same seed, same codes on the CPU.
    quiet : bool, default False
        No progress bar.

    Attributes
    ----------
    streams_ : tuple of str
        The streams there are.
    levels_ : int
        Codes of each.
    sizes_ : list of int
        Codes of each column.
    blocks_ : dict of str to slice
        Columns of each level: "level1", "level2" ...
    codebooks_ : list of float32 array [K, D]
        Codebook of each column; columns of a level have the same one where it is shared.
    history_ : list of dict
        What each validation found.
    seconds_ : float
        Time of the training.

    Notes
    -----
    BBQRec: Behavior-Bind Quantization for Multi-Modal Sequential Recommendation, arXiv 2504.06636, 2025.

    A fit that was interrupted starts again: nothing of it is kept. Codes are computed in float64, so that they do not
    depend on how many items are encoded at a time.
    """

    method = "behavior"
    version = 2  # streams are of one scale
    program = "behavior"
    inputs = ("sequences", "missing")
    modalities = ("text", "image")

    revive_every: LargeOrOff = 50
    neighbors: Count = 10
    seed: Seed = 0
    quiet: bool = False

    def fit(
        self: Self,
        X: Any,
        y: Any = None,
        views: Mapping[str, slice] | None = None,
        *,
        sequences: Histories | None = None,
        missing: Mapping[str, Any] | None = None,
        valid: Targets | None = None,
    ) -> Self:
        """Learn from the vectors of a catalogue and the sequences of its items.

        Parameters
        ----------
        X : array or tensor of float [N, D]
            Item vectors; row i - 1 is item number i.
        y : ignored
        views : dict of str to slice, optional
            Columns of "text", of "image", or of both; all are "text" by default.
        sequences : Histories
            Item numbers 1..N in the order in which each user had them: the training part alone.
        missing : dict of str to bool array [N], optional
            Items that have nothing in a view; their row of that view is not read.
        valid : Targets, optional
            Next items that training is judged by. By default the last items of 2,000 of the sequences, or of a fifth
            where there are fewer, which are then not trained on.

        Raises
        ------
        ValueError
            If there are no sequences, an item number lies outside 1..N, or a view, a mask or a hyper-parameter is
            unusable.
        KeyboardInterrupt
            If training was interrupted.
        """
        self._check_arguments()
        matrix = self._matrix(X, reset=True)
        self.views_ = _checked_views(views, matrix.shape[1], self.streams)
        absent = _checked_missing(missing, self.views_, len(matrix))
        _check_sequences(sequences, len(matrix))
        assert sequences is not None
        self.streams_ = (("id",) if self.rec and "id" in self.streams else ()) + tuple(self.views_)
        self._normalized = True
        self.levels_ = self._levels()
        train, held = (sequences, valid) if valid is not None else _hold_out(sequences, self.seed)
        scaling = {name: _scaling(matrix[:, part], ~absent[name], name) for name, part in self.views_.items()}
        network = self._train(matrix, scaling, absent, train, held if self.rec else None)
        self._keep(network, matrix, scaling, absent, train)
        return self

    def _levels(self) -> int:
        if self.codes_budget is None:
            return int(self.levels)
        levels, left = divmod(self.codes_budget, len(self.streams_))
        if left or levels < 1:
            raise ValueError(
                f"codes_budget={self.codes_budget} is no multiple of the {len(self.streams_)} streams "
                f"({', '.join(self.streams_)}): every level has a code of each"
            )
        return int(levels)

    def _train(
        self,
        matrix: np.ndarray,
        scaling: Mapping[str, tuple[np.ndarray, np.ndarray]],
        absent: Mapping[str, np.ndarray],
        train: Histories,
        held: Targets | None,
    ) -> BehaviorNetwork:
        """A trained network, with the weights of its best validation, on the CPU."""
        vectors = {
            name: torch.from_numpy((matrix[:, part] - scaling[name][0]) / scaling[name][1])
            for name, part in self.views_.items()
        }
        config = TrainConfig(
            batch_size=self.batch_size,
            lr=self.lr,
            weight_decay=self.weight_decay,
            monitor="score",
            patience=self.patience,
            max_seconds=self.max_seconds,
            precision=self.precision,  # type: ignore[arg-type]
            seed=self.seed,
            quiet=self.quiet,
        )
        accelerator = make_accelerator(config)
        rank, world = accelerator.process_index, accelerator.num_processes
        present = {name: ~mask for name, mask in absent.items()}
        batches = ItemBatches(train, present, self.batch_size, self.max_len, self.seed, rank, world)
        config.epochs = max(1, math.ceil(self.steps / len(batches)))
        config.validate_every = max(1, math.ceil(self.validate_every / len(batches)))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            masks = {name: torch.from_numpy(mask) for name, mask in present.items()}
            network = BehaviorNetwork(vectors, masks, self, self.levels_)
        network.start_codebooks(self.seed)

        def validate(trained: Any) -> dict[str, float]:
            scorer = BehaviorScorer(trained)
            alike = trained.n_items - len(scorer.codes.flatten(1).unique(dim=0))
            metrics = {"collisions": float(alike), "score": -alike / trained.n_items}
            if held is not None:
                ranks = rank_targets(scorer, held, accelerator=accelerator)
                metrics["recall@10"] = float(summarize(ranks, (10,))["recall@10"])
                metrics["score"] += metrics["recall@10"]
            metrics["revived"], trained.revived = float(trained.revived), 0
            return metrics

        result = fit(network, batches, validate, config, accelerator=accelerator)
        result.check_complete()
        self.history_, self.seconds_ = result.history, result.seconds
        return network.cpu().eval()

    def _keep(
        self,
        network: BehaviorNetwork,
        matrix: np.ndarray,
        scaling: Mapping[str, tuple[np.ndarray, np.ndarray]],
        absent: Mapping[str, np.ndarray],
        train: Histories,
    ) -> None:
        """Keep what is fitted as arrays; items that no sample held get the id row of a new item."""
        arrays = {"codebooks": network.codebooks.detach().numpy().copy(), "keys": row_keys(matrix)}
        for name in self.views_:
            arrays[f"{name}.mean"], arrays[f"{name}.scale"] = scaling[name]
            arrays[f"{name}.absent"] = network.absent[name].detach().numpy().copy()
            arrays[f"{name}.missing"] = absent[name]
            linears = [layer for layer in network.aligned[name].modules() if isinstance(layer, nn.Linear)]
            for number, layer in enumerate(linears):
                arrays[f"{name}.weight.{number}"] = layer.weight.detach().numpy().copy()
                arrays[f"{name}.bias.{number}"] = layer.bias.detach().numpy().copy()
        if network.ids is not None:
            arrays["ids"] = network.ids.detach().numpy().copy()
            arrays["trained"] = _trained(train, len(matrix))
        self._arrays = arrays
        self._describe()
        if network.ids is not None:
            aligned = self._program_of(arrays).aligned(matrix, absent)
            arrays["places"] = np.concatenate([part.astype(np.float32) for part in aligned.values()], 1)
            unseen = np.flatnonzero(~arrays["trained"])
            program = self._program_of(arrays)
            arrays["ids"][unseen] = program.from_neighbors(arrays["places"][unseen])
        self._encoder = self._program_of(arrays)

    def _describe(self) -> None:
        """Sizes, blocks and codebooks of the columns."""
        count = len(self.streams_)
        books = self._arrays["codebooks"]
        self.sizes_ = [books.shape[2]] * (self.levels_ * count)
        self.blocks_ = {f"level{at + 1}": slice(at * count, (at + 1) * count) for at in range(self.levels_)}
        self.codebooks_ = [
            books[min(stream, len(books) - 1), level] for level in range(self.levels_) for stream in range(count)
        ]

    def _program_of(self, arrays: Mapping[str, np.ndarray]) -> Behavior:
        views = {name: [part.start, part.stop] for name, part in self.views_.items()}
        described = {"n_features": self.n_features_in_, "sizes": self.sizes_, "views": views}
        return Behavior(described | self._entries(), arrays)

    def _entries(self) -> dict[str, Any]:
        return {"streams": list(self.streams_), "neighbors": int(self.neighbors), "normalized": self._normalized}

    def encode(self, X: Any, item_rows: Any = None, missing: Mapping[str, Any] | None = None) -> np.ndarray:
        """Codes of items.

        The id code of an item of the fit is that of its learned row; that of a new item comes from the mean row of the
        trained items that are nearest to it in what is quantized of text and image.

        Parameters
        ----------
        X : array or tensor of float [n, D]
        item_rows : array of int [n], optional
            Which row of the fit each item is, -1 where it is new. By default X is recognized: if it is the matrix of
            the fit its rows are those items, else a row that equals the row of exactly one item of the fit is that
            item and all others are new.
        missing : dict of str to bool array [n], optional
            Items that have nothing in a view. By default as in the fit, and new items lack nothing.

        Returns
        -------
        int32 array [n, L S]

        Raises
        ------
        ValueError
            If this is not fitted, or the vectors, rows or masks do not fit it.
        """
        self._check_fitted()
        return self._encoder.encode(self._matrix(X, reset=False), item_rows, missing)

    def decode(self, codes: Any) -> np.ndarray:
        """Quantized vectors of all streams side by side: [n, L S] to float32 [n, S D], in the order of the streams.

        They are not vectors like X: what is specific to text and image is not in the codes.

        Raises
        ------
        ValueError
            If this is not fitted, or codes have another number of columns or are out of range.
        """
        self._check_fitted()
        return self._encoder.decode(codes)

    def represent(
        self, X: Any, item_rows: Any = None, missing: Mapping[str, Any] | None = None
    ) -> dict[str, np.ndarray]:
        """Vectors of each stream before they are quantized: float64 [n, D]. Arguments as in :meth:`encode`."""
        self._check_fitted()
        return self._encoder.represent(self._matrix(X, reset=False), item_rows, missing)

    def costs(
        self, X: Any, codes: Any, level: int, item_rows: Any = None, missing: Mapping[str, Any] | None = None
    ) -> np.ndarray:
        """See :meth:`ItemTokenizer.costs`; a code costs in its own stream. Other arguments as in :meth:`encode`."""
        self._check_fitted()
        return self._encoder.costs(self._matrix(X, reset=False), codes, level, item_rows, missing)

    def _state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        trained = {"history": self.history_, "seconds": self.seconds_}
        return self._entries() | {"levels": self.levels_, "training": trained}, dict(self._arrays)

    def _restore(self, manifest: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        self.hidden, self.streams = tuple(self.hidden), tuple(self.streams)
        self.streams_, self.levels_ = tuple(manifest["streams"]), int(manifest["levels"])
        self._normalized = bool(manifest.get("normalized", False))  # earlier versions quantized as encoders gave it
        self.history_, self.seconds_ = manifest["training"]["history"], float(manifest["training"]["seconds"])
        self._arrays = {name: array for name, array in arrays.items() if name != "codes"}
        books = self._arrays.get("codebooks")
        if books is None or books.shape[1] * len(self.streams_) != len(self.sizes_):
            found = "missing" if books is None else f"of shape {books.shape}"
            raise ValueError(f"codebooks is {found}; the manifest expects {len(self.sizes_)} code columns")
        self._describe()
        self._encoder = self._program_of(self._arrays)

    def _matrix(self, X: Any, reset: bool) -> np.ndarray:
        """Checked vectors as float32 [n, D]."""
        X = X.detach().cpu().numpy() if isinstance(X, Tensor) else X
        found: np.ndarray = validate_data(self, X, reset=reset, dtype=np.float32, order="C", ensure_min_samples=1)
        return found

    def _check_arguments(self) -> None:
        """Refuse hyper-parameters that mean nothing; those of the training are checked by it."""
        check_arguments(type(self), vars(self))
        strange = [name for name in self.streams if name not in STREAMS]
        if strange or not {"text", "image"} & set(self.streams):
            raise ValueError(f"streams={tuple(self.streams)} must hold text or image, and id if wanted, and no other")


def _scaling(vectors: np.ndarray, present: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each column over the items that have the view; 1 where nothing varies."""
    if not present.any():
        raise ValueError(f"missing[{name!r}] says that all {len(present)} items lack that view: leave the view out")
    known = vectors[present].astype(np.float64)
    spread = known.std(0)
    spread[spread <= 1e-7 * np.abs(known).max(0, initial=0)] = 1  # less than two steps of float32
    spread[spread == 0] = 1
    return known.mean(0).astype(np.float32), spread.astype(np.float32)


def _trained(train: Histories, count: int) -> np.ndarray:
    """Items that some sample holds: those in a history of at least two events. bool [N]."""
    found = np.zeros(count + 1, dtype=bool)
    found[train.flat(np.flatnonzero(train.lengths >= 2))[0]] = True
    return found[1:]


def _hold_out(sequences: Histories, seed: int) -> tuple[Histories, Targets | None]:
    """Sequences without the last events of some users, and these events as targets (None where all are too short)."""
    users = np.flatnonzero(sequences.lengths >= 3)
    count = min(_VALIDATION_USERS, math.ceil(_VALIDATION_SHARE * len(users)))
    if count == 0:
        return sequences, None
    users = np.sort(np.random.default_rng([seed, 11]).choice(users, count, replace=False))
    ends = sequences.ends.copy()
    ends[users] -= 1
    train = Histories(sequences.items, sequences.starts, ends)
    return train, Targets(users, train.take(users), sequences.items[ends[users]])


def _check_sequences(sequences: Any, count: int) -> None:
    if not isinstance(sequences, Histories):
        found = "none were given" if sequences is None else f"got {type(sequences).__name__}"
        raise ValueError(f"behavior learns from sequences: expected sequences=Histories of item numbers, {found}")
    items = sequences.flat()[0]
    if len(items) and not 1 <= int(items.min()) <= int(items.max()) <= count:
        strange = int(items.max()) if int(items.max()) > count else int(items.min())
        raise ValueError(f"sequences has item number {strange} but X has {count} rows: expected numbers 1 to {count}")


def _checked_views(views: Mapping[str, slice] | None, width: int, streams: Sequence[str]) -> dict[str, slice]:
    """The views that are quantized, text before image."""
    views = {"text": slice(0, width)} if views is None else views
    strange = [name for name in views if name not in ("text", "image")]
    if strange:
        raise ValueError(f"views has {strange[0]!r}; behavior takes text and image: put all texts of an item into one")
    checked = {}
    for name in ("text", "image"):
        if name in views and name in streams:
            lo, hi = views[name].start or 0, width if views[name].stop is None else views[name].stop
            if views[name].step not in (None, 1) or not 0 <= lo < hi <= width:
                raise ValueError(f"view {name!r} is columns {lo} to {hi} but X has columns 0 to {width}")
            checked[name] = slice(int(lo), int(hi))
    if not checked:
        raise ValueError(f"none of the views {', '.join(views) or '(none)'} is among streams={tuple(streams)}")
    return checked


def _checked_missing(
    missing: Mapping[str, Any] | None, views: Mapping[str, slice], count: int
) -> dict[str, np.ndarray]:
    masks = {name: np.zeros(count, dtype=bool) for name in views}
    for name, mask in (missing or {}).items():
        mask = np.asarray(mask)
        if name not in STREAMS[1:] or mask.shape != (count,) or mask.dtype != bool:
            raise ValueError(
                f"missing[{name!r}] is {mask.dtype} of shape {mask.shape}; expected a bool array of shape ({count},) "
                "for text or image"
            )
        if name in masks:
            masks[name] = mask.copy()
    return masks

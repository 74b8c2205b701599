"""Tokenizers that quantize the latent vector of an autoencoder level by level, of which RQ-VAE and LETTER are made.

Training is that of recbase; what is fitted is kept as plain arrays, and codes are computed from them in float64, so
that neither the batch nor the machine decides between two codewords. Knows nothing of items or behaviour.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from recbase.arguments import (
    CodebookSize,
    CountOrOff,
    Large,
    LargeOrOff,
    LearningRate,
    Levels,
    NonNegative,
    Samples,
    Seconds,
    Seed,
    Weight,
    Width,
    check_arguments,
)
from recbase.train.loop import TrainConfig, TrainResult, fit, make_accelerator
from semtok.codecs.additive import squared_distances
from semtok.codes import ItemCodes
from semtok.content.rows import Rows, check_finite, check_rows, checked_views
from semtok.kernels.lloyd import cluster
from semtok.kernels.residual_vq import GRADIENTS, ResidualCodebooks
from semtok.methods.autoencoder import Autoencoder, RowBatches
from semtok.methods.fitted_network import Fitted, as_arrays, checked_array, latents_of, layer_arrays, restored_rows
from semtok.methods.network_rows import column_rows, shift_and_scale, validation_rows
from semtok.per_view import PerViewTokenizer

__all__ = ["ResidualAutoencoder"]

STARTS = ("k-means", "random")
SCALINGS = ("all", "each", "none")
SCHEDULES = ("constant", "linear", "cosine")
PRECISIONS = ("no", "auto", "bf16", "fp16")
_CHUNK_ROWS = 4096
_EPS = 1e-12

SelfFitted = TypeVar("SelfFitted", bound="ResidualAutoencoder")


# The settings are dataclasses that the tokenizers inherit, for to scikit-learn each setting is an attribute of its own;
# the docstring of a tokenizer says what each means.


@dataclass(kw_only=True, eq=False, repr=False)
class Architecture:
    """Settings of the autoencoder and of its codes."""

    levels: Levels = 3
    codebook_size: CodebookSize = 256
    latent_dim: Width = 8
    hidden: tuple[Width, ...] = (512, 256, 128)


@dataclass(kw_only=True, eq=False, repr=False)
class Quantization:
    """Settings of the codewords: their start, their use and what passes by them."""

    commitment: Weight = 0.25
    gradient: str = "straight-through"
    start: str = "k-means"
    plain_steps: LargeOrOff = 0
    sinkhorn: NonNegative = 0.0
    revive_every: LargeOrOff = 50
    refit: CountOrOff = 10


@dataclass(kw_only=True, eq=False, repr=False)
class Training:
    """Settings of the training."""

    scaling: str = "all"
    steps: Large = 3000
    batch_size: Samples = 1024
    lr: LearningRate = 1e-3
    schedule: str = "constant"
    validate_every: Large = 100
    patience: CountOrOff = 5
    max_seconds: Seconds | None = None
    precision: str = "auto"
    seed: Seed = 0
    quiet: bool = False


@dataclass(kw_only=True, eq=False, repr=False)
class ResidualAutoencoder(Training, Quantization, Architecture, PerViewTokenizer):
    """Base of tokenizers that train an autoencoder whose latent vector is quantized level by level."""

    program = "residual-network"
    device: ClassVar[str | None] = None  # vectors are encoded where they are
    _choices: ClassVar[dict[str, tuple[str, ...]]] = {
        "gradient": GRADIENTS,
        "start": STARTS,
        "scaling": SCALINGS,
        "schedule": SCHEDULES,
        "precision": PRECISIONS,
    }

    # ------------------------------------------------------------------------------------- fitting

    def fit(self: SelfFitted, X: Any, y: Any = None, views: Mapping[str, slice] | None = None) -> SelfFitted:
        """Train encoder, codebooks and decoder.

        Parameters
        ----------
        X : array or tensor of float [N, D]
            Item vectors; memory-mapped arrays are read batch by batch. At least ``codebook_size`` rows.
        y : ignored
        views : dict of str to slice, optional
            Columns of each view, which get a network and codes of their own; one view of all columns by default.

        Raises
        ------
        ValueError
            If a hyper-parameter or the vectors are unusable: not two-dimensional, NaN or infinite, or fewer rows than
            ``codebook_size``; or if training diverges.
        KeyboardInterrupt
            If training is interrupted by Ctrl-C or SIGTERM.
        """
        return self._fit(X, views, {})

    def _fit(self: SelfFitted, X: Any, views: Mapping[str, slice] | None, inputs: Mapping[str, Any]) -> SelfFitted:
        self._check_arguments()
        rows = Rows(self, X, reset=True)
        if len(rows) < self.codebook_size:
            raise ValueError(
                f"X has n_samples={len(rows)} rows, fewer than codebook_size={self.codebook_size}: "
                f"give at least {self.codebook_size} rows or a smaller codebook_size"
            )
        columns = checked_views(views, rows.width)
        check_rows(rows, columns)
        inputs = self._checked_inputs(len(rows), inputs)
        started = time.perf_counter()
        found: list[Fitted] = []
        lines: list[dict[str, Any]] = []

        def fit_view(name: str, part: slice, seed: int) -> list[int]:
            share = None  # of the seconds left
            if self.max_seconds is not None:
                share = (self.max_seconds - (time.perf_counter() - started)) / (len(columns) - len(found))
            fitted, history = self._fit_view(column_rows(rows, part), seed, share, inputs)
            found.append(fitted)
            lines.extend(history if views is None else [{"view": name} | line for line in history])
            return [len(book) for book in fitted.codebooks]

        self.views_ = columns
        with _kept_random_state():
            self._fit_views(fit_view)
        self.fitted_, self.history_ = found, lines
        self.seconds_ = time.perf_counter() - started
        self._describe()
        self.unused_ = self._unused(rows.sample(256, self.codebook_size, self.seed))
        return self

    def _checked_inputs(self, count: int, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Check what ``fit`` was given besides vectors of ``count`` rows."""
        return dict(inputs)

    def _check_arguments(self) -> None:
        check_arguments(type(self), vars(self))
        for name, allowed in self._choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r} is not one of {', '.join(allowed)}")

    def _moving(self) -> dict[str, Any]:
        """Arguments of `ResidualCodebooks` that say how codewords move, where it is not by gradient."""
        return {}

    def _network(self, width: int, shift: Tensor, scale: Tensor, seed: int, inputs: Mapping[str, Any]) -> Autoencoder:
        """Network that is trained on one view; a subclass may add losses."""
        return Autoencoder(width, tuple(self.hidden), self.latent_dim, None, shift, scale, seed)

    def _fit_view(
        self, rows: Any, seed: int, seconds: float | None, inputs: Mapping[str, Any]
    ) -> tuple[Fitted, list[dict[str, Any]]]:
        shift, scale = shift_and_scale(rows, self.scaling)
        network = self._network(rows.shape[1], shift, scale, seed, inputs)
        validation = validation_rows(rows, seed)
        history: list[dict[str, Any]] = []
        started = time.perf_counter()
        if self.plain_steps:
            self._train(network, rows, validation, self.plain_steps, seed + 1_000_003, seconds, history)
        network.codebooks = self._first_codebooks(network, validation, seed)
        left = None if seconds is None else seconds - (time.perf_counter() - started)
        self._train(network, rows, validation, self.steps, seed, left, history)
        return as_arrays(network), history

    def _train(
        self,
        network: Autoencoder,
        rows: Any,
        validation: Tensor,
        steps: int,
        seed: int,
        seconds: float | None,
        history: list[dict[str, Any]],
    ) -> TrainResult:
        config = TrainConfig(
            epochs=-(-steps // min(self.validate_every, steps)),
            batch_size=self.batch_size,
            lr=self.lr,
            optimizer="adam",
            schedule=self.schedule,  # type: ignore[arg-type]
            precision=self.precision,  # type: ignore[arg-type]
            monitor="score",
            minimize=True,
            patience=self.patience,
            max_seconds=None if seconds is None else max(seconds, 1e-3),
            seed=seed % 2**32,
            quiet=self.quiet,
        )
        accelerator = make_accelerator(config)
        rank, world = accelerator.process_index, accelerator.num_processes
        if isinstance(rows, Tensor):
            rows = rows.to(accelerator.device)
        batches = RowBatches(rows, self.batch_size, steps, self.validate_every, seed, rank, world)
        validation = validation.to(accelerator.device)

        def validate(model: nn.Module) -> dict[str, float]:
            if self.refit and network.codebooks is not None:
                _refit(network, validation, self.refit, seed)
            return _validate(network, validation)

        result = fit(network, batches, validate, config, accelerator=accelerator)
        result.check_complete()
        network.cpu()
        before = history[-1]["step"] if history else 0
        history += [{**line, "step": line["step"] + before} | line.pop("metrics") for line in result.history]
        return result

    def _first_codebooks(self, network: Autoencoder, rows: Tensor, seed: int) -> ResidualCodebooks:
        made = ResidualCodebooks(
            self.levels,
            self.codebook_size,
            self.latent_dim,
            commitment=self.commitment,
            gradient=self.gradient,
            sinkhorn=self.sinkhorn,
            revive_every=self.revive_every,
            seed=seed,
            **self._moving(),
        )
        if self.start == "random":
            return made
        with torch.no_grad():
            chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
            left = torch.cat([network.latents(part) for part in rows[chosen[: 256 * self.codebook_size]].split(8192)])
        for level in range(self.levels):
            codewords, codes = self._first_codewords(left, seed * 1009 + level)
            made.place(level, codewords)
            left = left - codewords[codes]
        return made

    def _first_codewords(self, points: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Codewords [K, d] of one level for the residuals of a large batch, and the code of each residual."""
        found = cluster(points, self.codebook_size, seed=seed)
        return found.centers, found.codes

    def _describe(self) -> None:
        """Fitted attributes that follow from the arrays."""
        self.codebooks_ = [book for fitted in self.fitted_ for book in fitted.codebooks]

    # ------------------------------------------------------------------------------------- encoding

    def _fitted(self, name: str) -> Fitted:
        return self.fitted_[list(self.views_).index(name)]

    def _view_encoder(self, name: str, device: torch.device) -> Callable[[Tensor], Tensor]:
        fitted = self._fitted(name)

        def encoded(points: Tensor) -> Tensor:
            found, left = [], latents_of(fitted, points)
            for book, usable in zip(fitted.codebooks, fitted.usable, strict=True):
                words = torch.from_numpy(book).to(left)
                scores = words.square().sum(1) - 2 * left @ words.T
                scores[:, torch.from_numpy(~usable).to(left.device)] = math.inf
                found.append(scores.argmin(1))
                left = left - words[found[-1]]
            return torch.stack(found, 1)

        return encoded

    def latents(self, X: Any) -> np.ndarray:
        """Latent vectors, which are quantized: [N, D] to float64 [N, latent_dim] (of all views side by side)."""
        self._check_fitted()
        rows = Rows(self, X, reset=False)
        parts = []
        for lo, chunk in rows.chunks():
            check_finite(chunk, lo, self.views_)
            views = zip(self.fitted_, self.views_.values(), strict=True)
            parts.append(torch.cat([latents_of(fitted, chunk[:, part]) for fitted, part in views], 1).cpu().numpy())
        found: np.ndarray = np.concatenate(parts)
        return found

    def _view_decoded(self, name: str, codes: np.ndarray) -> np.ndarray:
        chunks = torch.from_numpy(codes).long().split(_CHUNK_ROWS)
        return np.concatenate([restored_rows(self._fitted(name), chunk).numpy() for chunk in chunks])

    def _view_costs(self, name: str, points: np.ndarray, codes: np.ndarray, level: int) -> np.ndarray:
        """Distances between latents and sums of codewords."""
        fitted = self._fitted(name)
        left = latents_of(fitted, torch.from_numpy(points.copy())).numpy()
        for other, book in enumerate(fitted.codebooks):
            if other != level:
                left -= book[codes[:, other]]
        found = squared_distances(left, fitted.codebooks[level].astype(np.float64))
        found[:, ~fitted.usable[level]] = np.inf
        return found.astype(np.float32)

    # ------------------------------------------------------------------------------------- the folder

    def _state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        arrays: dict[str, np.ndarray] = {}
        for level, book in enumerate(self.codebooks_):
            arrays[f"codebook.{level}"] = book
        for name, fitted in zip(self.views_, self.fitted_, strict=True):
            arrays |= {f"shift.{name}": fitted.shift, f"scale.{name}": fitted.scale}
            arrays[f"usable.{name}"] = fitted.usable
            for part in ("encoder", "decoder"):
                for place, (weight, bias) in enumerate(getattr(fitted, part)):
                    arrays |= {f"{part}.{name}.{place}.weight": weight, f"{part}.{name}.{place}.bias": bias}
        entries = {
            "layers": len(self.hidden) + 1,
            "unused": self.unused_,
            "seconds": self.seconds_,
            "history": self.history_,
        }
        return entries, arrays

    def _restore(self, manifest: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        self.hidden = tuple(self.hidden)
        self.unused_ = [int(unused) for unused in manifest["unused"]]
        self.seconds_, self.history_ = float(manifest["seconds"]), list(manifest["history"])
        self.fitted_ = []
        for name, part in self.views_.items():
            columns, width = self.blocks_[name], part.stop - part.start
            widths = [width, *self.hidden, self.latent_dim]
            books = [
                checked_array(arrays, f"codebook.{level}", (self.sizes_[level], self.latent_dim))
                for level in range(columns.start, columns.stop)
            ]
            self.fitted_.append(
                Fitted(
                    checked_array(arrays, f"shift.{name}", (width,)),
                    checked_array(arrays, f"scale.{name}", (width,)),
                    layer_arrays(arrays, f"encoder.{name}", widths),
                    layer_arrays(arrays, f"decoder.{name}", widths[::-1]),
                    np.stack(books),
                    checked_array(arrays, f"usable.{name}", (len(books), len(books[0]))),
                )
            )
        self._describe()


@contextmanager
def _kept_random_state() -> Iterator[None]:
    """Leaves the global generators of Python, NumPy and torch as they were: training seeds them."""
    python, numpy, here = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        torch.set_rng_state(here)


@torch.no_grad()
def _refit(network: Autoencoder, rows: Tensor, iterations: int, seed: int) -> None:
    """Move the codewords to the centroids of the residuals of all rows, level by level, from where they are."""
    books = network.codebooks
    assert books is not None
    left = torch.cat([network.latents(part) for part in rows.split(8192)])
    for level, book in enumerate(books.codebooks.detach().clone()):
        found = cluster(left, len(book), iterations=iterations, seed=seed, start=book)
        books.place(level, found.centers)
        left = left - found.centers[found.codes]


@torch.no_grad()
def _validate(network: nn.Module, rows: Tensor) -> dict[str, float]:
    """Share of the variance that is lost, share of the rows that share their codes, and the sum of the two."""
    assert isinstance(network, Autoencoder)
    books, lost, codes = network.codebooks, 0.0, []
    mean = ((rows.double().mean(0) - network.shift) / network.scale).float()
    spread = 0.0
    for part in rows.split(8192):
        scaled = (part - network.shift) / network.scale
        quantized = network.latents(part)
        if books is not None:
            codes.append(books.codes(quantized))
            quantized = books.decode(codes[-1])
        lost += float((network.decoder(quantized).float() - scaled).square().sum(dtype=torch.float64))
        spread += float((scaled - mean).square().sum(dtype=torch.float64))
    error = lost / max(spread, _EPS)
    if books is None:
        return {"error": error, "score": error}
    table, size = torch.cat(codes).cpu().numpy(), books.codebooks.shape[1]
    shared = ItemCodes(table, (size,) * table.shape[1], np.arange(len(table))).collisions().rate
    return {"error": error, "collisions": shared, "score": error + shared}

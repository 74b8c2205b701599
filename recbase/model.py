"""The base of every recommender: a configuration that rebuilds it, a folder it is saved to, its first weights.

Knows neither rankers nor generators; both extend `Network`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, overload

import numpy as np
import torch
from torch import nn

from recbase.arguments import check_arguments
from recbase.store.folder import FileContent, Folder, tensor_bytes
from recbase.store.hub import downloaded_folder
from recbase.train.memory import check_weights

if TYPE_CHECKING:
    from typing import Self

    import polars as pl

    from recbase.serving.fitted import FittedRecommender
    from recbase.store.runs import Run

__all__ = ["Network", "Origin", "Pretrained", "initialise"]


class _Train:
    """``Model.train(data, ...)`` trains a recommender; ``model.train(mode)`` of an object is PyTorch's own switch."""

    @overload
    def __get__(self, instance: None, owner: type[Pretrained]) -> Callable[..., FittedRecommender]: ...

    @overload
    def __get__(self, instance: Pretrained, owner: type[Pretrained]) -> Callable[..., Any]: ...

    def __get__(self, instance: Pretrained | None, owner: type[Pretrained]) -> Callable[..., Any]:
        if instance is None:
            family = import_module(f"{owner.registry}.recommender")
            return partial(family.train, _name_of(owner))
        if isinstance(instance, nn.Module):
            return partial(nn.Module.train, instance)
        raise AttributeError(f"a {type(instance).__name__} has no mode of training; its class trains one")


class Pretrained:
    """Saving and loading a model as a run folder, and sharing it on the Hugging Face hub.

    Attributes
    ----------
    registry : str
        Package whose ``MODELS`` name the model in the manifest.
    """

    registry: ClassVar[str] = "seqrec"
    train = _Train()
    origin: Origin | None = None
    """Folder that the model was read from, with the ids and titles of its items."""

    def remember(self, run: Run) -> None:
        """Keep what the folder that this model was read from says of its items."""
        self.origin = Origin(run.folder, run.items)

    def config(self) -> dict[str, Any]:
        """Constructor arguments."""
        raise NotImplementedError

    def save_pretrained(
        self,
        folder: str | os.PathLike[str],
        item_ids: Sequence[str | int] | None = None,
        titles: Sequence[str | None] | None = None,
    ) -> None:
        """Write the model as a run folder.

        A model that was read from a folder keeps the ids and titles of that one. As long as neither they nor its
        weights were changed, all else that folder holds (metrics, ranks, codes, index, ONNX scorer) is true of it still
        and is written too, so that the new folder equals the old one.

        Parameters
        ----------
        folder : path
        item_ids : sequence of str or int, optional
            Raw id of item 1..N, which ``seqrec recommend`` speaks in. By default those of the folder that the model was
            read from, and the numbers themselves for a model of no folder.
        titles : sequence of str or None, optional
            Title of item 1..N; by default those of the folder that the model was read from.

        Raises
        ------
        ValueError
            If there is not one id, or one title, for every item; an id is there twice; ids are neither all texts nor
            all whole numbers of 64 bits, or a title is no text. What the folder held before is kept.
        """
        from recbase.store.runs import save_run

        items = self._items(item_ids, titles)
        if self.origin is None or not self.origin.holds(self, items):
            save_run(folder, _name_of(type(self)), self, items, {})
            return
        try:
            files = self.origin.other_files()
        except (OSError, ValueError):
            warnings.warn(f"{self.origin.folder.path} is gone or was replaced: what it held is not kept", stacklevel=2)
            files = {}
        facts = {key: value for key, value in self.origin.folder.manifest.items() if key not in _KEPT_BY_SAVE_RUN}
        plain = all(entry["file"] == name for name, entry in self.origin.folder.files.items())
        save_run(folder, self.origin.folder.manifest["model"], self, items, facts, files, plain)

    def _items(self, item_ids: Sequence[str | int] | None, titles: Sequence[str | None] | None) -> pl.DataFrame:
        """Ids and titles of item 1..N."""
        import polars as pl

        count = int(self.config()["items"])
        numbers = pl.DataFrame({"item_id": range(1, count + 1)})
        items = numbers if self.origin is None else self.origin.items
        if item_ids is not None:
            items = items.with_columns(_checked_ids(item_ids, count))
        return items if titles is None else items.with_columns(_checked_titles(titles, count))

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike[str], revision: str | None = None) -> Self:
        """Read a model from a run folder, or from a repository of the Hugging Face hub (downloaded once).

        Raises
        ------
        FileNotFoundError
            If there is neither a folder nor a repository of that name.
        ValueError
            If the folder holds another model.
        """
        from recbase.store.runs import load_run

        folder = name if Path(name).is_dir() else downloaded_folder(name, revision)
        run = load_run(folder, _models_of(cls) | {_target_of(cls): _target_of(cls)})
        if not isinstance(run.model, cls):
            raise ValueError(f"{name} holds a {run.manifest['model']}, not a {_name_of(cls)}")
        return run.model

    def push_to_hub(
        self,
        repository: str,
        item_ids: Sequence[str | int] | None = None,
        private: bool = False,
        titles: Sequence[str | None] | None = None,
        licence: str | None = None,
    ) -> None:
        """Upload the folder that :meth:`save_pretrained` writes, with a model card, to the Hugging Face hub.

        Parameters
        ----------
        repository : str
            "owner/name"; made if it does not exist.
        item_ids, titles
            See `save_pretrained`.
        private : bool, default False
            Make it private where it is made.
        licence : str, optional
            As the hub spells it, such as "apache-2.0", for the card; it says that none is stated otherwise.
        """
        import tempfile

        from huggingface_hub import HfApi

        from recbase.serving.cards import write_run_card

        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, item_ids, titles)
            write_run_card(folder, type(self).registry, repository, licence)
            hub = HfApi()
            hub.create_repo(repository, private=private, exist_ok=True)
            hub.upload_folder(repo_id=repository, folder_path=folder)


def _checked_ids(ids: Sequence[str | int], count: int) -> pl.Series:
    import polars as pl

    ids = list(ids)
    if len(ids) != count:
        raise ValueError(f"item_ids has {len(ids)} ids but the model has {count} items")
    kind = str if ids and isinstance(ids[0], str) else int
    for place, item in enumerate(ids):
        whole = isinstance(item, int | np.integer) and not isinstance(item, bool) and -(2**63) <= item < 2**63
        if not (_is_text(item) and item if kind is str else whole):
            expected = "a text that is not empty" if kind is str else "a text, or a whole number of 64 bits"
            raise ValueError(f"item_ids[{place}] is {item!r:.60}, expected {expected} as all ids are")
    twice, times = Counter(ids).most_common(1)[0] if ids else (None, 1)
    if times > 1:
        raise ValueError(f"item_ids has {twice!r} more than once, expected each id once")
    return pl.Series("item_id", [kind(item) for item in ids], dtype=pl.String if kind is str else pl.Int64)


def _checked_titles(titles: Sequence[str | None], count: int) -> pl.Series:
    import polars as pl

    titles = list(titles)
    if len(titles) != count:
        raise ValueError(f"titles has {len(titles)} titles but the model has {count} items")
    for place, title in enumerate(titles):
        if title is not None and not _is_text(title):
            raise ValueError(f"titles[{place}] is {title!r:.60}, expected a text or None")
    return pl.Series("title", titles, dtype=pl.String)


def _is_text(value: object) -> bool:
    """True where a value is a text that UTF-8 can hold, which half of a surrogate pair is not."""
    return isinstance(value, str) and value.encode("utf-8", "ignore").decode() == value


@dataclass(frozen=True)
class Origin:
    """Folder that a model was read from.

    Attributes
    ----------
    folder : Folder
    items : polars.DataFrame [N]
        ``item_id`` and, where there is one, ``title`` of item 1..N.
    """

    folder: Folder
    items: pl.DataFrame

    def holds(self, model: Any, items: pl.DataFrame) -> bool:
        """True where the folder is that of this very model: the same arguments, weights and items."""
        tensors = model.tensors() if hasattr(model, "tensors") else dict(model.state_dict())
        digest = hashlib.sha256(tensor_bytes(tensors)).hexdigest()
        said = self.folder.manifest["arguments"], model.config()
        first, second = (json.dumps(arguments, sort_keys=True, default=str) for arguments in said)
        same = self.folder.files["model.safetensors"]["sha256"] == digest and first == second
        return same and self.items.equals(items)

    def other_files(self) -> dict[str, FileContent]:
        """Copies of the files that a run of this model has beside weights, items and item vectors."""
        own = {"model.safetensors", "items.parquet", "item_vectors.safetensors"}
        return {name: partial(shutil.copyfile, self.folder.file(name)) for name in self.folder if name not in own}


_KEPT_BY_SAVE_RUN = {"model", "arguments", "format", "kind", "versions"}


def _target_of(kind: type) -> str:
    return f"{kind.__module__}:{kind.__qualname__}"


def _models_of(kind: type[Pretrained]) -> dict[str, str]:
    found: dict[str, str] = import_module(kind.registry).MODELS
    return found


def _name_of(kind: type[Pretrained]) -> str:
    target = _target_of(kind)
    return next((name for name, known in _models_of(kind).items() if known == target), target)


class Network(Pretrained, nn.Module):
    """A recommender with weights, which keeps and checks the arguments of its constructor.

    Parameters
    ----------
    arguments : mapping
        ``locals()`` of the subclass's constructor; ``items`` and ``max_len`` must be among them. Its ``**options`` are
        the settings of the dataclasses in the class attribute ``setting_groups``.

    Attributes
    ----------
    items : int
        Items in the catalogue, N.
    max_len : int
        Longest history that is read, in items.

    Raises
    ------
    TypeError
        If ``options`` has a name that is a setting of no group.
    ValueError
        If an argument is out of its range, or the weights would not fit into memory.
    """

    setting_groups: ClassVar[tuple[type, ...]] = ()

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        super().__init__()
        hidden = ("self", "__class__", "options")
        self._config = {name: value for name, value in arguments.items() if name not in hidden}
        self._config |= self._grouped(arguments.get("options", {}))
        check_arguments(type(self), self._config)
        check_weights(self._config)
        self.items, self.max_len = int(self._config["items"]), int(self._config["max_len"])

    def _grouped(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Settings of all groups by their flat names, as given or by default."""
        settings = {part.name: part.default for group in self.setting_groups for part in fields(group)}
        for name in options:
            if name not in settings:
                raise TypeError(f"{type(self).__name__}.__init__() got an unexpected keyword argument {name!r}")
        return settings | dict(options)

    def config(self) -> dict[str, Any]:
        """Constructor arguments; ``type(model)(**config)`` rebuilds the model."""
        return dict(self._config)


def initialise(model: nn.Module, std: float = 0.02, spared: Iterable[nn.Module] = ()) -> None:
    """N(0, std) weights of linear layers and embeddings, zero biases, a zero row for padding.

    Modules among ``spared`` keep the weights they have.
    """
    kept = set(spared)
    for module in model.modules():
        if module in kept:
            continue
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=std)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            with torch.no_grad():
                module.weight[module.padding_idx] = 0

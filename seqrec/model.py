"""What the models of this package share: saving and loading, argument checks, and the usual way to train and score.

`SequentialModel` is for models whose score is a dot product of a state and an item vector; a model needs nothing of it
to be trained, only the calls that `seqrec.stages` names.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from recbase.arguments import check_arguments
from recbase.memory import check_weights
from recbase.sequences import SequenceBatch
from recbase.training import LossOutput
from recbase.transformer import Packing
from seqrec.objectives import next_item_loss, target_states

if TYPE_CHECKING:
    from typing import Self

__all__ = ["Pretrained", "SequentialModel", "TableScorer", "initialise"]


class Pretrained:
    """Saving and loading a model as a run folder, and sharing it on the Hugging Face hub.

    Attributes
    ----------
    registry : str
        Package whose ``MODELS`` name the model in the manifest.
    """

    registry: ClassVar[str] = "seqrec"

    def config(self) -> dict[str, Any]:
        """Constructor arguments."""
        raise NotImplementedError

    def save_pretrained(self, folder: str | os.PathLike[str], item_ids: Sequence[str | int] | None = None) -> None:
        """Write the model as a run folder, without metrics.

        Parameters
        ----------
        folder : path
        item_ids : sequence of str or int, optional
            Raw id of item 1..N, which ``seqrec recommend`` speaks in; the numbers themselves if not given.

        Raises
        ------
        ValueError
            If there is not one id for every item.
        """
        import polars as pl

        from recbase.runs import save_run

        count = int(self.config()["items"])
        ids = list(range(1, count + 1)) if item_ids is None else list(item_ids)
        if len(ids) != count:
            raise ValueError(f"item_ids has {len(ids)} ids but the model has {count} items")
        save_run(folder, _name_of(type(self)), self, pl.DataFrame({"item_id": ids}), {})

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike[str], revision: str | None = None) -> Self:
        """Read a model from a run folder, or from a repository of the Hugging Face hub (downloaded once).

        Raises
        ------
        ValueError
            If the folder holds another model.
        """
        from recbase.runs import load_run

        folder: str | os.PathLike[str] = name
        if not Path(name).is_dir():
            from huggingface_hub import snapshot_download

            folder = snapshot_download(str(name), revision=revision)
        run = load_run(folder, _models_of(cls) | {_target_of(cls): _target_of(cls)})
        if not isinstance(run.model, cls):
            raise ValueError(f"{name} holds a {run.manifest['model']}, not a {_name_of(cls)}")
        return run.model

    def push_to_hub(self, repository: str, item_ids: Sequence[str | int] | None = None, private: bool = False) -> None:
        """Upload the run folder to a repository of the Hugging Face hub, which is made if it does not exist."""
        import tempfile

        from huggingface_hub import HfApi

        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, item_ids)
            hub = HfApi()
            hub.create_repo(repository, private=private, exist_ok=True)
            hub.upload_folder(repo_id=repository, folder_path=folder)


def _target_of(kind: type) -> str:
    return f"{kind.__module__}:{kind.__qualname__}"


def _models_of(kind: type[Pretrained]) -> dict[str, str]:
    found: dict[str, str] = import_module(kind.registry).MODELS
    return found


def _name_of(kind: type[Pretrained]) -> str:
    target = _target_of(kind)
    return next((name for name, known in _models_of(kind).items() if known == target), target)


class SequentialModel(Pretrained, nn.Module):
    """A model whose score is a dot product of a history's last state with an item vector.

    A subclass passes ``locals()`` of its constructor, makes an ``item_embedding`` of at least N + 1 rows (row 0 is
    padding, row i item i) and defines `states`; it may override `candidates` and the class attributes.

    Parameters
    ----------
    arguments : mapping
        The constructor's arguments by name; ``items`` and ``max_len`` must be among them.
    """

    loss: Any = "ce"
    negatives: int = 1
    scale: float = 1.0
    exponent: float = 1.0
    reads_users: ClassVar[bool] = False

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        super().__init__()
        hidden = ("self", "__class__")
        self._config = {name: value for name, value in arguments.items() if name not in hidden}
        check_arguments(type(self), self._config)
        check_weights(self._config)
        self.items, self.max_len = int(self._config["items"]), int(self._config["max_len"])

    def config(self) -> dict[str, Any]:
        """Constructor arguments; ``type(model)(**config)`` rebuilds the model."""
        return dict(self._config)

    def states(self, items: Tensor, packing: Packing, users: Tensor | None = None) -> Tensor:
        """States of all real tokens of ``items`` [B, T]: [S, D]. ``users`` [B] only where ``reads_users``."""
        raise NotImplementedError

    def candidates(self) -> Tensor:
        """What states are scored against, with gradient: [N, D]."""
        table: Tensor = self.item_embedding.weight  # type: ignore[union-attr,assignment]
        return table[1 : self.items + 1]

    def forward(self, batch: SequenceBatch) -> LossOutput:
        """This batch's share of the mean loss over all targets of the step."""
        packing = Packing.of(batch.lengths, batch.items.shape[1])
        loss = self.next_item(self.states(batch.items, packing, batch.users), packing, batch)
        return LossOutput(loss, {self.loss: loss.detach()})

    def next_item(self, states: Tensor, packing: Packing, batch: SequenceBatch) -> Tensor:
        """Share of the next-item loss of packed states [S, D]."""
        chosen, targets = target_states(states, packing, batch)
        return next_item_loss(
            chosen, self.candidates(), targets, batch, self.loss, self.negatives, self.scale, self.exponent
        )

    def user_vectors(self, items: Tensor, lengths: Tensor, users: Tensor | None = None) -> Tensor:
        """Last states: items [B, T] -> [B, D]. Their dot product with :meth:`item_vectors` is the score."""
        packing = Packing.of(lengths, items.shape[1])
        return self.states(items, packing, users)[packing.last]

    @torch.no_grad()
    def item_vectors(self) -> Tensor:
        """What states are scored against, in eval mode: [N, D]."""
        training = self.training
        self.eval()
        vectors = self.candidates().detach()
        self.train(training)
        return vectors

    def scorer(self) -> TableScorer:
        """Scores of all items from the last state of a history."""
        return TableScorer(self, self.item_vectors())


class TableScorer:
    """Scores of a model whose score is a dot product of a user vector and an item vector.

    Parameters
    ----------
    model : module
        Has ``user_vectors(items, lengths)`` and ``max_len``.
    table : Tensor [N, D]
        Item vectors, computed once.
    max_len : int, optional
        Longest history; the model's if not given.
    """

    def __init__(self, model: Any, table: Tensor, max_len: int | None = None) -> None:
        self.model, self.table = model.eval(), table.T.contiguous()
        self.n_items, self.max_len = table.shape[0], max_len or model.max_len
        self.reads_users = bool(getattr(model, "reads_users", False))

    @torch.no_grad()
    def __call__(self, items: Tensor, lengths: Tensor, users: Tensor | None = None) -> Tensor:
        """[B, T] -> float32 [B, N]."""
        device = self.table.device
        items, lengths = items.to(device), lengths.to(device)
        if self.reads_users and users is not None:
            vectors = self.model.user_vectors(items, lengths, users.to(device))
        else:
            vectors = self.model.user_vectors(items, lengths)
        return vectors.float() @ self.table.float()


def initialise(model: nn.Module, std: float = 0.02) -> None:
    """N(0, std) weights of linear layers and embeddings, zero biases, a zero row for padding."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=std)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            with torch.no_grad():
                module.weight[module.padding_idx] = 0

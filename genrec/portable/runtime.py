"""An exported generator at work: ONNX Runtime, NumPy and the prefix tree. Nothing here imports torch."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from genrec.portable.search import Excluded, PortableTrie, search
from recbase.evaluate.recommender import NO_ITEM, Recommendations
from recbase.serving.onnx import open_session
from recbase.store.folder import load_arrays, open_folder
from recbase.store.manifests import COUNT, WHOLE, check, list_of, one_of, read_json, record
from recbase.store.runs import KIND, MANIFEST, read_items

__all__ = ["CATALOGUE_FILE", "DECODER_FILE", "ENCODER_FILE", "SETTINGS_FILE", "OnnxGenerator"]

ENCODER_FILE, DECODER_FILE = "encoder.onnx", "decoder.onnx"
CATALOGUE_FILE, SETTINGS_FILE = "catalogue.safetensors", "search.json"
_SETTINGS = record(
    {
        "sizes": list_of(COUNT),
        "first_tokens": list_of(COUNT),
        "max_items": COUNT,
        "start_token": COUNT,
        "stranger_token": WHOLE,
        "normalize": one_of("vocabulary", "children"),
    }
)
_BATCH = 64  # histories that are searched together


class OnnxGenerator:
    """A generator that ``genrec export --to onnx`` wrote: the lists of ``genrec recommend``, without torch.

    What a call needs is opened once and kept: both networks, the prefix tree, the codes and ids of the items.

    Parameters
    ----------
    folder : path
        An export.

    Raises
    ------
    FileNotFoundError
        If there is no run, or it is not exported to ONNX.
    ValueError
        If a file is damaged, or they do not belong together.
    ImportError
        If ONNX Runtime is not installed, naming the extra.

    Examples
    --------
    >>> model = OnnxGenerator("runs/deployed")                              # doctest: +SKIP
    >>> model.recommend([["B01", "B07"]], k=5)                              # doctest: +SKIP
    [[('B99', -2.31), ...]]
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = open_folder(folder, MANIFEST, KIND)
        if SETTINGS_FILE not in self.folder:
            raise FileNotFoundError(f"{folder} holds no ONNX generator; genrec export RUN --to onnx --out FOLDER does")
        path = self.folder.file(SETTINGS_FILE)
        settings: dict[str, Any] = read_json(path)
        check(path, settings, _SETTINGS)
        arrays = load_arrays(self.folder.file(CATALOGUE_FILE))
        try:
            self.trie = PortableTrie.of(arrays, settings["sizes"])
            self.tokens = _token_table(arrays, len(settings["sizes"]), self.trie)
        except ValueError as error:
            raise ValueError(f"{self.folder.file(CATALOGUE_FILE)}: {error}") from None
        self.max_items, self.start_token = int(settings["max_items"]), int(settings["start_token"])
        self.stranger_token, self.normalize = int(settings["stranger_token"]), str(settings["normalize"])
        self.first_tokens = [int(first) for first in settings["first_tokens"]]
        self.stops = np.cumsum([0, *self.trie.sizes])
        self.encoder = open_session(self.folder.file(ENCODER_FILE))
        self.decoder = open_session(self.folder.file(DECODER_FILE))

    def __repr__(self) -> str:
        return f"OnnxGenerator({str(self.folder.path)!r}, {len(self.tokens) - 1:,} items)"

    @cached_property
    def item_ids(self) -> list[str]:
        """Raw id of item number i + 1."""
        return [str(name) for name in read_items(self.folder)["item_id"].to_list()]

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.item_ids, 1)}

    def recommend(
        self,
        histories: Sequence[Sequence[str | int]],
        k: int = 10,
        beams: int = 50,
        keep_seen: bool = False,
        only: Sequence[str | int] | None = None,
    ) -> list[list[tuple[str, float]]]:
        """The best items of each history of raw ids.

        Parameters
        ----------
        histories : sequence of sequences of ids
            The oldest item first. Ids that the model does not know are skipped.
        k : int, default 10
            Length of the lists; shorter where fewer items may be recommended.
        beams : int, default 50
            Prefixes kept at every step.
        keep_seen : bool, default False
            Whether items of the history may be recommended again.
        only : sequence of ids, optional
            Items that alone may be recommended.

        Returns
        -------
        list of list of (str, float)
            Raw id and the logarithm of its probability, the best first; empty for a history without a known item.
        """
        known = [[self._numbers[str(item)] for item in one if str(item) in self._numbers] for one in histories]
        mask = None
        if only is not None:
            mask = np.zeros(len(self.item_ids), dtype=bool)
            mask[[self._numbers[str(item)] - 1 for item in only if str(item) in self._numbers]] = True
        some = [row for row, one in enumerate(known) if one]
        answers: list[list[tuple[str, float]]] = [[] for _ in histories]
        if some:
            found = self.lists([known[row] for row in some], k, max(k, beams), keep_seen, mask)
            for row, items, scores in zip(some, found.items, found.scores, strict=True):
                there = items != NO_ITEM
                pairs = zip(items[there].tolist(), scores[there].tolist(), strict=True)
                answers[row] = [(self.item_ids[item - 1], score) for item, score in pairs]
        return answers

    def lists(
        self,
        histories: Sequence[Sequence[int] | np.ndarray],
        k: int = 10,
        beams: int = 50,
        keep_seen: bool = False,
        mask: np.ndarray | None = None,
        users: np.ndarray | None = None,
    ) -> Recommendations:
        """The best items of each history of item numbers.

        Parameters
        ----------
        histories : sequence of int arrays
            Each of one item or more.
        k, beams, keep_seen
            See `recommend`.
        mask : bool array [N], optional
            Items that may be recommended.
        users : int array [B], optional
            Token of each user where the model has such; strangers if not given.
        """
        items = np.full((len(histories), k), NO_ITEM, dtype=np.int64)
        scores = np.full((len(histories), k), -np.inf, dtype=np.float32)
        order = np.argsort([-min(len(one), self.max_items) for one in histories], kind="stable")
        for begin in range(0, len(order), _BATCH):
            rows = order[begin : begin + _BATCH]
            seen = _padded([histories[row] for row in rows])
            excluded = None
            if mask is not None or not keep_seen:
                excluded = Excluded(self.trie, mask, None if keep_seen else seen)
            recent = _padded([histories[row][-self.max_items :] for row in rows])
            steps = _Steps(self, recent, None if users is None else users[rows])
            found = search(steps, self.trie, len(rows), beams, k, excluded, self.normalize)
            items[rows], scores[rows] = found.items, found.scores
        return Recommendations(items, scores)


class _Steps:
    """The decoder of one batch of histories, with its cache."""

    def __init__(self, model: OnnxGenerator, items: np.ndarray, users: np.ndarray | None) -> None:
        self.model = model
        lengths = (items > 0).sum(1) * model.tokens.shape[1]
        tokens = model.tokens[items].reshape(len(items), -1)
        if model.stranger_token:
            first = np.full(len(items), model.stranger_token) if users is None else users
            tokens, lengths = np.concatenate([first[:, None], tokens], 1), lengths + 1
        self.lengths = lengths.astype(np.int64)
        given = {"tokens": tokens.astype(np.int64), "lengths": self.lengths}
        self.keys, self.values = _run(model.encoder, ["keys", "values"], given)
        shape = next(part.shape for part in model.decoder.get_inputs() if part.name == "past")
        self.past = np.zeros((shape[0], len(items), 1, shape[3], shape[4]), dtype=np.float32)

    def __call__(self, step: int, parents: np.ndarray | None, codes: np.ndarray | None) -> np.ndarray:
        model, rows = self.model, len(self.lengths)
        if parents is None or codes is None:
            tokens = np.full((rows, 1), model.start_token, dtype=np.int64)
        else:
            tokens = codes + model.first_tokens[step - 1]
            self.past = self.past[:, np.arange(rows)[:, None], parents]
        given: dict[str, Any] = {"tokens": tokens, "step": np.array([step]), "past": self.past}
        given |= {"keys": self.keys, "values": self.values, "lengths": self.lengths}
        logits, fresh = _run(model.decoder, ["logits", "fresh"], given)
        self.past[:, :, :, step] = fresh
        part: np.ndarray = logits[..., model.stops[step] : model.stops[step + 1]]
        return part


def _run(session: Any, outputs: list[str], given: Mapping[str, Any]) -> list[np.ndarray]:
    try:
        found: list[np.ndarray] = session.run(outputs, given)
    except Exception as error:  # its exceptions have no parent of their own
        raise ValueError("the ONNX networks cannot be run: they are damaged, or made by another version") from error
    return found


def _padded(lists: Sequence[Any]) -> np.ndarray:
    """Lists as one matrix, right padded with 0."""
    longest = max(len(one) for one in lists)
    table = np.zeros((len(lists), longest), dtype=np.int64)
    for row, one in enumerate(lists):
        table[row, : len(one)] = one
    return table


def _token_table(arrays: Mapping[str, np.ndarray], levels: int, trie: PortableTrie) -> np.ndarray:
    """Tokens of every item, [N + 1, L]; row 0 is padding."""
    table = arrays.get("tokens")
    if table is None or table.ndim != 2 or table.shape[1] != levels or len(table) < len(trie.places) - 1:
        raise ValueError(f"tokens is not a table of {levels} tokens for each of {len(trie.places) - 2} items")
    return table

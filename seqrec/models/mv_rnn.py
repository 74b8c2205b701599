"""MV-RNN: a recurrent network over items seen from several sides: number, text, image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Unpack

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbase.arguments import Chance, Count, Dropout, Large, LargeOrOff, Length, Weight, Width, check_arguments, taken
from recbase.data.sequences import SequenceBatch
from recbase.nn.draws import draw_uniform
from recbase.nn.transformer import Packing
from recbase.train.loop import LossOutput
from seqrec.finetuned import EndToEndModel, FinetunedEncoder, Finetuning, FinetuningOptions
from seqrec.layers import biased_rows, with_one
from seqrec.modalities import ModalityVectors
from seqrec.models.gru4rec import recurrent_states

__all__ = ["FUSIONS", "RECIPES", "MVRNN", "MultiView", "MultiViewModel"]

RECIPES = {
    "default": {"epochs": 60, "batch_size": 256, "patience": 8, "lr": 2e-3},
    "paper": {"dim": 20, "fusion": "dae", "loss": "bpr", "negatives": 1, "dropout": 0.0, "lr": 1e-2,
              "optimizer": "sgd", "batch_size": 32},
    "tssr": {"dim": 128, "fusion": "concat", "item_table": "untied", "dropout": 0.1, "max_len": 10, "loss": "ce",
             "lr": 1e-4, "optimizer": "adam", "batch_size": 256, "form": "all"},
}  # fmt: skip

FUSIONS = ("concat", "sum", "dae")


class MultiView(nn.Module):
    """Item vectors from a latent part, a projection of the text and, where there are pictures, one of the image.

    ``concat`` puts them side by side, ``sum`` adds them; ``dae`` puts beside the latent part the code of an autoencoder
    that reads text and image together, one of them left out at times in training, and must rebuild both.

    Parameters
    ----------
    items : int
    text_dim, image_dim : int
        ``image_dim`` 0: no pictures.
    dim : int
        Width of every part.
    fusion : {"concat", "sum", "dae"}
    encoder : FinetunedEncoder, optional
        Makes the one part of content, of width ``dim``, in the place of frozen vectors; not for ``dae``.
    """

    def __init__(
        self,
        items: int,
        text_dim: int,
        image_dim: int,
        dim: int,
        fusion: Literal["concat", "sum", "dae"],
        encoder: FinetunedEncoder | None = None,
    ) -> None:
        super().__init__()
        self.items, self.fusion, self.encoder = items, fusion, encoder
        self.latent = nn.Embedding(items + 1, dim, padding_idx=0)
        if encoder is not None:
            if fusion == "dae":
                raise ValueError(
                    f"--fusion dae rebuilds frozen vectors, which --content {encoder.content} has none of; use concat "
                    "or sum"
                )
            self.width = {"concat": 2 * dim, "sum": dim}[fusion]
            return
        self.features = ModalityVectors(items, text_dim, image_dim)
        widths = self.features.widths
        self.project = nn.ModuleList(nn.Linear(width, dim, bias=False) for width in widths)
        self.bias = nn.Parameter(torch.zeros(dim)) if fusion == "dae" else None
        self.rebuild = nn.ModuleList(nn.Linear(dim, width) for width in widths if fusion == "dae")
        self.width = {"concat": dim * (1 + len(widths)), "sum": dim, "dae": 2 * dim}[fusion]

    def forward(self, items: Tensor) -> Tensor:
        """Item numbers [S] -> vectors [S, width]."""
        latent = self.latent(items)
        if self.fusion == "dae":
            tables = [table[items] for table in self.features.tables()]
            return torch.cat([latent, self.code(tables)], 1)
        if self.encoder is not None:
            parts = [latent, self.encoder(items)]
        else:
            parts = [latent, *(p(table[items]) for p, table in zip(self.project, self.features.tables(), strict=True))]
        return torch.cat(parts, 1) if self.fusion == "concat" else torch.stack(parts).sum(0)

    def code(self, vectors: list[Tensor]) -> Tensor:
        """The autoencoder's code of vectors, one [S, d] a modality: [S, dim]."""
        summed = sum(project(vector) for project, vector in zip(self.project, vectors, strict=True))
        return torch.sigmoid(summed + self.bias) - 0.5

    def error(self, items: Tensor, corruption: float, seed: int) -> Tensor:
        """Squared error of rebuilding the modalities that each item has, corrupted ones too; summed over items [S]."""
        tables = [table[items] for table in self.features.tables()]
        draws = [draw_uniform(seed + 7 + at, items) for at in range(len(tables))]
        read = [table * (drawn >= corruption)[:, None] for table, drawn in zip(tables, draws, strict=True)]
        code = self.code(read)
        total = code.new_zeros((), dtype=torch.float32)
        for rebuild, table, there in zip(self.rebuild, tables, self.features.present(), strict=True):
            squared = (rebuild(code).float() - table).square().sum(1)
            total = total + (squared * there[items]).sum()
        return total


class MultiViewModel(EndToEndModel):
    """Base of MV-RNN and MV-TRM: items in several views on both sides, and the autoencoder's part of the loss.

    A subclass sets ``output`` by `table`, and its states pass `scored`.

    Parameters
    ----------
    arguments : mapping
        The constructor's arguments by name.
    """

    output: nn.Linear | None

    def __init__(self, arguments: dict[str, Any]) -> None:
        super().__init__(arguments)
        given = self._config
        check_arguments(type(self), given)
        self.loss, self.negatives, self.dropout = given["loss"], given["negatives"], given["dropout"]
        self.corruption, self.rebuild_weight = given["corruption"], given["rebuild_weight"]
        encoder = None
        if given["content"] != "vectors":
            tuning = taken(Finetuning, given)
            encoder = self.made_encoder(given["content"], given["dim"], given["backbone_config"], tuning)
        shapes = given["text_dim"], given["image_dim"]
        self.view = MultiView(self.items, *shapes, given["dim"], given["fusion"], encoder)
        self.check_table(given["item_table"] == "tied")

    def table(self, width: int) -> nn.Linear | None:
        """The table of states of this width, where they have one of their own."""
        return nn.Linear(width, self.items) if self._config["item_table"] == "untied" else None

    @staticmethod
    def reads(arguments: Mapping[str, Any]) -> tuple[str, ...]:
        """Inputs under these options."""
        content = arguments.get("content", "vectors")
        return ("ids", "text", "images") if content == "vectors" else ("ids", content)

    def with_content(
        self,
        text: np.ndarray | None = None,
        images: np.ndarray | None = None,
        missing_images: np.ndarray | None = None,
        **raw: Any,
    ) -> MultiViewModel:
        """Set the text vectors [N, d] and, where there are some, image vectors [N, d] and which are missing, [N].

        An encoder that is trained too takes ``sentences`` or ``pictures`` in their place.
        """
        if self.view.encoder is not None:
            self.view.encoder.set(raw.get("sentences"), raw.get("pictures"))
        else:
            self.view.features.fill(text, images, missing_images)
        return self

    def vectors(self, items: Tensor) -> Tensor:
        """Item vectors that states are scored against where no table is of their own: int64 [S] -> [S, width]."""
        viewed: Tensor = self.view(items)
        return viewed

    def scored(self, states: Tensor) -> Tensor:
        """States as the table wants them: [S, width], with a 1 behind them for the bias of a table of their own."""
        return states if self.output is None else with_one(states)

    def candidates(self) -> Tensor:
        """Vectors that states are scored against: [N, width], with the bias behind them if untied."""
        if self.output is not None:
            return biased_rows(self.output)
        if self.view.encoder is not None:
            return self.rows_of(self.vectors)
        return self.vectors(torch.arange(1, self.items + 1, device=self.view.latent.weight.device))

    def forward(self, batch: SequenceBatch) -> LossOutput:
        """This batch's share of the next-item loss, and of rebuilding the items of the histories (fusion ``dae``)."""
        output = super().forward(batch)
        if self.view.fusion != "dae":
            return output
        items = batch.items[batch.valid]
        share = self.view.error(items, self.corruption, batch.seed) / max(1, int(batch.step_lengths.sum()))
        return LossOutput(output.loss + self.rebuild_weight * share, output.parts | {"rebuild": share.detach()})


class MVRNN(MultiViewModel):
    """Multi-view recurrent neural network (Cui et al., TKDE 2018, arXiv 1611.06668).

    A recurrent network reads item vectors of several views and its state is scored against the same vectors, so an item
    that nobody bought is found through its text and image. Written from the abstract and the description in
    later work, without code: the united structure (one recurrent network over the fused vector), a GRU, the
    autoencoder's code with one sigmoid layer, shifted by one half, and its corruption of whole modalities, are our
    reading. A missing image is zeros, which the autoencoder is not asked to rebuild. The default loss is the full
    softmax; ``bpr`` is the paper's. Recipe ``tssr`` is how TSSR (arXiv 2403.07623) compares with it.

    Parameters
    ----------
    items : int
        Items in the catalogue, N.
    text_dim : int, default 0
        Width of the text vectors; 0 where an encoder reads the texts.
    image_dim : int, default 0
        Width of the image vectors; 0 where there are none.
    backbone_config : dict, optional
        Configuration of the fine-tuned encoder; set when it is loaded.
    content : {"vectors", "sentences", "pictures"}, default "vectors"
        What is known of the items: frozen vectors of text and images, or raw text or image files, one of them, through
        an encoder that is trained too.
    dim : int, default 64
        Width of each view's part of an item vector.
    fusion : {"concat", "sum", "dae"}, default "concat"
        Views side by side; their sum; or the code of a denoising autoencoder beside the latent part.
    corruption : float, default 0.2
        How often the autoencoder is not shown a modality.
    rebuild_weight : float, default 0.1
        Weight of its squared error.
    dropout : float, default 0.3
        On the item vectors that are read.
    max_len : int, default 50
        Longest history, in items; older ones are cut.
    loss : {"ce", "sampled", "bce", "bpr"}, default "ce"
        Full softmax; softmax over shared negatives; binary cross-entropy; BPR (the paper).
    negatives : int, default 128
        Uniform negatives a target (bce, bpr) or a step (sampled).
    item_table : {"tied", "untied"}, default "tied"
        What states are scored against: the item vectors, or a table of ids with a bias (as in TSSR's code). With an
        encoder that is trained too, ``tied`` is for losses of few items (sampled, bce, bpr).
    backbone, tune, adapter_dim, pooling, max_tokens, picture_size, encoder_chunk
        The encoder of sentences or pictures; see `seqrec.finetuned.Finetuning`.
    """

    setting_groups = (Finetuning,)
    onnx_length = "fixed"  # a recurrent network is unrolled

    def __init__(
        self,
        items: Large,
        text_dim: LargeOrOff = 0,
        image_dim: LargeOrOff = 0,
        backbone_config: dict[str, Any] | None = None,
        content: Literal["vectors", "sentences", "pictures"] = "vectors",
        dim: Width = 64,
        fusion: Literal["concat", "sum", "dae"] = "concat",
        corruption: Chance = 0.2,
        rebuild_weight: Weight = 0.1,
        dropout: Dropout = 0.3,
        max_len: Length = 50,
        loss: Literal["ce", "sampled", "bce", "bpr"] = "ce",
        negatives: Count = 128,
        item_table: Literal["tied", "untied"] = "tied",
        **options: Unpack[FinetuningOptions],
    ) -> None:
        super().__init__(locals())
        self.recurrent = nn.GRU(self.view.width, self.view.width)
        self.output = self.table(self.view.width)
        self.start_weights()

    def states(self, items: Tensor, packing: Packing, users: Tensor | None = None) -> Tensor:
        """States of all real tokens: items [B, T] -> [S, width]."""
        x = F.dropout(self.view(packing.pack(items)), self.dropout, self.training)
        return self.scored(recurrent_states(self.recurrent, x, packing))

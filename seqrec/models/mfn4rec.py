"""MFN4Rec: a recurrent network for each modality, and a gated memory of what happens between them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Unpack

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbase.arguments import Count, Dropout, Large, LargeOrOff, Length, Width, taken
from recbase.nn.transformer import Packing
from seqrec.finetuned import EndToEndModel, FinetunedEncoder, Finetuning, FinetuningOptions
from seqrec.modalities import ModalityVectors
from seqrec.models.caser import older
from seqrec.models.gru4rec import recurrent_states

__all__ = ["MFN4Rec", "RECIPES", "running_memory"]

RECIPES = {
    "default": {"epochs": 60, "batch_size": 256, "patience": 8, "lr": 2e-3},
    "paper": {"dim": 128, "dropout": 0.2, "loss": "ce", "batch_size": 128, "lr": 1e-3, "form": "all"},
    "tssr": {"dim": 128, "memory": 128, "dropout": 0.1, "max_len": 10, "loss": "ce", "batch_size": 256, "lr": 1e-4,
             "optimizer": "adam", "form": "all"},
}  # fmt: skip


def running_memory(retain: Tensor, update: Tensor, packing: Packing) -> Tensor:
    """u_t = retain_t u_{t-1} + update_t along every history: packed [S, D] each -> [S, D].

    The recurrence is linear, so it takes log2(T) steps in which every token adds what twice as many before it hold.
    """
    steps = 1
    while steps < max(2, packing.width):  # once at least, so that every parameter takes part
        update = update + retain * older(update, packing, steps)
        retain = retain * older(retain, packing, steps)
        steps *= 2
    return update


class MFN4Rec(EndToEndModel):
    """Memory fusion network for recommendation (Wang, Wan, Qu and Dong, Applied Sciences 11(19), 8830, 2021).

    A recurrent network for each modality (item id, text, image) follows the relations within it; a memory follows
    those across: attention over the states of all modalities at two consecutive steps weighs what has changed, a
    candidate is made of it, and a retain and an update gate make the new memory. States and memory together predict.
    The full text could not be read: this is its abstract and its parent, the Memory Fusion Network for multi-view
    sequences (Zadeh et al., AAAI 2018, arXiv 1802.00927), with GRUs. Ours are all sizes, one hidden layer in the
    networks of the memory, attention weights multiplied by their number (mean 1), the last layer onto the item table,
    and the full softmax. Gates do not read the memory (as in the parent), so the memory is a linear recurrence. Recipe
    ``tssr`` is how TSSR (arXiv 2403.07623) compares with it.

    Parameters
    ----------
    items : int
        Items in the catalogue, N.
    text_dim : int, default 0
        Width of the text vectors; 0 where an encoder reads the texts.
    image_dim : int, default 0
        Width of the image vectors; 0 where there are none, then the image's network is left out.
    backbone_config : dict, optional
        Configuration of the fine-tuned encoder; set when it is loaded.
    content : {"vectors", "sentences", "pictures"}, default "vectors"
        What is known of the items: frozen vectors of text and images, or raw text or image files, one of them, through
        an encoder that is trained too.
    dim : int, default 64
        Width of embeddings, of every recurrent state and of the output.
    memory : int, default 64
        Width of the memory.
    dropout : float, default 0.3
        On the inputs, and on states and memory before the last layer.
    max_len : int, default 50
        Longest history, in items; older ones are cut.
    loss : {"ce", "sampled", "bce", "bpr"}, default "ce"
        Full softmax; softmax over shared negatives; binary cross-entropy; BPR.
    negatives : int, default 128
        Uniform negatives a target (bce, bpr) or a step (sampled).
    backbone, tune, adapter_dim, pooling, max_tokens, picture_size, encoder_chunk
        The encoder of sentences or pictures; see `seqrec.finetuned.Finetuning`.
    """

    setting_groups = (Finetuning,)
    onnx_length = "fixed"  # recurrent networks are unrolled

    def __init__(
        self,
        items: Large,
        text_dim: LargeOrOff = 0,
        image_dim: LargeOrOff = 0,
        backbone_config: dict[str, Any] | None = None,
        content: Literal["vectors", "sentences", "pictures"] = "vectors",
        dim: Width = 64,
        memory: Width = 64,
        dropout: Dropout = 0.3,
        max_len: Length = 50,
        loss: Literal["ce", "sampled", "bce", "bpr"] = "ce",
        negatives: Count = 128,
        **options: Unpack[FinetuningOptions],
    ) -> None:
        super().__init__(locals())
        self.dropout, self.loss, self.negatives = dropout, loss, negatives
        self.item_embedding = nn.Embedding(items + 1, dim, padding_idx=0)
        self.content: FinetunedEncoder | None = None
        if content == "sentences" or content == "pictures":
            self.content = self.made_encoder(content, dim, backbone_config, taken(Finetuning, options))
            modalities = 1
        else:
            self.features = ModalityVectors(items, text_dim, image_dim)
            self.project = nn.ModuleList(nn.Linear(width, dim, bias=False) for width in self.features.widths)
            modalities = len(self.project)
        self.recurrent = nn.ModuleList(nn.GRU(dim, dim) for _ in range(1 + modalities))
        width = 2 * dim * len(self.recurrent)
        self.attention = nn.Linear(width, width)
        self.candidate = nn.Sequential(nn.Linear(width, memory), nn.ReLU(), nn.Linear(memory, memory), nn.Tanh())
        self.retain = nn.Sequential(nn.Linear(width, memory), nn.ReLU(), nn.Linear(memory, memory), nn.Sigmoid())
        self.update = nn.Sequential(nn.Linear(width, memory), nn.ReLU(), nn.Linear(memory, memory), nn.Sigmoid())
        self.out = nn.Linear(width // 2 + memory, dim)
        self.start_weights()
        for module in (self.attention, *self.candidate, *self.retain, *self.update, self.out):
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)

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
    ) -> MFN4Rec:
        """Set the text vectors [N, d] and, where there are some, image vectors [N, d] and which are missing, [N].

        A missing image is a step with a zero input of the image's network. An encoder that is trained too takes
        ``sentences`` or ``pictures`` in the place of vectors.
        """
        if self.content is not None:
            self.content.set(raw.get("sentences"), raw.get("pictures"))
        else:
            self.features.fill(text, images, missing_images)
        return self

    def states(self, items: Tensor, packing: Packing, users: Tensor | None = None) -> Tensor:
        """States of all real tokens: items [B, T] -> [S, D]."""
        numbers = packing.pack(items)
        inputs = [self.item_embedding(numbers)]
        if self.content is not None:
            inputs.append(self.content(numbers))
        else:
            inputs += [p(table[numbers]) for p, table in zip(self.project, self.features.tables(), strict=True)]
        found = []
        for network, x in zip(self.recurrent, inputs, strict=True):
            assert isinstance(network, nn.GRU)
            found.append(recurrent_states(network, F.dropout(x, self.dropout, self.training), packing))
        now = torch.cat(found, 1)  # [S, M D]
        both = torch.cat([older(now, packing, 1), now], 1)  # [S, 2 M D]
        weighed = both * self.attention(both).softmax(1) * both.shape[1]
        memory = running_memory(self.retain(weighed), self.update(weighed) * self.candidate(weighed), packing)
        joined = F.dropout(torch.cat([now, memory.to(now.dtype)], 1), self.dropout, self.training)
        projected: Tensor = self.out(joined)
        return projected

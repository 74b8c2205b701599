"""MMSR: each history is a graph of its items, their texts and their images; every node finds its order of fusion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbase.arguments import Count, Depth, Dropout, Large, LargeOrOff, Length, Width
from recbase.model import initialise
from recbase.nn.transformer import Packing
from semtok.kernels.lloyd import cluster
from seqrec.modalities import ModalityVectors
from seqrec.sequential import SequentialModel

__all__ = ["MMSR", "RECIPES", "Graph", "GraphLayer"]

RECIPES = {
    "default": {"epochs": 60, "batch_size": 1024, "patience": 6, "lr": 2e-3},
    "paper": {"dim": 128, "layers": 1, "clusters": 20, "dropout": 0.2, "max_len": 50, "batch_size": 128, "lr": 2e-3,
              "form": "prefix"},
}  # fmt: skip

_KINDS = 3  # items, texts, images
_SAME_KIND = 4  # itself, what came before, what came after, both


@dataclass(frozen=True)
class Graph:
    """The graphs of a batch's histories, side by side: equal nodes of one history are one node.

    Attributes
    ----------
    content : int64 Tensor [M]
        Row of each node in the table of items, text clusters and image clusters, in this order.
    last : int64 Tensor [S]
        Node of the item of each token.
    sequence : int64 Tensor [3, E]
        Edges between nodes of a kind: target node, source node, relation (0 itself, 1 the source came before,
        2 after, 3 both).
    across : int64 Tensor [3, E]
        Edges between nodes of one item: target, source, relation (source kind times 3 plus target kind).
    """

    content: Tensor
    last: Tensor
    sequence: Tensor
    across: Tensor


def _softmax_sum(logits: Tensor, values: Tensor, target: Tensor, nodes: int) -> Tensor:
    """Sum over the edges of each target node, weighed by a softmax over these edges: [E], [E, D] -> [nodes, D]."""
    highest = torch.full((nodes,), -torch.inf, device=logits.device).scatter_reduce(
        0, target, logits.detach().float(), "amax"
    )
    weights = (logits.float() - highest[target]).exp()
    sums = torch.zeros(nodes, device=logits.device).index_add(0, target, weights)
    weighed = values.float() * (weights / sums[target])[:, None]
    return torch.zeros(nodes, values.shape[1], device=logits.device).index_add(0, target, weighed)


class GraphLayer(nn.Module):
    """Fusion of neighbours in two orders, sequence first and modality first, with a gate between them.

    Parameters
    ----------
    dim : int
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.sequence_relation = nn.Embedding(_SAME_KIND, dim)
        self.query, self.key, self.value = (nn.Linear(dim, dim, bias=False) for _ in range(3))
        self.across_relation = nn.Embedding(_KINDS * _KINDS, dim)
        self.gate = nn.Linear(2 * dim, dim)

    def along(self, nodes: Tensor, graph: Graph) -> Tensor:
        """Attention to earlier and later nodes of the same kind, by a product with the relation: [M, D] -> [M, D]."""
        target, source, relation = graph.sequence
        found = nodes[source]
        logits = F.leaky_relu((nodes[target] * found * self.sequence_relation(relation)).sum(1), 0.2)
        return nodes + _softmax_sum(logits, found, target, len(nodes))

    def across(self, nodes: Tensor, graph: Graph) -> Tensor:
        """Attention to the other modalities of the same item, by queries and keys: [M, D] -> [M, D]."""
        target, source, relation = graph.across
        key = self.key(nodes)[source] + self.across_relation(relation)
        logits = (self.query(nodes)[target] * key).sum(1) * nodes.shape[1] ** -0.5
        return nodes + _softmax_sum(logits, self.value(nodes)[source], target, len(nodes))

    def forward(self, nodes: Tensor, graph: Graph) -> Tensor:
        """Nodes [M, D] -> [M, D]."""
        late = self.across(self.along(nodes, graph), graph)
        early = self.along(self.across(nodes, graph), graph)
        gate = torch.sigmoid(self.gate(torch.cat([late, early], 1)))
        return gate * late + (1 - gate) * early


class MMSR(SequentialModel):
    """Adaptive multi-modality fusion over a graph of the history (Hu et al., CIKM 2023, arXiv 2308.15980).

    A history is a graph: its items, and the clusters (k-means) of their text and image vectors as nodes of their
    own, each once. Nodes of a kind are joined in the order of the history, nodes of one item with each other.
    Every layer attends to both kinds of neighbours in both orders, and a gate of each node chooses between late fusion
    (sequence first) and early fusion (modality first). The state is the node of the last item. A node sees later
    items: PREFIX form only. Written from the abstract and a short description, so the formulas are ours: attention
    along the sequence is a product with a vector of the relation, as in global-context graph networks, that across
    modalities has queries, keys and relations; both keep the node itself by a residual; a modality's node starts
    as a projection of its cluster's centre. An item without image has no image node.

    Parameters
    ----------
    items : int
        Items in the catalogue, N.
    text_dim : int
        Width of the text vectors.
    image_dim : int, default 0
        Width of the image vectors; 0 where there are none.
    dim : int, default 64
        Width of all nodes.
    layers : int, default 1
        Layers of the graph network.
    clusters : int, default 20
        Clusters of the texts, and of the images.
    dropout : float, default 0.3
        On the nodes at the start, and on the last state.
    max_len : int, default 50
        Longest history, in items; older ones are cut.
    loss : {"ce", "sampled", "bce", "bpr"}, default "ce"
        Full softmax; softmax over shared negatives; binary cross-entropy; BPR.
    negatives : int, default 128
        Uniform negatives a target (bce, bpr) or a step (sampled).
    """

    cluster_of: Tensor

    def __init__(
        self,
        items: Large,
        text_dim: LargeOrOff,
        image_dim: LargeOrOff = 0,
        dim: Width = 64,
        layers: Depth = 1,
        clusters: Count = 20,
        dropout: Dropout = 0.3,
        max_len: Length = 50,
        loss: Literal["ce", "sampled", "bce", "bpr"] = "ce",
        negatives: Count = 128,
    ) -> None:
        super().__init__(locals())
        self.dropout, self.loss, self.negatives, self.clusters = dropout, loss, negatives, clusters
        self.features = ModalityVectors(items, text_dim, image_dim)
        widths = self.features.widths
        # Cluster of each item in each modality, -1 where it has no vector; and the centres.
        self.register_buffer("cluster_of", torch.full((len(widths), items + 1), -1))
        for name, width in zip(self.features.names, widths, strict=True):
            self.register_buffer(f"{name}_centres", torch.zeros(clusters, width))
        self.item_embedding = nn.Embedding(items + 1, dim, padding_idx=0)
        self.project = nn.ModuleList(nn.Linear(width, dim) for width in widths)
        self.graph_layers = nn.ModuleList(GraphLayer(dim) for _ in range(layers))
        initialise(self)
        for layer in self.graph_layers:
            assert isinstance(layer, GraphLayer)
            nn.init.ones_(layer.sequence_relation.weight)  # attention by plain products at first
            for linear in (layer.query, layer.key, layer.value):
                nn.init.xavier_uniform_(linear.weight)

    def index_ranges(self) -> dict[str, Any]:
        """Least and largest value of the buffers that index tables."""
        return {"cluster_of": (-1, self.clusters - 1)}

    def with_content(
        self, text: np.ndarray, images: np.ndarray | None = None, missing_images: np.ndarray | None = None
    ) -> MMSR:
        """Set the text vectors [N, d] and, where there are some, image vectors [N, d] and which are missing, [N].

        Clusters them: seeded, so the same vectors give the same nodes.
        """
        self.features.fill(text, images, missing_images)
        parts = zip(self.features.names, self.features.tables(), self.features.present(), strict=True)
        for at, (name, table, there) in enumerate(parts):
            rows = there.nonzero()[:, 0]
            self.cluster_of[at] = -1
            if len(rows):
                found = cluster(table[rows], min(self.clusters, len(rows)), seed=0, precision="float32")
                self.cluster_of[at, rows] = found.codes
                getattr(self, f"{name}_centres")[: len(found.centers)] = found.centers
        return self

    def graph(self, items: Tensor, packing: Packing) -> Graph:
        """The graphs of histories [B, T]."""
        numbers = packing.pack(items)  # [S]
        tokens = len(numbers)
        offsets = self.items + 1 + self.clusters * torch.arange(len(self.cluster_of), device=numbers.device)
        found = self.cluster_of[:, numbers]
        content = torch.cat([numbers[None], torch.where(found >= 0, found + offsets[:, None], -1)])  # [1 + M, S]
        there, kinds = content >= 0, len(content)
        width = self.items + 1 + self.clusters * len(self.cluster_of)
        keys, place = (packing.row * width + content)[there].unique(return_inverse=True)
        node = torch.full_like(content, -1)
        node[there] = place  # node of each token and kind
        # Along the history: neighbouring tokens of one row, of a kind that both have.
        joined = there[:, 1:] & there[:, :-1] & (packing.row[1:] == packing.row[:-1])
        earlier, later = node[:, :-1][joined], node[:, 1:][joined]
        differ = earlier != later
        earlier, later, count = earlier[differ], later[differ], len(keys)
        pairs = torch.cat([later * count + earlier, earlier * count + later])
        bits = torch.cat([torch.full_like(later, 1), torch.full_like(later, 2)])
        edges = (pairs * _SAME_KIND + bits).unique()  # an edge of both directions is there twice, 1 and then 2
        pair, at = (edges // _SAME_KIND).unique(return_inverse=True)
        relation = torch.zeros_like(pair).index_add(0, at, edges % _SAME_KIND)
        itself = torch.arange(count, device=numbers.device)
        along = torch.stack([pair // max(1, count), pair % max(1, count), relation])
        loops = torch.stack([itself, itself, torch.zeros_like(itself)])
        # Across: the nodes of one token.
        across = [
            torch.stack([node[b], node[a], torch.full_like(node[a], a * _KINDS + b)])[:, there[a] & there[b]]
            for a in range(kinds)
            for b in range(kinds)
            if a != b
        ]
        crossing = torch.cat(across, 1).unique(dim=1) if tokens else torch.cat(across, 1)
        return Graph(keys % width, node[0], torch.cat([along, loops], 1), crossing)

    def states(self, items: Tensor, packing: Packing, users: Tensor | None = None) -> Tensor:
        """The node of each token's item; only the last of a history may be trained on: items [B, T] -> [S, D]."""
        graph = self.graph(items, packing)
        centres = [getattr(self, f"{name}_centres") for name in self.features.names]
        parts = [project(table).float() for project, table in zip(self.project, centres, strict=True)]
        table = torch.cat([self.item_embedding.weight, *parts])
        nodes = F.dropout(table[graph.content], self.dropout, self.training)
        for layer in self.graph_layers:
            nodes = layer(nodes, graph)
        return F.dropout(nodes[graph.last], self.dropout, self.training)

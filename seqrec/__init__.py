"""Sequential recommenders that rank items: histories (and codes, text, images) in, scores of the next item out.

One readable file a model. ``REGISTRY`` says of every model where its class is and what it needs; commands, stages, the
list and the contract tests read it, and nothing heavy is imported until a name is used.

    model = seqrec.SASRec.train(data, epochs=20)                # or seqrec.train("sasrec", data, epochs=20)
    model.recommend(users=["anna"], k=10)
    model.save("runs/x"); model = seqrec.load("runs/x")

How a model is added: the docstring of :mod:`seqrec.item_content`. Another package adds one by an entry point of the
group ``seqrec.models``, whose value names a :class:`ModelEntry`.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from recbase import __version__ as __version__
from recbase.plugins import registered

if TYPE_CHECKING:
    from recbase.serving.comparison import compare as compare
    from seqrec.blending import blend as blend
    from seqrec.models.bert4rec import BERT4Rec as BERT4Rec
    from seqrec.models.blend import Blend as Blend
    from seqrec.models.bpr import BPRMF as BPRMF
    from seqrec.models.caser import Caser as Caser
    from seqrec.models.ccfrec import CCFRec as CCFRec
    from seqrec.models.ccfrec_tabulated import TabulatedCCFRec as TabulatedCCFRec
    from seqrec.models.cl4srec import CL4SRec as CL4SRec
    from seqrec.models.din import DIN as DIN
    from seqrec.models.duorec import DuoRec as DuoRec
    from seqrec.models.fdsa import FDSA as FDSA
    from seqrec.models.fmlp import FMLPRec as FMLPRec
    from seqrec.models.gru4rec import GRU4Rec as GRU4Rec
    from seqrec.models.gru4rec_features import GRU4RecFeatures as GRU4RecFeatures
    from seqrec.models.hgn import HGN as HGN
    from seqrec.models.hstu import HSTU as HSTU
    from seqrec.models.itemknn import ItemKNN as ItemKNN
    from seqrec.models.maerec import MAERec as MAERec
    from seqrec.models.mfn4rec import MFN4Rec as MFN4Rec
    from seqrec.models.missrec import MISSRec as MISSRec
    from seqrec.models.mmsr import MMSR as MMSR
    from seqrec.models.mv_rnn import MVRNN as MVRNN
    from seqrec.models.mv_trm import MVTRM as MVTRM
    from seqrec.models.nova import NOVABERT as NOVABERT
    from seqrec.models.popularity import Popularity as Popularity
    from seqrec.models.recjpq import SASRecJPQ as SASRecJPQ
    from seqrec.models.s3rec import S3Rec as S3Rec
    from seqrec.models.sasrec import SASRec as SASRec
    from seqrec.models.sasrec_content import SASRecContent as SASRecContent
    from seqrec.models.sasrec_content import SASRecHybrid as SASRecHybrid
    from seqrec.models.tedrec import TedRec as TedRec
    from seqrec.models.transition_graph import TransitionGraph as TransitionGraph
    from seqrec.models.transitions import Transitions as Transitions
    from seqrec.models.tssr import TSSR as TSSR
    from seqrec.models.unisrec import UniSRec as UniSRec
    from seqrec.models.vqrec import VQRec as VQRec
    from seqrec.recommender import FittedRanker as FittedRanker
    from seqrec.recommender import load as load
    from seqrec.recommender import train as train
    from seqrec.tuning import tune as tune

__all__ = [
    "MODELS",
    "REGISTRY",
    "BERT4Rec",
    "BPRMF",
    "Blend",
    "CCFRec",
    "CL4SRec",
    "Caser",
    "DIN",
    "DuoRec",
    "FDSA",
    "FMLPRec",
    "FittedRanker",
    "GRU4Rec",
    "GRU4RecFeatures",
    "HGN",
    "HSTU",
    "ItemKNN",
    "MAERec",
    "MFN4Rec",
    "MISSRec",
    "MMSR",
    "MVRNN",
    "MVTRM",
    "ModelEntry",
    "NOVABERT",
    "Popularity",
    "S3Rec",
    "SASRec",
    "SASRecContent",
    "SASRecHybrid",
    "SASRecJPQ",
    "TSSR",
    "TabulatedCCFRec",
    "TedRec",
    "TransitionGraph",
    "Transitions",
    "UniSRec",
    "VQRec",
    "blend",
    "compare",
    "load",
    "train",
    "tune",
]


@dataclass(frozen=True)
class ModelEntry:
    """Entry of the registry: what is known of a model before its module is imported.

    Attributes
    ----------
    target : str
        ``module:Class``.
    paper : str
        Authors, venue and year, or where else the model comes from.
    inputs : tuple of str
        What it may read: ``ids``, ``text`` (one vector an item), ``views`` (one vector a text column), ``images``,
        ``codes``, ``attributes``, ``histories`` (the training part: graphs, neighbours), ``sentences`` (raw text),
        ``pictures`` (image files).
    loss : str
        The default training loss.
    forms : tuple of str
        Sample forms that do not show the model its own labels, the default first; empty where nothing is trained.
    kind : {"trained", "counted", "deployed"}
        By gradient; by counting; or made from trained models and not trained by name.
    """

    target: str
    paper: str
    inputs: tuple[str, ...]
    loss: str
    forms: tuple[str, ...] = ()
    kind: Literal["trained", "counted", "deployed"] = "trained"


_CAUSAL = ("all", "prefix")
_SOFTMAX = "full softmax"
_MODALITIES = ("ids", "text", "images")
_FEATURES = ("ids", "text", "images", "codes")
_RAW = ("sentences", "pictures")

_OURS: dict[str, ModelEntry] = {
    "popularity": ModelEntry("seqrec.models.popularity:Popularity", "none", ("ids",), "none", kind="counted"),
    "transitions": ModelEntry("seqrec.models.transitions:Transitions", "none (ours)", ("ids",), "none", kind="counted"),
    "itemknn": ModelEntry(
        "seqrec.models.itemknn:ItemKNN", "Deshpande and Karypis, TOIS 2004", ("ids",), "none", kind="counted"
    ),
    "transition-graph": ModelEntry(
        "seqrec.models.transition_graph:TransitionGraph",
        "Han et al. 2026, arXiv 2605.07125",
        ("ids", "text"),
        "none",
        kind="counted",
    ),
    "bpr": ModelEntry("seqrec.models.bpr:BPRMF", "Rendle et al., UAI 2009", ("ids",), "BPR", ("all",)),
    "gru4rec": ModelEntry("seqrec.models.gru4rec:GRU4Rec", "Hidasi et al., ICLR 2016", ("ids",), _SOFTMAX, _CAUSAL),
    "caser": ModelEntry("seqrec.models.caser:Caser", "Tang and Wang, WSDM 2018", ("ids",), _SOFTMAX, _CAUSAL),
    "hgn": ModelEntry("seqrec.models.hgn:HGN", "Ma et al., KDD 2019", ("ids",), _SOFTMAX, _CAUSAL),
    "sasrec": ModelEntry("seqrec.models.sasrec:SASRec", "Kang and McAuley, ICDM 2018", ("ids",), _SOFTMAX, _CAUSAL),
    "sasrec-jpq": ModelEntry(
        "seqrec.models.recjpq:SASRecJPQ",
        "Petrov and Macdonald, WSDM 2024",
        ("codes", "histories"),
        _SOFTMAX,
        _CAUSAL,
    ),
    "bert4rec": ModelEntry("seqrec.models.bert4rec:BERT4Rec", "Sun et al., CIKM 2019", ("ids",), _SOFTMAX, ("cloze",)),
    "s3rec": ModelEntry(
        "seqrec.models.s3rec:S3Rec",
        "Zhou et al., CIKM 2020",
        ("ids", "attributes", "histories"),
        "pretraining of four tasks, then full softmax",
        _CAUSAL,
    ),
    "fmlp": ModelEntry("seqrec.models.fmlp:FMLPRec", "Zhou et al., WWW 2022", ("ids",), _SOFTMAX, ("prefix",)),
    "cl4srec": ModelEntry(
        "seqrec.models.cl4srec:CL4SRec", "Xie et al., ICDE 2022", ("ids",), "full softmax + contrast", _CAUSAL
    ),
    "duorec": ModelEntry(
        "seqrec.models.duorec:DuoRec", "Qiu et al., WSDM 2022", ("ids", "histories"), "full softmax + contrast", _CAUSAL
    ),
    "maerec": ModelEntry(
        "seqrec.models.maerec:MAERec",
        "Ye et al., SIGIR 2023",
        ("ids", "histories"),
        "full softmax + rebuilding of masked edges",
        _CAUSAL,
    ),
    "hstu": ModelEntry(
        "seqrec.models.hstu:HSTU", "Zhai et al., ICML 2024", ("ids",), "full softmax by cosine", _CAUSAL
    ),
    "fdsa": ModelEntry(
        "seqrec.models.fdsa:FDSA", "Zhang et al., IJCAI 2019", ("ids", "attributes", "text", *_RAW), _SOFTMAX, _CAUSAL
    ),
    "gru4rec-features": ModelEntry(
        "seqrec.models.gru4rec_features:GRU4RecFeatures", "Hidasi et al., RecSys 2016", _FEATURES, _SOFTMAX, _CAUSAL
    ),
    "sasrec-content": ModelEntry(
        "seqrec.models.sasrec_content:SASRecContent",
        "Cheng et al. 2024 (TSSR's baseline)",
        (*_FEATURES, *_RAW),
        _SOFTMAX,
        _CAUSAL,
    ),
    "sasrec-hybrid": ModelEntry(
        "seqrec.models.sasrec_content:SASRecHybrid",
        "Cheng et al. 2024 (TSSR's baseline)",
        (*_FEATURES, *_RAW),
        _SOFTMAX,
        _CAUSAL,
    ),
    "tssr": ModelEntry(
        "seqrec.models.tssr:TSSR",
        "Cheng et al. 2024, arXiv 2403.07623",
        (*_FEATURES, *_RAW),
        "full softmax + contrasts of users and items",
        _CAUSAL,
    ),
    "unisrec": ModelEntry(
        "seqrec.models.unisrec:UniSRec", "Hou et al., KDD 2022", ("ids", "text"), "full softmax by cosine", _CAUSAL
    ),
    "vqrec": ModelEntry(
        "seqrec.models.vqrec:VQRec", "Hou et al., WWW 2023", ("codes",), "full softmax by cosine", _CAUSAL
    ),
    "nova": ModelEntry("seqrec.models.nova:NOVABERT", "Liu et al., AAAI 2021", _MODALITIES, _SOFTMAX, ("cloze",)),
    "mv-rnn": ModelEntry(
        "seqrec.models.mv_rnn:MVRNN", "Cui et al., TKDE 2018", (*_MODALITIES, *_RAW), _SOFTMAX, _CAUSAL
    ),
    "mv-trm": ModelEntry(
        "seqrec.models.mv_trm:MVTRM", "Cheng et al. 2024 (TSSR's baseline)", (*_MODALITIES, *_RAW), _SOFTMAX, _CAUSAL
    ),
    "mfn4rec": ModelEntry(
        "seqrec.models.mfn4rec:MFN4Rec",
        "Wang et al., Applied Sciences 2021",
        (*_MODALITIES, *_RAW),
        _SOFTMAX,
        _CAUSAL,
    ),
    "missrec": ModelEntry(
        "seqrec.models.missrec:MISSRec", "Wang et al., ACM MM 2023", _MODALITIES, "full softmax by cosine", ("prefix",)
    ),
    "mmsr": ModelEntry("seqrec.models.mmsr:MMSR", "Hu et al., CIKM 2023", _MODALITIES, _SOFTMAX, ("prefix",)),
    "tedrec": ModelEntry(
        "seqrec.models.tedrec:TedRec", "Xu et al., CIKM 2024", _MODALITIES, "full softmax by cosine", ("prefix",)
    ),
    "din": ModelEntry(
        "seqrec.models.din:DIN",
        "Zhou et al., KDD 2018; PRORec's stage I",
        ("ids", "text"),
        "sampled softmax + alignment",
        _CAUSAL,
    ),
    "ccfrec": ModelEntry(
        "seqrec.models.ccfrec:CCFRec",
        "Liu et al., KDD 2025",
        ("views", "codes"),
        "softmax by cosine + masked codes + alignment",
        _CAUSAL,
    ),
    "blend": ModelEntry("seqrec.models.blend:Blend", "none (ours)", ("ids",), "none", kind="deployed"),
    "ccfrec-tabulated": ModelEntry(
        "seqrec.models.ccfrec_tabulated:TabulatedCCFRec",
        "Liu et al., KDD 2025",
        ("ids",),
        "softmax by cosine",
        _CAUSAL,
        "deployed",
    ),
}

_PUBLIC = {
    target.rpartition(":")[2]: target.partition(":")[0] for target in (entry.target for entry in _OURS.values())
} | {
    "FittedRanker": "seqrec.recommender",
    "blend": "seqrec.blending",
    "compare": "recbase.serving.comparison",
    "load": "seqrec.recommender",
    "train": "seqrec.recommender",
    "tune": "seqrec.tuning",
}

if TYPE_CHECKING:
    REGISTRY: dict[str, ModelEntry]
    MODELS: dict[str, str]
else:

    def __getattr__(name: str) -> Any:
        """Import a public name, or look for plug-ins, the first time it is asked for (PEP 562).

        ``REGISTRY`` is made late, so that the module of a plug-in's entry can itself import this package.
        """
        if name == "REGISTRY":
            found = _OURS | registered("seqrec.models", _OURS, ModelEntry)
        elif name == "MODELS":
            found = {model: entry.target for model, entry in __getattr__("REGISTRY").items()}
        elif name in _PUBLIC:
            return getattr(import_module(_PUBLIC[name]), name)
        else:
            raise AttributeError(f"module 'seqrec' has no attribute {name!r}")
        return globals().setdefault(name, found)


def __dir__() -> list[str]:
    return sorted(__all__)

"""Small trained recommenders of both families, for tests of how they are used."""

import genrec
import seqrec
from recbase.data.catalog import load_dataset

TRANSFORMER = {"dim": 8, "ffn": 8, "layers": 1, "heads": 2}
SMALL_TIGER = {
    "dim": 8,
    "ffn": 8,
    "head_dim": 4,
    "heads": 2,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "tokenizer_steps": 20,
    "codebook_size": 8,
    "levels": 2,
    "beams": 10,
    "valid_beams": 10,
}


def data():
    return load_dataset("synthetic", users=80, items=40, seed=3)


def ranker(dataset, **settings):
    return seqrec.SASRec.train(dataset, quiet=True, **TRANSFORMER | {"epochs": 1} | settings)


def generator(dataset, cache, **settings):
    return genrec.TIGER.train(dataset, quiet=True, cache=cache, **SMALL_TIGER | {"epochs": 1} | settings)

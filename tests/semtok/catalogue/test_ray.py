"""Encoding through Ray Data on a cluster of two nodes gives the codes of one process."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import semtok
from semtok.catalogue.encode_shards import encode_shards, load_code_shards
from semtok.cli import main
from semtok.content.shards import ShardedEmbeddings, write_shard

ray = pytest.importorskip("ray", reason="semtok[ray] is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes on this machine, two cores each."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    made.add_node(num_cpus=2)
    ray.init(address=made.address, log_to_driver=False)
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    draw = np.random.default_rng(0)
    for number, rows in enumerate((400, 150, 1, 300, 249)):
        views = {"title": draw.normal(size=(rows, 8)), "brand": draw.normal(size=(rows, 4))}
        write_shard(tmp_path / "vectors", number, {name: view.astype(np.float32) for name, view in views.items()})
    return tmp_path / "vectors"


def test_codes_are_those_of_one_process(cluster: Any, shards: Path, tmp_path: Path) -> None:
    assert sum(node["Alive"] for node in ray.nodes()) == 2
    embeddings = ShardedEmbeddings(shards)
    matrix, columns = embeddings.matrix()
    for tokenizer in (semtok.ProductQuantizer(levels=2, codebook_size=16), semtok.ResidualQuantizer(codebook_size=16)):
        tokenizer.fit(matrix, views=columns)
        here = encode_shards(tokenizer, embeddings, {})
        there = encode_shards(tokenizer, embeddings, {}, engine="ray")
        assert there.dtype == np.int32
        assert np.array_equal(here, there)
    encode_shards(tokenizer, embeddings, {}, out=tmp_path / "codes", engine="ray")
    assert np.array_equal(load_code_shards(tmp_path / "codes").codes, here)


def test_the_commands_do_the_same(cluster: Any, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments: object) -> Any:
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        assert result.exit_code == 0, result.stderr
        return result

    settings = ("--embeddings", shards, "--codebook-size", 16, "--levels", 2, "--quiet")
    invoke("fit", *settings, "--out", "here")
    invoke("fit", *settings, "--out", "there", "--encode-engine", "ray")
    assert semtok.load_codes("here") == semtok.load_codes("there")
    said = json.loads(
        invoke("encode", "here", "--embeddings", shards, "--engine", "ray", "--out", "far", "--json").stdout
    )
    assert said == {"file": "far", "items": 1100, "levels": 4, "shards": 5}
    assert load_code_shards("far") == semtok.load_codes("here")

"""Model cards, and the folder that goes to the hub."""

import re
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import ModelCard

import semtok
from semtok.cards import push_folder, write_card
from semtok.catalogue.fit import fit_codes
from semtok.codes import ItemCodes
from semtok.content.embeddings import Embeddings


@pytest.fixture
def fitted() -> Any:
    draw = np.random.default_rng(0)
    views = {"title": draw.normal(size=(80, 6)), "brand": draw.normal(size=(80, 4))}
    made = Embeddings(views, {}, np.arange(80), {"dataset": {"name": "toys | games", "hash": "ab12"}})
    return fit_codes(semtok.ResidualQuantizer(levels=2, codebook_size=8), made)


def test_card_says_what_quality_and_how(fitted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fitted.save(tmp_path / "codes")
    path = write_card(tmp_path / "codes")
    assert path is not None
    text = path.read_text()
    card = ModelCard.load(path)
    assert card.data.library_name == "semtok"
    assert "rq" in card.data.tags
    assert card.data.license is None
    for said in (
        "| data set | toys \\| games |",
        "| views | title, brand (each on its own) |",
        "| items | 80 |",
        "| `codebook_size` | `8` |",
        "codes a level: 8 x 8 x 8 x 8",
        "| made unique by | none |",
        "neighbour recall@10",
        "None is stated",
    ):
        assert said in text
    shared = fitted.report["collisions"]
    assert f"| items that share their codes | {shared['items']:,} ({shared['rate']:.2%}) |" in text
    monkeypatch.chdir(tmp_path)
    names = {"vectors": np.zeros((3, 10), dtype=np.float32)}
    exec(re.search(r"```python\n(.*?)```", text, re.DOTALL).group(1), names)  # type: ignore[union-attr]
    assert names["codes"].shape == (3, 4)


def test_a_chosen_licence_stays_and_a_card_of_ones_own_is_left_alone(fitted: Any, tmp_path: Path) -> None:
    tokenizer, codes = fitted.tokenizer, fitted.codes
    tokenizer.save_pretrained(tmp_path)
    assert "no item codes, so nothing is known" in (tmp_path / "README.md").read_text()
    path = tmp_path / "README.md"
    path.write_text(path.read_text().replace("library_name: semtok", "library_name: semtok\nlicense: cc-by-4.0"))
    tokenizer.save_pretrained(tmp_path, codes, made_from=fitted.made_from)
    text = path.read_text()
    assert ModelCard(text).data.license == "cc-by-4.0"
    assert "None is stated" not in text
    assert "items that share their codes" in text
    path.write_text("my own words")
    tokenizer.save_pretrained(tmp_path, codes)
    assert path.read_text() == "my own words"
    assert write_card(tmp_path) is None


class Hub:
    """What is called of huggingface_hub.HfApi, kept; the folder as it was when it was uploaded."""

    calls: list[tuple[str, dict[str, Any]]]
    uploaded: Path

    def create_repo(self, repository: str, **settings: Any) -> None:
        self.calls.append(("create", {"repo_id": repository, **settings}))

    def upload_folder(self, **settings: Any) -> str:
        self.calls.append(("upload", settings))
        files = list(huggingface_hub.utils.filter_repo_objects(
            [path.name for path in Path(settings["folder_path"]).iterdir()], allow_patterns=settings["allow_patterns"]
        ))  # fmt: skip
        self.uploaded.mkdir()
        for name in files:
            shutil.copy(Path(settings["folder_path"]) / name, self.uploaded)
        return f"https://hub/{settings['repo_id']}/commit/1"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[Hub]:
    Hub.calls, Hub.uploaded = [], tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, revision=None: str(Hub.uploaded))
    return Hub


def test_push_uploads_a_folder_that_loads_again(fitted: Any, hub: type[Hub]) -> None:
    tokenizer, codes = fitted.tokenizer, fitted.codes
    assert tokenizer.push_to_hub("me/toys", codes, private=True) == "https://hub/me/toys/commit/1"
    assert [name for name, _ in hub.calls] == ["create", "upload"]
    assert hub.calls[0][1] == {"repo_id": "me/toys", "private": True, "exist_ok": True}
    assert hub.calls[1][1]["repo_id"] == "me/toys"
    names = sorted(re.sub(r"\.[0-9a-f]{12}", "", path.name) for path in hub.uploaded.iterdir())
    assert names == ["README.md", "codebooks.safetensors", "codes.parquet", "semtok.json"]
    assert '"me/toys"' in (hub.uploaded / "README.md").read_text()
    vectors = np.random.default_rng(1).normal(size=(20, 10)).astype(np.float32)
    again = semtok.ItemTokenizer.from_pretrained("me/toys")
    assert type(again) is semtok.ResidualQuantizer
    assert (again.encode(vectors) == tokenizer.encode(vectors)).all()
    assert (semtok.ResidualQuantizer.from_pretrained("me/toys").encode(vectors) == again.encode(vectors)).all()
    assert ItemCodes.load(hub.uploaded) == codes


def test_push_of_a_saved_folder_takes_its_report_and_nothing_strange(
    fitted: Any, hub: type[Hub], tmp_path: Path
) -> None:
    folder = tmp_path / "saved"
    fitted.save(folder)
    (folder / "notes.txt").write_text("private")
    push_folder(folder, "me/toys")
    names = {re.sub(r"\.[0-9a-f]{12}", "", path.name) for path in hub.uploaded.iterdir()}
    assert "report.json" in names
    assert "notes.txt" not in names
    assert "neighbour recall@10" in (hub.uploaded / "README.md").read_text()
    with pytest.raises(FileNotFoundError, match="is not a saved tokenizer"):
        push_folder(tmp_path, "me/toys")

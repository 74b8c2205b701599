"""Folders from the hub: one sentence where there is none."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from recbase.store.hub import downloaded_folder


def test_a_repository_is_downloaded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def download(name: str, revision: str | None) -> str:
        asked.append((name, revision))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert downloaded_folder("owner/name", "main") == tmp_path
    assert asked == [("owner/name", "main")]


def test_a_repository_that_cannot_be_had_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(name: str, revision: str | None) -> str:
        raise LocalEntryNotFoundError("No connection. Try\nagain. And again.")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    said = r"^cannot read owner/name: it is no folder, and the hub did not give it \(No connection\)$"
    with pytest.raises(FileNotFoundError, match=said):
        downloaded_folder("owner/name")


@pytest.mark.parametrize("name", ["/nothing/here", "a/b/c", "~/run", "a\0b", "../gone"])
def test_a_path_without_a_folder_is_one_sentence(name: str) -> None:
    with pytest.raises(FileNotFoundError, match="it is no folder, and no name of a repository"):
        downloaded_folder(name)


def test_a_file_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("x")
    with pytest.raises(NotADirectoryError, match="is not a folder; expected a saved model"):
        downloaded_folder(tmp_path / "run")

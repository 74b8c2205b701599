"""Requests and answers of the server, as its OpenAPI page shows them."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["About", "Answer", "Item", "Ranking", "Question"]

Id = str | int


class Question(BaseModel):
    """Histories to be answered, and what may be recommended."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"histories": [["a", "b"]], "k": 10}]})

    histories: list[list[Id]] = Field(min_length=1, description="Raw item ids of each user, the oldest first.")
    k: int = Field(10, ge=1, description="Length of the lists.")
    keep_seen: bool = Field(False, description="Items of the history may be recommended again.")
    exclude: list[Id] | None = Field(None, description="Items that are not recommended.")
    only: list[Id] | None = Field(None, description="Items that alone are recommended.")
    strict: bool = Field(False, description="Refuse unknown items instead of skipping them.")


class Item(BaseModel):
    """A recommended item."""

    item: Id
    title: str | None = None
    score: float | None = Field(None, description="In the model's own unit; none for a popular item.")


class Ranking(BaseModel):
    """The answer to one history, the best item first."""

    items: list[Item]
    popular: bool = Field(description="Nothing was known of the user: these are the most popular items.")


class Answer(BaseModel):
    """The answers to all histories of a request, by one model."""

    lists: list[Ranking]
    unknown: list[str] = Field(description="Item ids that the model does not know, each once.")
    version: str = Field(description="Version of the model that answered.")


class About(BaseModel):
    """The model in use."""

    model: str
    version: str
    items: int
    data: str | None = None

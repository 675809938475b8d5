"""What a person set: how answers are made, and what the page remembers for itself."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, field_validator
from sqlalchemy import delete, insert, select

from fathom.app.database import SETTINGS, Database
from fathom.server.deepseek.fields import Strict

MAX_INTERFACE_BYTES = 4096
COMPARED_PLAN = "gpt-4-0613"  # what an answer would have cost there is told beside its price

Temperature = Annotated[float, Field(ge=0, le=2)]
Tokens = Annotated[int, Field(ge=1, le=2**20)]
SystemText = Annotated[str, Field(max_length=32_768)]


class AnswerSettings(Strict):
    """What may be said for one answer; absent: as the person set it."""

    temperature: Temperature | None = None
    system: SystemText | None = None
    max_tokens: Tokens | None = None
    thought_tokens: Tokens | None = None


class Settings(Strict):
    """Everything that can be set; the defaults are DeepSeek's app's: no system prompt, the model's temperature."""

    think: bool = False
    search: bool = False
    temperature: Temperature | None = None
    system: SystemText = ""
    max_tokens: Tokens | None = None
    thought_tokens: Tokens | None = None
    memory: bool = False
    auto_title: bool = True
    interface: dict[str, Any] = Field(default_factory=dict)

    @field_validator("interface")
    @classmethod
    def _is_small(cls, value: dict[str, Any]) -> dict[str, Any]:
        if len(json.dumps(value)) > MAX_INTERFACE_BYTES:
            raise ValueError(f"the page's own settings may have {MAX_INTERFACE_BYTES} bytes as JSON")
        return value


@dataclass(frozen=True, slots=True)
class Asked:
    """What holds for one answer: the settings of the person, changed by those of the question."""

    think: bool
    search: bool
    temperature: float | None
    system: str
    max_tokens: int | None
    thought_tokens: int | None


def read(database: Database, person: str) -> Settings:
    """A person's settings."""
    with database.read() as connection:
        stored = connection.execute(select(SETTINGS.c.value).where(SETTINGS.c.person == person)).scalar()
    known = {name: value for name, value in (stored or {}).items() if name in Settings.model_fields}
    return Settings.model_validate(known)


def write(database: Database, person: str, settings: Settings) -> None:
    """Replace them."""
    with database.write() as connection:
        connection.execute(delete(SETTINGS).where(SETTINGS.c.person == person))
        connection.execute(insert(SETTINGS).values(person=person, value=settings.model_dump()))


def merged(settings: Mapping[str, object], asked: Mapping[str, object]) -> Asked:
    """The settings of an answer: what the question says, else what the person set."""
    chosen = {name: asked[name] if asked.get(name) is not None else settings[name] for name in Asked.__slots__}
    return Asked(**chosen)  # type: ignore[arg-type]

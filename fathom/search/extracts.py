"""What is taken out of a page or a file."""

from dataclasses import dataclass

from fathom.search.cleaning import clean

MAX_TITLE_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Section:
    """A named part of a text: characters `first` to `last` (exclusive) of it, such as "page 3" or a sheet."""

    title: str
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Extract:
    """What a page or file says; `published` is an ISO date, or None; `truncated`: there was more than is read."""

    title: str
    text: str
    published: str | None = None
    sections: tuple[Section, ...] = ()
    truncated: bool = False


def clean_title(title: str) -> str:
    """A title on one line of bounded length."""
    return " ".join(clean(title).split())[:MAX_TITLE_CHARACTERS]

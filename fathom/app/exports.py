"""What a person takes along: a chat as Markdown or JSON, or everything."""

import io
import json
import re
import time
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from fathom.app import files, notes
from fathom.app.database import Database
from fathom.app.library import Chat, Library
from fathom.app.messages import Message, path_to

FORMAT = "fathom-chats"
_CITATION = re.compile(r" ?\[citation:(\d+)\]")
_UNSAFE = re.compile(r'[\x00-\x1f<>:"/\\|?*\u200e\u200f\u202a-\u202e\u2066-\u2069]+')


def chat_export(chat: Chat) -> dict[str, Any]:
    """A chat as data, with all branches."""
    kept = {name: value for name, value in chat.summary.items() if name not in ("run", "match", "version", "temporary")}
    return {**kept, "head": chat.head, "messages": [message.json() for message in chat.messages.values()]}


def everything(library: Library) -> Iterator[bytes]:
    """All that a person has as one JSON object, chat by chat, so that it need not be held whole."""
    database, person = library.database, library.person
    head: dict[str, Any] = {"format": FORMAT, "version": 1, "exported": time.time()}
    head |= {"prompts": notes.every(database, person, "prompt"), "memories": notes.every(database, person, "memory")}
    yield json.dumps(head, ensure_ascii=False).encode()[:-1] + b', "chats": ['
    for place, identity in enumerate(library.ids()):
        chat = library.chat(identity)
        entry = {**chat_export(chat), "file_texts": _file_texts(database, person, chat)}
        yield (b",\n" if place else b"\n") + json.dumps(entry, ensure_ascii=False).encode()
    yield b"\n]}\n"


def _file_texts(database: Database, person: str, chat: Chat) -> dict[str, str]:
    sent = [file["id"] for message in chat.messages.values() for file in message.files]
    return {file.id: file.text for file in files.texts(database, person, sent).values()}


def markdown_archive(library: Library) -> bytes:
    """A zip of the visible branch of every chat as Markdown, in their folders."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for identity in library.ids():
            chat = library.chat(identity)
            folder = f"{safe_name(chat.summary['folder'])}/" if chat.summary["folder"] else ""
            day = datetime.fromtimestamp(chat.summary["created"], UTC).date().isoformat()
            name = f"{folder}{day} {safe_name(chat.summary['title'])} {identity[:6]}.md"
            packed.writestr(name, markdown(chat))
    return archive.getvalue()


def markdown(chat: Chat) -> str:
    """The visible branch of a chat to read: thoughts folded, citations as links, sources listed."""
    parts = [f"# {_one_line(chat.summary['title'] or 'Chat')}"]
    for message in path_to(chat.messages, chat.head):
        parts += _turn(message)
    return "\n\n".join(parts) + "\n"


def _turn(message: Message) -> list[str]:
    if message.role == "user":
        names = [f"*{_one_line(file['name'])}*" for file in message.files]
        return ["## Question", *names, message.content]
    parts = [f"## Answer ({_one_line(message.model)})" if message.model else "## Answer"]
    if message.thought:
        seconds = f" for {message.thought_seconds:.0f} s" if message.thought_seconds else ""
        parts.append(f"<details>\n<summary>Thought{seconds}</summary>\n\n{message.thought.strip()}\n\n</details>")
    parts.append(_CITATION.sub(lambda mark: _link(message, int(mark[1])), message.content))
    if message.state != "complete":
        parts.append(f"*({message.state})*")
    cited = [source for source in message.sources if source.get("cited")]
    if cited:
        parts.append("\n".join(f"- [{source['number']}] {_target(source)}" for source in cited))
    return parts


def _link(message: Message, number: int) -> str:
    if not 1 <= number <= len(message.sources):
        return ""
    url = str(message.sources[number - 1]["url"])
    return f" [[{number}]](<{url}>)" if _is_plain(url) else f" [{number}]"


def _target(source: dict[str, Any]) -> str:
    title, url = _one_line(str(source["title"])).replace("[", "(").replace("]", ")"), str(source["url"])
    return f"[{title}](<{url}>)" if _is_plain(url) else f"{title} ({_one_line(url)})"


def _is_plain(url: str) -> bool:
    return url.startswith(("http://", "https://")) and not re.search(r"[<>\s\\]", url)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def safe_name(text: str) -> str:
    """A part of a file's name that every system takes and no path hides in."""
    name = " ".join(_UNSAFE.sub(" ", text).split())[:80].strip(" .")
    return name or "chat"

"""Chats from elsewhere: our own export, DeepSeek's and ChatGPT's. What comes is somebody's file, so nothing is trusted:
sizes, depth and numbers are bounded, unknown fields are left aside, and words stay words.

Neither DeepSeek nor OpenAI publishes a schema. Both export a list of conversations whose `mapping` is a tree of nodes;
ChatGPT's messages have `author.role` and `content.parts`, DeepSeek's have `fragments` by type, or `content` beside
`reasoning_content` in older exports.
"""

import hashlib
import io
import json
import math
import re
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from fathom.app import notes
from fathom.app.library import Library
from fathom.app.messages import Message, new_id
from fathom.app.titles import first_words
from fathom.server.errors import ApiError, bad_request

MAX_UNPACKED_BYTES = 256 * 2**20
MAX_CHATS = 20_000
MAX_MESSAGES = 10_000  # of one chat
MAX_CHARACTERS = 1_000_000  # of one message
MAX_TITLE = 200
_WANTED = re.compile(r"(^|/)(conversations[^/]*|fathom[^/]*)\.json$", re.IGNORECASE)
_SURROGATES = re.compile(r"[\ud800-\udfff\0]")
_LATEST = 4102444800.0  # 2100-01-01


@dataclass(slots=True)
class Imported:
    """What became of an import."""

    imported: int = 0
    already: int = 0
    skipped: int = 0
    notes: list[str] = field(default_factory=list)

    def json(self) -> dict[str, Any]:
        """As the page gets it."""
        return {"imported": self.imported, "already": self.already, "skipped": self.skipped, "notes": self.notes}


@dataclass(slots=True)
class Conversation:
    """A chat as it was read."""

    origin: str
    title: str
    created: float
    updated: float
    folder: str | None
    head: str | None
    messages: list[Message]


def take(library: Library, name: str, data: bytes) -> Imported:
    """Store what a file holds. Raises ApiError 400 for what is no export. Blocking."""
    result = Imported()
    for value in _documents(name, data):
        for entry in _entries(value, library, result):
            conversation = read_conversation(entry)
            if conversation is None:
                result.skipped += 1
                continue
            taken = library.take(
                conversation.title,
                conversation.messages,
                head=conversation.head,
                times=(conversation.created, conversation.updated),
                folder=conversation.folder,
                origin=conversation.origin,
            )
            result.imported += taken
            result.already += not taken
    if result.skipped:
        result.notes.append(f"{result.skipped} entries held no conversation that could be read")
    return result


def _documents(name: str, data: bytes) -> Iterator[Any]:
    if not data.startswith(b"PK"):
        yield _parsed(name, data)
        return
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            wanted = [info for info in archive.infolist()[:100_000] if _WANTED.search(info.filename)][:100]
            if not wanted:
                raise bad_request(f"{name} holds no conversations.json: choose the file that the other app exported")
            left = MAX_UNPACKED_BYTES
            for info in wanted:
                with archive.open(info) as member:
                    unpacked = member.read(left + 1)  # what the archive says of its size is not believed
                left -= len(unpacked)
                if left < 0:
                    most = MAX_UNPACKED_BYTES >> 20
                    raise ApiError(413, f"{name} unpacks to more than {most} MiB: import it in parts", code="too_large")
                yield _parsed(info.filename, unpacked)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        raise bad_request(f"{name} cannot be unpacked ({error}): export it again") from error


def _parsed(name: str, data: bytes) -> Any:
    try:
        return json.loads(data.decode("utf-8-sig"))
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise bad_request(f"{name} is not JSON ({type(error).__name__}): choose the file that was exported") from error


def _entries(value: Any, library: Library, result: Imported) -> Sequence[Any]:
    """The conversations in a document."""
    if isinstance(value, dict) and value.get("format") == "fathom-chats":
        _take_notes(value, library, result)
    if isinstance(value, dict):
        inner = next((value[key] for key in ("chats", "conversations") if isinstance(value.get(key), list)), None)
        value = inner if inner is not None else [value]
    if not isinstance(value, list):
        raise bad_request("This is no export of Fathom, DeepSeek or ChatGPT: a list of conversations is expected")
    if len(value) > MAX_CHATS:
        result.notes.append(f"only the first {MAX_CHATS} conversations were looked at")
    return value[:MAX_CHATS]


def _take_notes(value: Mapping[str, Any], library: Library, result: Imported) -> None:
    kinds: tuple[tuple[notes.Kind, str], ...] = (("prompt", "prompts"), ("memory", "memories"))
    for kind, plural in kinds:
        known = {note["text"] for note in notes.every(library.database, library.person, kind)}
        for entry in _list(value.get(plural)):
            text = _text(entry.get("text"))[:32_768] if isinstance(entry, dict) else ""
            if not text or text in known:
                continue
            title = _text(entry.get("title"))[:MAX_TITLE] or first_words(text)
            try:
                notes.add(library.database, library.person, kind, text=text, title=title)
            except ApiError as error:
                result.notes.append(error.message)
                break


def read_conversation(entry: Any) -> Conversation | None:
    """One conversation of any of the forms, or None."""
    if not isinstance(entry, dict):
        return None
    if isinstance(entry.get("mapping"), dict):
        messages, head, source = *_from_mapping(entry["mapping"], entry.get("current_node")), "mapping"
    elif isinstance(entry.get("messages"), list):
        messages, head, source = *_from_list(entry["messages"], entry.get("head")), "messages"
    else:
        return None
    if not messages:
        return None
    created = _time(entry.get("create_time") or entry.get("inserted_at") or entry.get("created"))
    created = created or messages[0].created
    updated = _time(entry.get("update_time") or entry.get("updated_at") or entry.get("updated")) or created
    title = " ".join(_text(entry.get("title")).split())[:MAX_TITLE] or first_words(messages[0].content)
    folder = " ".join(_text(entry.get("folder")).split())[:100] or None
    named = _text(entry.get("conversation_id")) or _text(entry.get("id")) or title
    # Edited since: what is new then comes as another chat, and nothing of the first is lost.
    origin = hashlib.sha256(f"{source} {named} {updated} {len(messages)}".encode()).hexdigest()
    return Conversation(origin, title, created, updated, folder, head, messages)


@dataclass(slots=True)
class _Said:
    """A message before it has its place in the tree."""

    role: Literal["user", "assistant"]
    content: str
    thought: str = ""
    created: float = 0.0
    model: str | None = None


def _from_mapping(mapping: Mapping[str, Any], current: Any) -> tuple[list[Message], str | None]:
    """A tree of nodes. Nodes that say nothing are passed over; answers in pieces become one."""
    nodes = dict(list(mapping.items())[:MAX_MESSAGES])
    messages: dict[str, Message] = {}
    siblings = Counter(_text(node.get("parent")) for node in nodes.values() if isinstance(node, dict))
    for key in _roots_first(nodes):
        said = _said(nodes[key].get("message"))
        above = _text(nodes[key].get("parent"))
        parent = messages.get(above)
        if said is None:
            if parent is not None:
                messages[key] = parent  # what hangs below belongs to what stands above
        elif parent is not None and said.role == parent.role == "assistant" and siblings[above] == 1:
            parent.thought = "\n\n".join(filter(None, (parent.thought, said.thought))) or None
            parent.content = "\n\n".join(filter(None, (parent.content, said.content)))[:MAX_CHARACTERS]
            messages[key] = parent
        else:
            messages[key] = _message(said, parent)
    unique = list({message.id: message for message in messages.values()}.values())
    shown = messages.get(_text(current))
    return unique, shown.id if shown is not None else (unique[-1].id if unique else None)


def _roots_first(nodes: Mapping[str, Any]) -> list[str]:
    """Every node that hangs on a root, parents before children; cycles and orphans are left out, no recursion."""
    children: dict[str, list[str]] = {}
    roots: list[str] = []
    for key, node in nodes.items():
        if not isinstance(node, dict):
            continue
        parent = _text(node.get("parent"))
        if parent in nodes and parent != key:
            children.setdefault(parent, []).append(key)
        else:
            roots.append(key)
    order: list[str] = []
    waiting = roots[::-1]
    while waiting:
        key = waiting.pop()
        order.append(key)
        waiting += reversed(children.get(key, ()))
    return order


def _said(message: Any) -> _Said | None:
    if not isinstance(message, dict):
        return None
    created = _time(message.get("create_time") or message.get("inserted_at"))
    if isinstance(message.get("fragments"), list):
        return _deepseek(message, created)
    if isinstance(message.get("author"), dict):
        return _chatgpt(message, created)
    role = {"user": "user", "assistant": "assistant"}.get(_text(message.get("role")).lower())
    content = _text(message.get("content"))
    if role is None or not content.strip():
        return None
    said = _Said(
        "user" if role == "user" else "assistant", content, created=created, model=_model(message.get("model"))
    )
    said.thought = _text(message.get("reasoning_content") or message.get("thinking_content"))
    return said


def _deepseek(message: Mapping[str, Any], created: float) -> _Said | None:
    parts: dict[str, list[str]] = {"REQUEST": [], "RESPONSE": [], "THINK": []}
    for fragment in message["fragments"][:1000]:
        if isinstance(fragment, dict) and _text(fragment.get("type")).upper() in parts:
            parts[_text(fragment.get("type")).upper()].append(_text(fragment.get("content")))
    asked, answered, thought = ("\n\n".join(filter(None, parts[name])) for name in ("REQUEST", "RESPONSE", "THINK"))
    if asked:
        return _Said("user", asked, created=created)
    if answered or thought:
        return _Said("assistant", answered, thought, created, _model(message.get("model")))
    return None


def _chatgpt(message: Mapping[str, Any], created: float) -> _Said | None:
    role = _text(message["author"].get("role"))
    metadata, content = _dict(message.get("metadata")), message.get("content")
    hidden = metadata.get("is_visually_hidden_from_conversation") or message.get("recipient") not in (None, "all")
    if role not in ("user", "assistant") or hidden or not isinstance(content, dict):
        return None
    kind = _text(content.get("content_type"))
    model = _model(metadata.get("model_slug"))
    if kind == "thoughts":
        thoughts = [_text(one.get("content")) for one in _list(content.get("thoughts")) if isinstance(one, dict)]
        thought = "\n\n".join(filter(None, thoughts))
        return _Said("assistant", "", thought, created, model) if thought else None
    if kind not in ("text", "multimodal_text", "code"):
        return None
    parts = [_text(part) for part in _list(content.get("parts"))] or [_text(content.get("text"))]
    text = "\n\n".join(filter(None, parts))
    return _Said("user" if role == "user" else "assistant", text, "", created, model) if text.strip() else None


def _from_list(entries: Sequence[Any], head: Any) -> tuple[list[Message], str | None]:
    """Messages with `id` and `parent`, as we export them, or one after the other."""
    found: dict[str, Message] = {}
    last: Message | None = None
    for place, entry in enumerate(entries[:MAX_MESSAGES]):
        said = _said(entry)
        if said is None:
            continue
        parent = found.get(_text(entry.get("parent"))) if "parent" in entry else last
        said.thought = said.thought or _text(entry.get("thought"))
        said.created = said.created or _time(entry.get("created"))
        last = _message(said, parent)
        _keep_ours(last, entry)
        found[_text(entry.get("id")) or f"#{place}"] = last
    shown = found.get(_text(head)) or last
    return list(found.values()), shown.id if shown is not None else None


def _keep_ours(message: Message, entry: Mapping[str, Any]) -> None:
    """What else our own export says, as far as it is of the right form."""
    if entry.get("state") in ("complete", "stopped", "interrupted", "failed"):
        message.state = entry["state"]
    elif entry.get("state") == "running":
        message.state = "interrupted"
    if entry.get("rating") in (1, -1):
        message.rating = entry["rating"]
    seconds = entry.get("thought_seconds")
    if isinstance(seconds, int | float) and math.isfinite(seconds):
        message.thought_seconds = float(seconds)
    for source in _list(entry.get("sources"))[:100]:
        if isinstance(source, dict):
            message.sources.append(_source(source, len(message.sources) + 1))


def _source(source: Mapping[str, Any], number: int) -> dict[str, Any]:
    texts = {name: _text(source.get(name))[:20_000] for name in ("url", "title", "snippet", "engine")}
    options = {name: _text(source.get(name))[:20_000] or None for name in ("text", "published", "site")}
    return {**texts, **options, "passage": None, "number": number, "cited": source.get("cited") is True}


def _message(said: _Said, parent: Message | None) -> Message:
    message = Message(new_id(), parent.id if parent is not None else None, said.role, said.created)
    message.content, message.thought = said.content[:MAX_CHARACTERS], said.thought[:MAX_CHARACTERS] or None
    message.model = said.model
    return message


def _model(value: Any) -> str | None:
    return " ".join(_text(value).split())[:100] or None


def _text(value: Any) -> str:
    """A text without what no text holds; anything else is none."""
    return _SURROGATES.sub("", value) if isinstance(value, str) else ""


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _time(value: Any) -> float:
    """Seconds since 1970 from a number or an ISO date; 0 for anything else."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value).timestamp()
        except (ValueError, OverflowError, OSError):
            return 0.0
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0.0
    return float(value) if 0 < value < _LATEST else 0.0

"""Prefixes that survive: whole or not there, nobody else's, and no token depends on them."""

import os
import signal
import subprocess
import sys
import threading
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fathom.engine.page_store
from fathom.engine import Engine, SequenceStep
from fathom.engine.loading import fingerprint
from fathom.engine.page_store import PageStore
from fathom.engine.stats import EngineLimits
from fathom.engine.torch_runner import TorchRunner
from fathom.models.transformer import Transformer

ONE, TWO = b"1" * 16, b"2" * 16
LIMIT = 2**20


def digest(number: int) -> bytes:
    return number.to_bytes(16, "little")


def get(store: PageStore, number: int, size: int = 100) -> bytes | None:
    into = bytearray(size)
    return bytes(into) if store.read(digest(number), into) else None


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*/*"))


# The files ------------------------------------------------------------------------------------------------------------


def test_a_page_comes_back_for_its_own_model_only(tmp_path: Path) -> None:
    store, other = PageStore(tmp_path, ONE, LIMIT), PageStore(tmp_path, TWO, LIMIT)
    store.write(digest(1), b"a" * 100)
    assert store.has(digest(1))
    assert get(store, 1) == b"a" * 100
    assert get(other, 1) is None
    assert get(store, 2) is None
    assert [path.suffix for path in files(tmp_path)] == [".page"]
    assert files(tmp_path)[0].stat().st_mode & 0o077 == 0  # what somebody asked can be read out of it
    assert tmp_path.joinpath(ONE.hex()).stat().st_mode & 0o077 == 0


@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_damaged_is_ignored_and_removed(tmp_path: Path, data: st.DataObject) -> None:
    store = PageStore(tmp_path, ONE, LIMIT)
    store.write(digest(1), bytes(range(100)))
    (path,) = files(tmp_path)
    whole = path.read_bytes()
    match data.draw(st.sampled_from(["cut", "longer", "changed", "another"])):
        case "cut":
            path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
        case "longer":
            path.write_bytes(whole + b"x")
        case "changed":
            at = data.draw(st.integers(0, len(whole) - 1))
            path.write_bytes(whole[:at] + bytes([whole[at] ^ data.draw(st.integers(1, 255))]) + whole[at + 1 :])
        case "another":  # moved to the place of another page
            place = store._path(digest(2))
            place.parent.mkdir(exist_ok=True)
            path = path.rename(place)
    number = 2 if path.name.startswith("02") else 1
    assert get(store, number) is None
    assert not path.exists()


def test_the_least_recently_used_go_first_of_whichever_model(tmp_path: Path) -> None:
    stores = {name: PageStore(tmp_path, name, 10 * 161) for name in (ONE, TWO)}
    for number in range(10):
        stores[ONE if number % 2 else TWO].write(digest(number), b"x" * 100)
        os.utime(files(tmp_path)[0].parent)
        time.sleep(0.002)
    assert get(stores[TWO], 0) is not None  # used again
    stores[ONE].write(digest(10), b"y" * 100)
    left = {number for number in range(11) for store in stores.values() if store.has(digest(number))}
    assert {0, 9, 10} <= left
    assert 1 not in left
    assert sum(path.stat().st_size for path in files(tmp_path)) <= 10 * 161


def test_of_a_prefix_the_end_goes_before_the_beginning(tmp_path: Path) -> None:
    store = PageStore(tmp_path, ONE, 6 * 160)
    for index in range(6):
        store.write(digest(index), b"x" * 100, index)
    store.write(digest(100), b"x" * 100)
    left = [index for index in range(6) if store.has(digest(index))]
    assert store.has(digest(100))
    assert left == list(range(len(left)))
    assert 0 < len(left) < 6


def test_what_a_killed_process_left_is_cleared_away(tmp_path: Path) -> None:
    store = PageStore(tmp_path, ONE, LIMIT)
    store.write(digest(1), b"x" * 100)
    old, young = (files(tmp_path)[0].with_suffix(f".{name}.tmp") for name in ("1-1", "2-2"))
    old.write_bytes(b"half")
    young.write_bytes(b"half")
    os.utime(old, (1, 1))
    PageStore(tmp_path, TWO, LIMIT).write(digest(2), b"x" * 100)
    assert not old.exists()
    assert young.exists()  # somebody may still be writing it


def test_a_disk_that_refuses_is_asked_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    store = PageStore(blocked, ONE, LIMIT)
    store.write(digest(1), b"x")
    store.write(digest(2), b"x")
    assert get(store, 1) is None
    assert sum("takes no more" in record.message for record in caplog.records) == 1


WRITER = """
import importlib.util, sys, pathlib
spec = importlib.util.spec_from_file_location("page_store", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
store = module.PageStore(pathlib.Path(sys.argv[2]), b"1" * 16, 2**26)
for number in range(10**6):
    store.write(number.to_bytes(16, "little"), bytes([number % 256]) * 200_000)
    print(number, flush=True)
"""


def test_a_killed_writer_leaves_only_whole_pages(tmp_path: Path) -> None:
    module = str(fathom.engine.page_store.__file__)
    for pause in (0.0, 0.003, 0.011):
        process = subprocess.Popen([sys.executable, "-c", WRITER, module, str(tmp_path)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline()
        time.sleep(pause)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        store = PageStore(tmp_path, ONE, 2**26)
        pages = [
            int.from_bytes(bytes.fromhex(path.stem), "little") for path in files(tmp_path) if path.suffix == ".page"
        ]
        assert pages
        for number in pages:
            assert get(store, number, 200_000) == bytes([number % 256]) * 200_000


# The engine -----------------------------------------------------------------------------------------------------------


def paging(mock: Any, **options: Any) -> Any:
    """A mock runner whose pages can be taken out."""

    class Paging(mock.Runner):  # type: ignore[name-defined, misc]
        page_format = "mock"

        def __init__(self) -> None:
            super().__init__(**options)
            self.bytes_per_page = 4 * self.page_tokens

        def read_page(self, page: int) -> bytes:
            return array("i", self.pages[page]).tobytes()

        def write_page(self, page: int, data: bytes | bytearray) -> None:
            values = array("i")
            values.frombytes(bytes(data))
            self.pages[page] = values.tolist()

    return Paging()


@pytest.fixture
def start(mock: Any, tmp_path: Path) -> Iterator[Callable[..., Engine]]:
    """Engines one after another over the same folder; each closes the one before it."""
    engines: list[Engine] = []

    def make(limits: dict[str, int] | None = None, **options: Any) -> Engine:
        for engine in engines:
            engine.close()
        engine = Engine(
            paging(mock, **options),
            mock.tokenizer(),
            None,  # type: ignore[arg-type]
            model_name="mock",
            limits=EngineLimits(**limits or {}),
            store=PageStore(tmp_path, ONE, LIMIT),
        )
        engines.append(engine)
        return engine

    yield make
    for engine in engines:
        engine.close()
        assert engine.stats().load.pages_held == 0


def test_a_prefix_survives_a_restart_and_is_counted(start: Callable[..., Engine], mock: Any) -> None:
    prompt = [n % 200 for n in range(500)]
    start().generate(prompt=prompt, max_tokens=30, temperature=0.0, salt="alice")
    again = start()
    finished = again.generate(prompt=prompt, max_tokens=30, temperature=0.0, salt="alice").finished
    assert (finished.usage.cached_tokens, finished.tokens) == (448, mock.expected(prompt, 30))
    assert again.stats().load.counts.pages_from_disk == 7
    assert again.stats().load.counts.computed_tokens == 500 - 448 + 29
    for stranger in ("bob", None):
        assert again.generate(prompt=prompt, max_tokens=1, salt=stranger).finished.usage.cached_tokens == 0
    longer = [*prompt, *finished.tokens, 1, 2, 3]  # the conversation goes on
    finished = start().generate(prompt=longer, max_tokens=3, temperature=0.0, salt="alice").finished
    assert (finished.usage.cached_tokens, finished.tokens) == (512, mock.expected(longer, 3))


def test_a_damaged_page_ends_what_comes_back_and_changes_no_token(
    start: Callable[..., Engine], mock: Any, tmp_path: Path
) -> None:
    prompt = [n % 200 for n in range(500)]
    engine = start()
    engine.generate(prompt=prompt, max_tokens=1, temperature=0.0)
    engine.close()
    by_index = sorted(files(tmp_path), key=lambda path: -path.stat().st_mtime_ns)
    for path in by_index:
        path.touch()
    damaged = by_index[3]
    damaged.write_bytes(damaged.read_bytes()[:-1])
    finished = start().generate(prompt=prompt, max_tokens=5, temperature=0.0).finished
    assert finished.tokens == mock.expected(prompt, 5)
    assert finished.usage.cached_tokens % 64 == 0
    assert finished.usage.cached_tokens < 448
    assert start().generate(prompt=prompt, max_tokens=5, temperature=0.0).finished.usage.cached_tokens == 448  # mended


@given(data=st.data())
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_token_depends_on_what_is_on_disk(start: Callable[..., Engine], mock: Any, data: st.DataObject) -> None:
    for _ in range(2):
        engine = start(
            {"max_step_tokens": data.draw(st.integers(4, 40)), "max_running": data.draw(st.integers(1, 4))},
            n_pages=data.draw(st.integers(8, 24)),
            page_tokens=4,
            max_context=32,
        )
        prompt = st.lists(st.sampled_from([1, 2]), min_size=1, max_size=20)
        requests = data.draw(st.lists(st.tuples(prompt, st.integers(1, 11)), min_size=1, max_size=8))
        streams = [engine.stream(prompt=ids, max_tokens=count, temperature=0.0) for ids, count in requests]
        for stream, (ids, count) in zip(streams, requests, strict=True):
            assert list(stream)[-1].tokens == mock.expected(ids, count)  # type: ignore[union-attr]


def test_others_go_on_while_pages_come_back(start: Callable[..., Engine], mock: Any, monkeypatch: Any) -> None:
    prompt = [n % 200 for n in range(500)]
    start().generate(prompt=prompt, max_tokens=1, temperature=0.0)
    engine = start()
    read, reading = PageStore.read, []

    def slow(store: PageStore, *arguments: Any) -> bool:
        reading.append(1)
        time.sleep(0.05)
        return read(store, *arguments)

    monkeypatch.setattr(PageStore, "read", slow)
    running = engine.stream(prompt=[3], max_tokens=3000, temperature=0.0)
    next(running)
    waiting = engine.stream(prompt=prompt, max_tokens=1, temperature=0.0)
    while not reading:
        time.sleep(0.001)
    steps = engine.stats().load.counts.steps
    assert list(waiting)[-1].usage.cached_tokens == 448  # type: ignore[union-attr]
    assert engine.stats().load.counts.steps > steps + 3
    running.close()  # type: ignore[attr-defined]


def test_pages_that_come_for_a_cancelled_request_are_let_go(
    start: Callable[..., Engine], mock: Any, monkeypatch: Any
) -> None:
    prompt = [n % 200 for n in range(500)]
    start().generate(prompt=prompt, max_tokens=1, temperature=0.0)
    engine = start()
    read, reading = PageStore.read, threading.Event()

    def slow(store: PageStore, *arguments: Any) -> bool:
        reading.set()
        time.sleep(0.1)
        return read(store, *arguments)

    monkeypatch.setattr(PageStore, "read", slow)
    ticket = engine.submit(engine.request(prompt=prompt, max_tokens=1), lambda _: None)
    assert reading.wait(10)
    ticket.cancel()
    deadline = time.monotonic() + 20
    while engine.stats().load.pages_held and time.monotonic() < deadline:
        time.sleep(0.01)
    assert engine.stats().load.pages_held == 0


# Real runners ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "qwen2", "deepseek_v2", "deepseek_v3"])
def test_pages_of_torch_runners_can_be_moved(tiny_models: dict[str, Transformer], name: str) -> None:
    first, second = (TorchRunner(tiny_models[name], n_pages=6, max_context=64, page_tokens=8) for _ in range(2))
    check_moving(first, second, list(range(1, 21)))


def check_moving(first: Any, second: Any, ids: Sequence[int]) -> None:
    """Entries of `ids` move to other pages of another runner, and the next token sees the same."""
    assert first.page_format == second.page_format
    size = first.page_tokens
    pages, others = [4, 1, 3], [0, 5, 2]
    first.step([SequenceStep(ids, 0, pages, len(ids))])
    for page, other in zip(pages, others, strict=True):
        data = first.read_page(page)
        assert len(data) == first.bytes_per_page
        second.write_page(other, data)
        assert second.read_page(other) == data
    step = [SequenceStep([7], len(ids), others, 0)]
    expected = first.step([SequenceStep([7], len(ids), pages, 0)])
    assert len(ids) > 2 * size
    assert torch.equal(second.step(step), expected)


def test_models_and_formats_are_told_apart(tmp_path: Path, tiny_models: dict[str, Transformer]) -> None:
    from fathom.checkpoints import open_checkpoint, save_model

    model = tiny_models["llama"]
    save_model(model, tmp_path / "a", max_shard_bytes=10**6)
    save_model(model, tmp_path / "b", max_shard_bytes=10**6)
    prints = {fingerprint(open_checkpoint(tmp_path / name), "format") for name in "ab"}
    assert len(prints) == 1
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1e-3)
    save_model(model, tmp_path / "c", max_shard_bytes=10**6)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.sub_(1e-3)
    prints.add(fingerprint(open_checkpoint(tmp_path / "c"), "format"))
    prints.add(fingerprint(open_checkpoint(tmp_path / "a"), "another format"))
    assert len(prints) == 3

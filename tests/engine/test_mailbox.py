"""Events reach their readers on the loop, whoever puts them, and loops do not stay alive for it."""

import asyncio
import gc
import threading
import weakref

import pytest

from fathom.engine.mailbox import AsyncMailbox


def test_many_mailboxes_and_threads_lose_nothing_and_keep_order():
    async def read(box: AsyncMailbox[int], count: int) -> list[int]:
        got: list[int] = []
        while len(got) < count:
            got += await box.take()
        return got

    async def run() -> list[list[int]]:
        boxes = [AsyncMailbox[int]() for _ in range(20)]

        def write(first: int) -> None:
            for number in range(first, first + 300):
                for box in boxes:
                    box.put(number)

        threads = [threading.Thread(target=write, args=(first,)) for first in (0, 1000)]
        for thread in threads:
            thread.start()
        async with asyncio.timeout(60):
            return await asyncio.gather(*(read(box, 600) for box in boxes))

    for got in asyncio.run(run()):
        assert [n for n in got if n < 1000] == list(range(300))
        assert [n for n in got if n >= 1000] == list(range(1000, 1300))


def test_a_step_wakes_the_loop_once_for_all_streams(monkeypatch):
    async def run() -> int:
        loop, wakes = asyncio.get_running_loop(), []
        call = loop.call_soon_threadsafe
        monkeypatch.setattr(loop, "call_soon_threadsafe", lambda *given: wakes.append(call(*given)), raising=False)
        boxes = [AsyncMailbox[int]() for _ in range(32)]
        readers = [asyncio.ensure_future(box.take()) for box in boxes]
        await asyncio.sleep(0)
        for box in boxes:
            box.put(1)
        assert await asyncio.gather(*readers) == [[1]] * 32
        return len(wakes)

    assert asyncio.run(run()) == 1


def test_a_closed_loop_is_told_and_let_go():
    async def make() -> tuple[AsyncMailbox[int], weakref.ref[asyncio.AbstractEventLoop]]:
        return AsyncMailbox[int](), weakref.ref(asyncio.get_running_loop())

    box, loop = asyncio.run(make())
    with pytest.raises(RuntimeError):
        box.put(1)
    gc.collect()
    assert loop() is None

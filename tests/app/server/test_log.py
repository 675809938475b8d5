"""The event log: whoever reads slowly, or comes late, misses nothing."""

import asyncio

from fathom.app.log import EventLog


async def read(log, after=0, pause=0.0):
    seen = []
    async for chunks in log.after(after):
        seen += chunks
        await asyncio.sleep(pause)
    return seen


async def test_nothing_is_lost_while_a_reader_is_slow():
    log = EventLog()
    readers = [asyncio.create_task(read(log, pause=pause)) for pause in (0, 0.001, 0.02)]
    for number in range(100):
        log.put("answer" if number % 10 else "progress", {"text": f"{number} "})
        await asyncio.sleep(0 if number % 3 else 0.001)
    log.put("end", {})
    for seen in await asyncio.gather(*readers):
        assert "".join(chunk["data"].get("text", "") for chunk in seen) == "".join(f"{n} " for n in range(100))
        assert seen[-1] == {"id": 101, "event": "end", "data": {}}


async def test_pieces_are_joined_under_the_last_number():
    log = EventLog()
    for text in ("a", "b"):
        log.put("thought", {"text": text})
    log.put("thought_end", {"seconds": 1})
    for text in ("c", "d"):
        log.put("answer", {"text": text})
    log.put("end", {})
    assert [(chunk["id"], chunk["event"]) for chunk in await read(log)] == [
        (2, "thought"),
        (3, "thought_end"),
        (5, "answer"),
        (6, "end"),
    ]
    assert (await read(log, 4))[0] == {"id": 5, "event": "answer", "data": {"text": "d"}}
    assert await read(log, 6) == []
    assert await read(log, 99) == []

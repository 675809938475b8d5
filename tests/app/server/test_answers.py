"""Answers under way: streamed, seen by several, stopped, continued, stored, branched."""

import json
import threading

import pytest

from fathom.text import Answer, Prompt, Thought


def kinds(events):
    return [kind for _, kind, _ in events]


def joined(events, kind):
    return "".join(data["text"] for _, one, data in events if one == kind)


def test_an_answer_is_streamed_stored_and_accounted(visitor):
    chat = visitor.new_chat()
    begun = visitor.begin(chat, content="one two three", think=True)
    assert begun["user"]["content"] == "one two three"
    assert begun["answer"]["state"] == "running"
    assert begun["answer"]["run"] == begun["run"]["id"] == begun["chat"]["run"]
    events = list(visitor.events(begun["run"]["id"]))
    assert joined(events, "thought") == "Let me think."
    assert joined(events, "answer") == "one two three "
    assert kinds(events)[-1] == "end"
    assert kinds(events).index("thought_end") < kinds(events).index("answer")
    done = next(data["message"] for _, kind, data in events if kind == "done")
    question, answer = visitor.messages(chat)
    assert answer == {**done, "sequence": None}
    assert (answer["state"], answer["content"], answer["thought"]) == ("complete", "one two three ", "Let me think.")
    assert answer["parent"] == question["id"]
    assert answer["usage"]["completion_tokens"] == 5
    assert answer["usage"]["prompt_tokens"] == len("one two three")
    assert answer["cost"]["compare_usd"] > answer["cost"]["usd"] > 0
    assert answer["thought_seconds"] >= 0
    assert visitor.get(f"chats/{chat}").json()["head"] == answer["id"]


def test_numbers_count_up_and_any_of_them_can_be_taken_up_again(visitor):
    run = visitor.begin(visitor.new_chat(), content="a b c d e f", think=True)["run"]["id"]
    whole = list(visitor.events(run))
    numbers = [number for number, _, _ in whole]
    assert numbers == sorted(set(numbers))
    answer_from = {}
    for after in range(numbers[-1] + 1):
        events = list(visitor.events(run, after))
        assert all(number > after for number, _, _ in events)
        answer_from[after] = joined(events, "thought") + joined(events, "answer")
    assert answer_from[0] == "Let me think.a b c d e f "
    for after in range(1, numbers[-1] + 1):
        assert answer_from[after - 1].endswith(answer_from[after])
    assert answer_from[numbers[-1]] == ""


def test_it_goes_on_without_a_viewer_and_two_viewers_see_the_same(served, visitor, until):
    served.engine.pause = 0.02
    chat = visitor.new_chat()
    run = visitor.begin(chat, content=" ".join("abcdefghij"))["run"]["id"]
    first = visitor.events(run)
    next(first)
    first.close()  # the tab is closed
    seen = [[], []]

    def watch(place):
        with served.visitor() as other:
            seen[place] = list(other.events(run))

    threads = [threading.Thread(target=watch, args=(place,)) for place in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert joined(seen[0], "answer") == joined(seen[1], "answer") == "a b c d e f g h i j "
    assert until(lambda: visitor.messages(chat)[1]["state"] == "complete")


def test_who_comes_to_an_answer_under_way_takes_it_up_where_it_is(served, visitor, until):
    served.engine.pause = 0.02
    chat = visitor.new_chat(title="x")
    run = visitor.begin(chat, content=" ".join(f"w{n}" for n in range(60)), think=True)["run"]["id"]
    begun = until(lambda: (one := visitor.messages(chat)[1])["content"] and one)
    assert begun["run"] == run
    rest = list(visitor.events(run, begun["sequence"]))
    answer = visitor.messages(chat)[1]
    assert begun["content"] + joined(rest, "answer") == answer["content"]
    assert begun["thought"] + joined(rest, "thought") == answer["thought"]
    assert (answer["run"], answer["sequence"]) == (None, None)


def test_answer_now_ends_the_thought_and_the_answer_follows(served, visitor, until):
    served.engine.pause = 0.03
    served.engine.script = lambda request: [*(Thought("hm ") for _ in range(300)), Answer("So."), Answer(" Done.")]
    chat = visitor.new_chat(title="x")
    run = visitor.begin(chat, content="hello", think=True)["run"]["id"]
    until(lambda: visitor.messages(chat)[1]["thought"])
    assert visitor.post(f"runs/{run}/answer-now").status_code == 204
    list(visitor.events(run))
    answer = visitor.messages(chat)[1]
    assert (answer["state"], answer["content"]) == ("complete", "So. Done.")
    assert 0 < answer["usage"]["thought_tokens"] < 300
    assert answer["thought"] == "hm " * answer["usage"]["thought_tokens"]
    assert visitor.post(f"runs/{run}/answer-now").status_code == 204


def test_stop_keeps_what_came_and_it_stays_stopped(served, visitor, until):
    served.engine.pause = 0.03
    chat = visitor.new_chat()
    begun = visitor.begin(chat, content="word " * 200)
    until(lambda: len(visitor.messages(chat)[1]["content"]) > 20)
    assert visitor.post(f"runs/{begun['run']['id']}/stop").status_code == 204
    answer = visitor.messages(chat)[1]
    assert answer["state"] == "stopped"
    assert answer["run"] is None
    assert 20 < len(answer["content"]) < 500
    assert answer["usage"]["completion_tokens"] > 3
    assert served.engine.tickets[0].cancelled.is_set()
    assert visitor.messages(chat)[1] == answer
    # Stopping again, or answering at once, changes nothing.
    assert visitor.post(f"runs/{begun['run']['id']}/stop").status_code == 204
    assert visitor.messages(chat)[1] == answer


def test_a_stopped_answer_is_continued_where_it_was(served, visitor, until):
    served.engine.pause = 0.03
    chat = visitor.new_chat()
    begun = visitor.begin(chat, content="word " * 200, think=True)
    until(lambda: "word" in visitor.messages(chat)[1]["content"])
    visitor.post(f"runs/{begun['run']['id']}/stop")
    before = visitor.messages(chat)[1]
    served.engine.pause = 0.0
    served.engine.script = lambda request: [Answer("and so on.")]
    again = visitor.begin(chat, **{"continue": before["id"]})
    assert again["user"] is None
    assert again["answer"]["id"] == before["id"]
    list(visitor.events(again["run"]["id"]))
    after = visitor.messages(chat)[1]
    assert after["content"] == before["content"] + "and so on."
    assert after["state"] == "complete"
    assert after["usage"]["completion_tokens"] == before["usage"]["completion_tokens"] + 1
    prompted = served.engine.template.rendered[-1][0][-1]
    if prompted.role != "assistant":  # the last render was the title's
        prompted = served.engine.template.rendered[-2][0][-1]
    assert prompted.prefix
    assert prompted.content == before["content"]
    assert prompted.reasoning_content == before["thought"]
    refused = visitor.post(f"chats/{chat}/answers", json={"continue": before["id"]})
    assert refused.status_code == 400


def test_branches_by_asking_again_and_by_editing(served, visitor):
    chat = visitor.new_chat()
    visitor.ask(chat, "first question")
    question, answer = visitor.messages(chat)
    visitor.ask(chat, "follow up")
    run = visitor.begin(chat, question=question["id"])
    assert run["user"] is None
    list(visitor.events(run["run"]["id"]))
    edited = visitor.begin(chat, content="edited question", parent=None)
    list(visitor.events(edited["run"]["id"]))
    messages = {one["id"]: one for one in visitor.messages(chat)}
    assert [one["id"] for one in messages.values() if one["parent"] == question["id"]] == [
        answer["id"],
        run["answer"]["id"],
    ]
    assert [one["content"] for one in messages.values() if one["parent"] is None] == [
        "first question",
        "edited question",
    ]
    assert visitor.get(f"chats/{chat}").json()["head"] == edited["answer"]["id"]
    back = visitor.patch(f"chats/{chat}", json={"head": answer["id"]}).json()
    assert back["head"] == answer["id"]


def test_the_history_reaches_the_model_without_thoughts(served, visitor):
    chat = visitor.new_chat()
    served.engine.script = lambda request: [Thought("secret thought"), Answer("Yes.")]
    visitor.ask(chat, "first", think=True)
    visitor.ask(chat, "second", think=True)
    asked = [
        [(one.role, one.content) for one in messages]
        for messages, _, thinking in served.engine.template.rendered
        if thinking
    ]
    assert asked == [
        [("user", "first")],
        [("user", "first"), ("assistant", "Yes."), ("user", "second")],
    ]
    assert not any(one.reasoning_content for messages, _, _ in served.engine.template.rendered for one in messages)


def test_settings_of_the_person_and_of_the_question(served, visitor):
    visitor.patch("settings", json={"think": True, "system": "Be brief.", "temperature": 0.3, "max_tokens": 50})
    chat = visitor.new_chat(title="named")
    visitor.ask(chat)
    visitor.ask(chat, think=False, settings={"temperature": 1.5, "system": "Be long."})
    rendered = served.engine.template.rendered
    first = next(one for one in rendered if one[0][0].content == "Be brief.")
    second = next(one for one in rendered if one[0][0].content == "Be long.")
    assert (first[0][0].role, first[2]) == ("system", True)
    assert second[2] is False
    temperatures = [ticket.request.params.temperature for ticket in served.engine.tickets]
    assert temperatures == [0.3, 1.5]
    assert served.engine.tickets[0].request.params.max_tokens == 50
    visitor.patch("settings", json={"temperature": None, "system": "", "max_tokens": None})
    visitor.ask(chat)
    assert served.engine.tickets[-1].request.params.temperature == 0.6


def test_a_failure_of_the_engine_is_an_error_and_what_came_stays(served, visitor):
    served.engine.reason = "error"
    answer = visitor.ask(visitor.new_chat())
    assert answer["state"] == "failed"
    assert answer["content"] == "hello there "
    assert "log" in answer["error"]["message"]


def test_a_full_queue_is_said(served, visitor):
    from fathom.engine.errors import QueueFull

    served.engine.refuse = QueueFull("too many wait")
    answer = visitor.ask(visitor.new_chat())
    assert answer["state"] == "failed"
    assert "overloaded" in answer["error"]["message"]


def test_an_empty_answer_is_a_failure(served, visitor):
    served.engine.script = lambda request: []
    answer = visitor.ask(visitor.new_chat())
    assert (answer["state"], answer["error"]["code"]) == ("failed", "empty")


def test_the_place_in_the_queue_is_told(served, visitor):
    served.engine.hold.clear()
    run = visitor.begin(visitor.new_chat(), content="hi")["run"]["id"]
    places = []
    for _, kind, data in visitor.events(run):
        if kind == "progress" and data["stage"] == "queue":
            places.append(data["place"])
            served.engine.hold.set()
    assert places == [3]


def test_one_answer_at_a_time_below_a_message_and_a_bound_in_all(served, visitor):
    served.engine.hold.clear()
    chat = visitor.new_chat()
    begun = visitor.begin(chat, content="hi")
    for body in (
        {"question": begun["user"]["id"]},
        {"continue": begun["answer"]["id"]},
        {"content": "more", "parent": begun["answer"]["id"]},
    ):
        refused = visitor.post(f"chats/{chat}/answers", json=body)
        assert refused.status_code == 409, refused.text
        assert refused.json()["error"]["code"] == "busy"
    for _ in range(7):
        visitor.begin(visitor.new_chat(), content="hi")
    refused = visitor.post(f"chats/{visitor.new_chat()}/answers", json={"content": "hi"})
    assert refused.status_code == 429
    served.engine.hold.set()


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"content": ""},
        {"content": "a", "question": "0" * 32},
        {"content": "a", "parent": "nonsense"},
        {"content": "a", "unknown": 1},
        {"content": "a", "settings": {"temperature": 9}},
        {"content": "a", "settings": {"temperature": "hot"}},
        {"content": ["a"]},
    ],
)
def test_what_makes_no_sense_is_refused_and_stores_nothing(visitor, body):
    chat = visitor.new_chat()
    refused = visitor.post(f"chats/{chat}/answers", json=body)
    assert refused.status_code in (400, 422), refused.text
    assert refused.json()["error"]["message"]
    assert visitor.messages(chat) == []


def test_unknown_parents_and_runs_do_not_exist(visitor):
    chat = visitor.new_chat()
    assert visitor.post(f"chats/{chat}/answers", json={"content": "a", "parent": "0" * 32}).status_code == 404
    assert visitor.post(f"chats/{'0' * 32}/answers", json={"content": "a"}).status_code == 404
    for path in ("events", "stop", "answer-now"):
        method = "GET" if path == "events" else "POST"
        assert visitor.request(method, f"runs/{'0' * 32}/{path}").status_code == 404


def test_the_title_is_the_question_then_the_models_never_a_thought(served, visitor):
    def script(request):
        if "Write a title" in request.prompt.text:
            return [Thought("I think about titles."), Answer('"Dinners with lentils"\n')]
        return [Answer("Cook lentils.")]

    served.engine.script = script
    chat = visitor.new_chat()
    begun = visitor.begin(chat, content="What shall I cook\nthis week?")
    assert begun["chat"]["title"] == "What shall I cook"
    events = list(visitor.events(begun["run"]["id"]))
    assert [data["title"] for _, kind, data in events if kind == "title"] == ["Dinners with lentils"], events
    assert visitor.get(f"chats/{chat}").json()["title"] == "Dinners with lentils"
    visitor.patch(f"chats/{chat}", json={"title": "Mine"})
    visitor.ask(chat, "more")
    assert visitor.get(f"chats/{chat}").json()["title"] == "Mine"


@pytest.mark.parametrize("said", ["", "<think>hm", "x" * 200, "...", "\n\n"])
def test_what_is_no_title_leaves_the_questions_words(served, visitor, said):
    served.engine.script = lambda request: [Answer(said if "Write a title" in request.prompt.text else "Yes")]
    chat = visitor.new_chat()
    visitor.ask(chat, "How far is the moon?")
    run = visitor.begin(chat, content="again")["run"]["id"]
    assert "title" not in kinds(visitor.events(run))
    assert visitor.get(f"chats/{chat}").json()["title"] == "How far is the moon?"


def test_deleting_a_chat_ends_its_answer(served, visitor):
    served.engine.pause = 0.03
    chat = visitor.new_chat()
    visitor.begin(chat, content="word " * 200)
    assert visitor.delete(f"chats/{chat}").status_code == 204
    assert visitor.get(f"chats/{chat}").status_code == 404
    assert served.engine.tickets[0].over.wait(5)


def test_a_server_that_goes_leaves_the_answer_as_interrupted(start_app, scripted, until):
    engine = scripted.ScriptedEngine()
    engine.pause = 0.02
    first = start_app(engine)
    with first.visitor() as visitor:
        chat = visitor.new_chat()
        visitor.begin(chat, content="word " * 500)
        until(lambda: visitor.messages(chat)[1]["content"])
    first.stop()
    with start_app(scripted.ScriptedEngine()).visitor() as visitor:
        answer = visitor.messages(chat)[1]
        assert answer["state"] == "interrupted"
        assert answer["content"].startswith("word ")
        assert answer["usage"]["completion_tokens"] > 0


def test_long_chats_lose_their_beginning_and_say_so(served, visitor):
    chat = visitor.new_chat(title="long")
    served.engine.script = lambda request: [Answer("y" * 1000)]
    render = served.engine.template.render

    def whole(messages, **options):
        prompt = render(messages, **options)
        return Prompt([1] * sum(len(one.content) for one in messages), prompt.text, prompt.channel)

    served.engine.template.render = whole
    for number in range(5):
        answer = visitor.ask(chat, f"{number} " + "x" * 1500)
        if number < 2:
            assert answer["notes"] == []
    assert [note["kind"] for note in answer["notes"]] == ["turns_left_out"]
    sent = served.engine.template.rendered[-1][0]
    assert sent[-1].content.startswith("4 ")
    assert sent[0].role == "user"


def test_it_waits_for_the_model_and_tells_what_it_waits_for(start_app, scripted):
    go = threading.Event()
    engine = scripted.ScriptedEngine()

    def load(progress):
        progress("reading the weights", 0.5)
        go.wait(10)
        return engine

    served = start_app(engine, load=load)
    with served.visitor() as visitor:
        run = visitor.begin(visitor.new_chat(), content="hi")["run"]["id"]
        stages = []
        for _, kind, data in visitor.events(run):
            if kind == "progress":
                stages.append(data["stage"])
                if data["stage"] == "loading" and data.get("text") == "reading the weights":
                    go.set()
    assert stages[0] == "loading"
    assert stages[-1] == "answer"


def test_a_question_and_its_answer_over_one_connection(visitor):
    """The first event is what the POST would have answered; what follows are the run's events, from the first on."""
    asked = {"content": "hello there", "temporary": False}
    events = []
    with visitor.stream("POST", "answers", json=asked, headers={"Accept": "text/event-stream"}) as response:
        assert response.status_code == 200
        kind = ""
        for line in response.iter_lines():
            if line.startswith("event: "):
                kind = line[7:]
            elif line.startswith("data: "):
                events.append((kind, json.loads(line[6:])))
    assert events[0][0] == "begun"
    begun = events[0][1]
    assert [kind for kind, _ in events][-2:] == ["done", "end"]
    chat = visitor.get(f"chats/{begun['chat']['id']}").json()
    assert [message["id"] for message in chat["messages"]] == [begun["user"]["id"], begun["answer"]["id"]]
    said = "".join(data["text"] for kind, data in events if kind == "answer")
    assert chat["messages"][1]["content"] == said != ""
    again = list(visitor.events(begun["run"]["id"]))  # neighbouring pieces may be joined
    assert joined(again, "answer") == said
    assert again[-2][2] == events[-2][1]


def test_a_new_chat_begins_with_a_new_question(visitor):
    chat = visitor.post("answers", json={"content": "hello there", "temporary": True}).json()["chat"]
    assert chat["temporary"]
    question = visitor.messages(chat["id"])[0]["id"]
    for wrong in ({"question": question}, {"continue": question}, {"content": "x", "parent": question}):
        assert visitor.post("answers", json=wrong).status_code == 400

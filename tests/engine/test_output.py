"""Stop strings: never shown, found wherever the text is cut, nothing lost when none comes."""

from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st

from fathom.engine.output import StopStrings

letters = st.text("ab", max_size=12)


def shown(pieces: list[str], stop: list[str]) -> tuple[str, str | None]:
    strings = StopStrings(stop)
    text = ""
    for piece in pieces:
        text += strings.push(piece)
        if strings.found is not None:
            return text, strings.found
    return text + strings.flush(), None


def by_character(text: str, stop: list[str]) -> str:
    """The definition: read on until a stop string is complete, then show what stands before it."""
    for end in range(1, len(text) + 1):
        starts = [end - len(one) for one in stop if text[:end].endswith(one)]
        if starts:
            return text[: min(starts)]
    return text


@given(text=letters, stop=st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3), data=st.data())
@example(text="abab", stop=["abb", "ba"], data=None)
def test_cut_anywhere_the_result_is_that_of_the_definition(text: str, stop: list[str], data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text))))) if data else [1, 2, 3]
    ends = [0, *cuts, len(text)]
    pieces = [text[a:b] for a, b in pairwise(ends)]
    result, found = shown(pieces, stop)
    assert result == by_character(text, stop)
    assert (found is None) == (result == text)


def test_only_what_might_begin_a_stop_string_is_held_back() -> None:
    strings = StopStrings(["END"])
    assert strings.push("the E") == "the "
    assert strings.holds
    assert strings.push("astern EN") == "Eastern "
    assert strings.push("D of it") == ""
    assert strings.found == "END"

"""Near-duplicates: planted ones are found, others are not."""

import random

import pytest

from hone_trainer.data.likeness import MIN_BYTES, Likeness, sign

_SYLLABLES = [a + b for a in "bdfgklmnprstvz" for b in ("a", "e", "i", "o", "u", "an", "er")]


def words(drawing: random.Random, count: int) -> list[str]:
    return ["".join(drawing.choices(_SYLLABLES, k=drawing.randint(1, 4))) for _ in range(count)]


def pieces(text: str) -> set[bytes]:
    data = text.encode()
    return {data[at : at + 8] for at in range(len(data) - 7)}


def similarity(one: str, other: str) -> float:
    ours, theirs = pieces(one), pieces(other)
    return len(ours & theirs) / len(ours | theirs)


def changed(drawing: random.Random, text: list[str], least: float) -> str:
    """With about as many words replaced as leave it so similar, and at least one."""
    places = drawing.sample(range(len(text)), int(len(text) * (1 - least) / 2) + 1)
    while True:
        found = [*text]
        for at in places:
            found[at] = "".join(drawing.choices(_SYLLABLES, k=2))
        if similarity(" ".join(text), " ".join(found)) >= least:
            return " ".join(found)
        del places[-1]


def repeats(threshold: float, texts: list[str]) -> dict[int, int]:
    likeness = Likeness(threshold)
    for key, signature in enumerate(sign([text.encode() for text in texts])):
        likeness.add(key, signature)
    return likeness.repeats()


@pytest.mark.parametrize(("threshold", "least"), [(0.5, 0.65), (0.7, 0.82), (0.9, 0.95)])
def test_of_two_hundred_planted_pairs_nearly_all_are_found_and_nothing_else(
    threshold: float, least: float
) -> None:
    drawing = random.Random(7)
    first = [words(drawing, drawing.randint(60, 200)) for _ in range(200)]
    texts = [" ".join(text) for text in first]
    texts += [changed(drawing, text, least) for text in first]
    # Alike, but less than is asked for: the beginnings of others.
    texts += [" ".join([*text[: len(text) // 3], *words(drawing, len(text))]) for text in first[:100]]
    assert max(similarity(texts[n], texts[400 + n]) for n in range(100)) < 0.3
    found = repeats(threshold, texts)
    planted = {number + 200: number for number in range(200)}
    assert found.items() <= planted.items()
    assert len(found) >= 0.95 * len(planted)


def test_the_first_of_several_is_kept() -> None:
    text = words(random.Random(1), 100)
    near = [" ".join([*text[:number], "another", *text[number + 1 :]]) for number in range(4)]
    other = " ".join(words(random.Random(2), 100))
    assert repeats(0.9, [other, *near, other]) == {2: 1, 3: 1, 4: 1, 5: 0}


def test_texts_of_a_script_without_spaces_are_compared_too() -> None:
    drawing = random.Random(3)
    text = [chr(drawing.randrange(0x4E00, 0x9000)) for _ in range(300)]
    near, other = [*text], [chr(drawing.randrange(0x4E00, 0x9000)) for _ in range(300)]
    near[150] = "芯"
    assert repeats(0.9, ["".join(text), "".join(other), "".join(near)]) == {2: 0}


def test_short_texts_are_left_alone() -> None:
    short = "x" * 30 + "y" * (MIN_BYTES - 31)
    assert len(short) == MIN_BYTES - 1
    assert repeats(0.5, [short, short]) == {}
    assert repeats(0.5, [short + "z", short + "z"]) == {1: 0}


def test_texts_that_share_a_long_beginning_are_told_apart_and_the_copy_is_found() -> None:
    """They share bands by the hundred, and only a few of those are compared."""
    drawing = random.Random(5)
    beginning = " ".join(words(drawing, 60))
    texts = [" ".join([beginning, *words(drawing, 60)]) for _ in range(600)]
    copy = changed(drawing, texts[3].split(" "), 0.95)
    assert repeats(0.8, [*texts, copy]) == {600: 3}


def test_a_text_has_one_signature_whatever_stands_beside_it() -> None:
    texts = [" ".join(words(random.Random(seed), 100)).encode() for seed in range(3)]
    assert sign(texts)[1:] == sign(texts[1:2]) + sign(texts[2:])
    assert sign([b"short", texts[0]]) == [b"", *sign(texts[:1])]


def test_many_texts_are_compared() -> None:
    drawing = random.Random(4)
    tail = " ".join(words(drawing, 100))
    texts = [" ".join(str(drawing.random()) for _ in range(12)) for _ in range(4200)]
    texts[5] = texts[4199] = tail
    assert repeats(0.9, texts) == {4199: 5}


def test_nothing_is_like_anything_where_there_is_nothing() -> None:
    assert repeats(0.9, []) == {}
    assert repeats(0.9, ["", "a"]) == {}

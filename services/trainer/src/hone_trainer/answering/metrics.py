"""Numbers that say how good a model is on given answers."""

import math
from dataclasses import dataclass

from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

# Of the letters of the expected answers, from which on words are not told apart by spaces.
_MUCH_HAN = 0.1


@dataclass(frozen=True)
class Likeness:
    """How like what was said is to what was expected, from 0 to 100 (sacrebleu)."""

    bleu: float
    chrf: float
    bleu_signature: str
    """How sacrebleu computed it: only numbers of one signature can be compared."""
    chrf_signature: str


def likeness(said: list[str], expected: list[str]) -> Likeness:
    """BLEU (https://aclanthology.org/P02-1040) and chrF (https://aclanthology.org/W15-3049) of a corpus.

    Texts with many Chinese characters are compared character by character (sacrebleu's `zh`).
    """
    bleu, chrf = BLEU(tokenize="zh" if _is_chinese(expected) else "13a"), CHRF()
    references = [expected]
    return Likeness(
        bleu.corpus_score(said, references).score,
        chrf.corpus_score(said, references).score,
        str(bleu.get_signature()),
        str(chrf.get_signature()),
    )


def perplexity(loss: float) -> float:
    """exp(loss in nats a token): among how many tokens the model hesitates. Infinite beyond a float."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


def _is_chinese(texts: list[str]) -> bool:
    letters = [letter for text in texts for letter in text if letter.isalpha()]
    han = sum("\u4e00" <= letter <= "\u9fff" or "\u3400" <= letter <= "\u4dbf" for letter in letters)
    return han > _MUCH_HAN * len(letters)

"""Numbers about answers: sacrebleu's own, with its signature."""

import math

import pytest
import sacrebleu

from hone_trainer.answering.metrics import likeness, perplexity

SAID = ["The sky is blue today, I think.", "The grass is red and tall."]
EXPECTED = ["The sky is blue, I think.", "The grass is green and very tall."]
CHINESE = ["微调是指在预训练模型的基础上进一步训练。", "今天天气很好，LoRA 也好。"]


def test_bleu_and_chrf_are_sacrebleus() -> None:
    found = likeness(SAID, EXPECTED)
    assert found.bleu == sacrebleu.corpus_bleu(SAID, [EXPECTED]).score
    assert found.chrf == sacrebleu.corpus_chrf(SAID, [EXPECTED]).score
    assert 0 < found.bleu < 100
    assert found.bleu_signature.startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert found.chrf_signature.startswith("nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:")


def test_chinese_is_compared_by_characters() -> None:
    said = [text.replace("很好", "不错") for text in CHINESE]
    found = likeness(said, CHINESE)
    assert "tok:zh" in found.bleu_signature
    assert found.bleu == sacrebleu.corpus_bleu(said, [CHINESE], tokenize="zh").score > 50
    assert sacrebleu.corpus_bleu(said, [CHINESE]).score < found.bleu
    assert (
        "tok:13a" in likeness(SAID, [*EXPECTED[:1], "He called it 道, the way of all things."]).bleu_signature
    )


def test_the_same_answers_are_as_like_as_can_be() -> None:
    found = likeness(EXPECTED, EXPECTED)
    assert (found.bleu, found.chrf) == (pytest.approx(100), pytest.approx(100))
    assert likeness(["", ""], EXPECTED).bleu == 0


def test_perplexity_is_the_exponential_of_the_loss() -> None:
    assert perplexity(0) == 1
    assert perplexity(math.log(8.56)) == pytest.approx(8.56)
    assert perplexity(1e4) == math.inf

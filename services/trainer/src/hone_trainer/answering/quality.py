"""What the scores of given answers come to, as numbers with names."""

import math
from collections.abc import Sequence

from hone_trainer.answering.metrics import perplexity
from hone_trainer.answering.scoring import Scored, mean_loss, token_accuracy

Numbers = dict[str, float]

SHOWN = {
    "eval_loss": ("eval loss", "{:.4f}"),
    "perplexity": ("perplexity", "{:.3f}"),
    "token_accuracy": ("token accuracy", "{:.1%}"),
    "reward_margin": ("reward margin", "{:.4f}"),
    "reward_accuracy": ("reward accuracy", "{:.1%}"),
    "better_likelier": ("better is likelier", "{:.1%}"),
}
"""How each number is called and written in a table."""


def of_answers(scored: list[Scored]) -> Numbers:
    """Cross-entropy in nats a learned token, e to the power of it, and the share that is likeliest."""
    loss = mean_loss(scored)
    return {"eval_loss": loss, "perplexity": perplexity(loss), "token_accuracy": token_accuracy(scored)}


def of_pairs(scored: list[Scored], base: list[Scored], beta: float) -> Numbers:
    """Of preference pairs, whose answers stand one after another, the better one first; means over pairs.

    The reward of an answer is beta * log(p(answer) / p of the base), the margin what the better one's has
    more, the loss -log sigmoid(margin). `better_likelier` asks no base: p(better) > p(worse).
    """
    sums = [[math.fsum(each.logprobs) for each in side] for side in (scored, base)]
    ratios = [mine - before for mine, before in zip(*sums, strict=True)]
    margins = [beta * difference for difference in _differences(ratios)]
    return {
        "eval_loss": _mean([_softplus(-margin) for margin in margins]),
        "reward_margin": _mean(margins),
        "reward_accuracy": _mean([float(margin > 0) for margin in margins]),
        "better_likelier": _mean([float(difference > 0) for difference in _differences(sums[0])]),
    }


def _differences(values: Sequence[float]) -> list[float]:
    return [better - worse for better, worse in zip(values[::2], values[1::2], strict=True)]


def _softplus(value: float) -> float:
    """log(1 + e^value), where e^value may be beyond a float."""
    return max(value, 0.0) + math.log1p(math.exp(-abs(value)))


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)

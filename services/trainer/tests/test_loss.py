"""The chunked loss and the LoRA layers of training, against PyTorch's and PEFT's own."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from trainer_tiny import tiny_llama

from hone_trainer.training import loss
from hone_trainer.training.lora_layers import speed_up
from hone_trainer.training.loss import summed_loss, token_logprobs

TOKENS, SIZE, VOCABULARY = 37, 12, 50


@pytest.fixture(params=[1, 5, 1000], ids=lambda rows: f"{rows} rows")
def _chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "CHUNK_BYTES", 4 * VOCABULARY * request.param)


@pytest.mark.usefixtures("_chunks")
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("trained", [False, True])
def test_loss_and_gradients_are_those_of_cross_entropy(bias: bool, trained: bool) -> None:
    torch.manual_seed(3)
    head = torch.nn.Linear(SIZE, VOCABULARY, bias=bias).requires_grad_(trained)
    states = torch.randn(TOKENS, SIZE, requires_grad=True)
    labels = torch.randint(0, VOCABULARY, (TOKENS,))
    labels[:10] = -100
    ours = _gradients(lambda: summed_loss(states, head, labels) * 0.5, [states, *head.parameters()])
    theirs = _gradients(
        lambda: 0.5 * F.cross_entropy(head(states[:-1]), labels[1:], reduction="sum"),
        [states, *head.parameters()],
    )
    for one, other in zip(ours, theirs, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.usefixtures("_chunks")
@pytest.mark.parametrize("bias", [False, True])
def test_logprobs_of_tokens_and_their_gradients_are_those_of_a_softmax(bias: bool) -> None:
    torch.manual_seed(3)
    head = torch.nn.Linear(SIZE, VOCABULARY, bias=bias).requires_grad_(False)
    states = torch.randn(TOKENS, SIZE, requires_grad=True)
    labels = torch.randint(0, VOCABULARY, (TOKENS,))
    labels[:10] = -100
    # Some tokens become likelier, others less so.
    factors = torch.randn(TOKENS)
    ours = token_logprobs(states, head, labels)
    theirs = -F.cross_entropy(head(states[:-1]), labels[1:], reduction="none")
    assert not ours[:10].any()
    torch.testing.assert_close(ours[1:], theirs)
    for one, other in zip(
        _gradients(lambda: (token_logprobs(states, head, labels) * factors).sum(), [states]),
        _gradients(
            lambda: -(F.cross_entropy(head(states[:-1]), labels[1:], reduction="none") * factors[1:]).sum(),
            [states],
        ),
        strict=True,
    ):
        assert one is not None and other is not None
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_very_sure_logits_do_not_overflow() -> None:
    head = torch.nn.Linear(2, 3, bias=False)
    head.weight.data = torch.tensor([[3e3, 0.0], [0.0, 3e3], [-3e3, -3e3]])
    total = summed_loss(torch.tensor([[1.0, 0.0], [0.0, 0.0]]), head, torch.tensor([-100, 1]))
    assert float(total) == pytest.approx(3e3)


def test_nothing_learned_is_a_loss_of_nothing_that_can_be_gone_back_through() -> None:
    head = torch.nn.Linear(SIZE, VOCABULARY)
    states = torch.randn(4, SIZE, requires_grad=True)
    total = summed_loss(states, head, torch.full((4,), -100))
    total.backward()
    assert float(total) == 0
    assert states.grad is not None
    assert not states.grad.any()


@pytest.mark.parametrize(
    "options", [{}, {"use_rslora": True}, {"rank_pattern": {"q_proj": 3}, "alpha_pattern": {"v_proj": 5}}]
)
def test_fewer_operations_give_the_layers_of_peft(options: dict[str, Any]) -> None:
    ours, theirs = _adapted(options), _adapted(options)
    assert speed_up(ours) == 2 * 7
    ids = torch.arange(20)[None]
    one = _gradients(lambda: ours(ids, labels=ids).loss, _trained(ours))
    other = _gradients(lambda: theirs(ids, labels=ids).loss, _trained(theirs))
    for left, right in zip(one, other, strict=True):
        torch.testing.assert_close(left, right, atol=1e-5, rtol=1e-4)
    with ours.disable_adapter(), theirs.disable_adapter():
        assert torch.equal(ours(ids).logits, theirs(ids).logits)


@pytest.mark.parametrize(
    "options",
    [{"lora_dropout": 0.1}, {"use_dora": True}, {"lora_bias": True}],
    ids=lambda options: str(options),
)
def test_layers_that_do_more_are_left_as_they_are(options: dict[str, Any]) -> None:
    assert speed_up(_adapted(options)) == 0


def _adapted(options: dict[str, Any]) -> Any:
    model = tiny_llama(64)
    if options.get("lora_bias"):
        for layer in model.modules():
            if isinstance(layer, torch.nn.Linear):
                layer.bias = torch.nn.Parameter(torch.zeros(layer.out_features))
    torch.manual_seed(5)
    adapted = get_peft_model(
        model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", **options)
    )
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    return adapted


def _trained(model: Any) -> list[torch.Tensor]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _gradients(compute: Any, values: list[torch.Tensor]) -> list[torch.Tensor | None]:
    """What is computed, and its gradients."""
    for value in values:
        value.grad = None
    result = compute()
    result.backward()
    return [result.detach(), *(None if value.grad is None else value.grad.clone() for value in values)]


@pytest.mark.parametrize("bias", [False, True])
def test_without_gradients_none_are_made(bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    head = torch.nn.Linear(SIZE, VOCABULARY, bias=bias)
    states, labels = torch.randn(TOKENS, SIZE, requires_grad=True), torch.arange(TOKENS)
    made: list[Any] = []
    add = loss._add
    monkeypatch.setattr(loss, "_add", lambda *given: (made.extend(given[-1]), add(*given))[1])
    with torch.no_grad():
        without = summed_loss(states.detach(), head, labels)
    assert made and not any(each is not None for each in made)
    assert float(without) == pytest.approx(summed_loss(states, head, labels).item())


def test_the_heads_gradient_is_handed_over() -> None:
    head = torch.nn.Linear(SIZE, VOCABULARY, bias=False)
    total = summed_loss(torch.randn(TOKENS, SIZE), head, torch.arange(TOKENS))
    node = total.grad_fn
    total.backward()
    assert node is not None and node.gradients is None  # type: ignore[attr-defined]

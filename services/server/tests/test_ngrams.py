"""No sequence of tokens is said twice: as transformers does it, in both of vLLM's runners.

The batch is vLLM's own for runner V1. Runner V2 needs a GPU: its processor is called here with vLLM's own
dataclasses, and buffers that are tensors on the CPU.
"""

import random
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, SupportsIndex

import numpy as np
import pytest
import torch
from transformers import NoRepeatNGramLogitsProcessor
from vllm import SamplingParams
from vllm.exceptions import VLLMValidationError
from vllm.v1.sample.logits_processor import (
    BatchUpdate,
    LogitsProcessors,
    MoveDirectionality,
    _load_logitsprocs_by_fqcns,
    validate_logits_processors_parameters,
)
from vllm.v1.worker.gpu.sample.logits_processor import (
    LogitsContext,
    LogitsProcRequestState,
    build_custom_logits_processors,
    build_custom_logits_processors_params_validator,
)
from vllm.v1.worker.gpu_input_batch import CachedRequestState, InputBatch

from hone_server.ngrams import V1_PROCESSOR, V2_PROCESSOR, v1, v2
from hone_server.ngrams.index import NGramIndex
from hone_server.ngrams.size import LARGEST, PARAMETER

VOCABULARY = 5
SIZES = range(1, 6)
CPU = torch.device("cpu")


def expected(tokens: list[int], size: int, logits: torch.Tensor) -> torch.Tensor:
    """What transformers makes of one row."""
    if not size or not tokens:
        return logits
    made: torch.Tensor = NoRepeatNGramLogitsProcessor(size)(torch.tensor([tokens]), logits.unsqueeze(0))
    return made[0]


def banned_by_transformers(tokens: list[int], size: int) -> set[int]:
    row = expected(tokens, size, torch.zeros(VOCABULARY))
    return set(row.isneginf().nonzero().flatten().tolist())


def asking(size: int) -> SamplingParams:
    return SamplingParams(extra_args={PARAMETER: size} if size else None, max_tokens=64)


def size_of(request: CachedRequestState) -> int:
    """What `asking` was given."""
    size: int = (request.sampling_params.extra_args or {}).get(PARAMETER, 0)
    return size


def drawn(chance: random.Random, most: int) -> list[int]:
    return [chance.randrange(VOCABULARY) for _ in range(chance.randrange(most + 1))]


@pytest.mark.parametrize("size", SIZES)
def test_the_index_bans_what_transformers_bans_whatever_the_steps(size: int) -> None:
    chance = random.Random(size)
    for _ in range(60):
        index, tokens = NGramIndex(size), []
        for _ in range(12):
            new = drawn(chance, 4)
            index.extend(new)
            tokens += new
            assert set(index.banned()) == banned_by_transformers(tokens, size)


# Runner V1


class Batch:
    """vLLM's batch of runner V1, and for each of its requests what was asked for."""

    def __init__(self) -> None:
        self.processor = v1.NoRepeatNGram(None, CPU, False)
        self.batch = InputBatch(
            max_num_reqs=6,
            max_model_len=64,
            max_num_batched_tokens=64,
            device=CPU,
            vocab_size=VOCABULARY,
            block_sizes=[64],
            max_num_blocks_per_req=[1],
            logitsprocs=LogitsProcessors([self.processor]),
            logitsprocs_need_output_token_ids=True,
        )
        self.requests: dict[str, CachedRequestState] = {}

    def add(self, name: str, size: int, prompt: list[int] | None, output: list[int]) -> None:
        self.requests[name] = CachedRequestState(
            req_id=name,
            prompt_token_ids=prompt,
            prompt_embeds=torch.zeros(3, 1) if prompt is None else None,
            mm_features=[],
            sampling_params=asking(size),
            generator=None,
            block_ids=([0],),
            num_computed_tokens=0,
            output_token_ids=output,
        )
        self.batch.add_request(self.requests[name])

    def remove(self, name: str) -> CachedRequestState:
        self.batch.remove_request(name)
        return self.requests.pop(name)

    def settle(self) -> None:
        self.batch.condense()
        self.batch.refresh_metadata()

    def check(self) -> None:
        """Every row is what transformers makes of it."""
        logits = torch.rand(len(self.batch.req_ids), VOCABULARY)
        made = self.processor.apply(logits.clone())
        for row, name in enumerate(self.batch.req_ids):
            request = self.requests[name]
            size = size_of(request)
            tokens = (request.prompt_token_ids or []) + request.output_token_ids
            assert torch.equal(made[row], expected(tokens, size, logits[row])), (name, tokens, size)


def change(batch: Batch, chance: random.Random, name: str) -> None:
    """Some requests leave, are preempted and come back, or swap rows; one joins."""
    left = [batch.remove(there) for there in list(batch.requests) if chance.random() < 0.15]
    for request in left:
        if chance.random() < 0.5:
            output = list(request.output_token_ids)
            batch.add(request.req_id, size_of(request), request.prompt_token_ids, output)
    if len(batch.requests) < 6 and chance.random() < 0.7:
        batch.add(name, chance.randrange(6), drawn(chance, 9), [])
    batch.batch.condense()
    if len(batch.requests) > 1 and chance.random() < 0.5:
        batch.batch.swap_states(*chance.sample(range(len(batch.requests)), 2))
    batch.batch.refresh_metadata()


@pytest.mark.parametrize("seed", range(12))
def test_v1_is_transformers_in_a_batch_that_changes(seed: int) -> None:
    chance, batch = random.Random(seed), Batch()
    for step in range(30):
        change(batch, chance, f"request {step}")
        batch.check()
        for request in batch.requests.values():
            request.output_token_ids.append(chance.randrange(VOCABULARY))


def test_v1_follows_every_kind_of_move() -> None:
    processor = v1.NoRepeatNGram(None, CPU, False)

    def rows() -> list[set[int]]:
        made = processor.apply(torch.zeros(4, VOCABULARY))
        return [set(row.isneginf().nonzero().flatten().tolist()) for row in made]

    added: list[Any] = [(row, asking(1), [row], []) for row in range(4)]
    processor.update_state(BatchUpdate(batch_size=4, removed=[], added=added, moved=[]))
    assert rows() == [{0}, {1}, {2}, {3}]
    processor.update_state(None)
    swap = [(0, 3, MoveDirectionality.SWAP)]
    processor.update_state(BatchUpdate(batch_size=4, removed=[], added=[], moved=swap))
    assert rows() == [{3}, {1}, {2}, {0}]
    move = [(3, 1, MoveDirectionality.UNIDIRECTIONAL)]
    processor.update_state(BatchUpdate(batch_size=3, removed=[1], added=[], moved=move))
    assert rows() == [{3}, {0}, {2}, set()]
    # One that asks for nothing takes the row of one that did.
    processor.update_state(BatchUpdate(batch_size=3, removed=[], added=[(0, asking(0), [1], [])], moved=[]))
    assert rows() == [set(), {0}, {2}, set()]


def test_v1_takes_a_prompt_of_embeddings_as_no_tokens() -> None:
    batch = Batch()
    batch.add("embedded", 2, None, [1, 2, 1])
    batch.settle()
    batch.check()


def test_v1_leaves_alone_what_the_output_layer_does_not_have() -> None:
    history = v1.History(1, [2, VOCABULARY, VOCABULARY + 7], [])
    processor = v1.NoRepeatNGram(None, CPU, False)
    processor._histories[0] = history
    made = processor.apply(torch.zeros(1, VOCABULARY))
    assert made[0].isneginf().nonzero().flatten().tolist() == [2]


def test_v1_sees_tokens_that_asynchronous_scheduling_puts_in_late() -> None:
    chance, batch = random.Random(0), Batch()
    for size in (0, *SIZES):
        batch.add(f"size {size}", size, drawn(chance, 9), [])
    batch.settle()
    ready = SimpleNamespace(synchronize=lambda: None)
    for _ in range(20):
        batch.batch.update_async_output_token_ids()
        batch.check()
        # What the runner does after it sampled (`_bookkeeping_sync`).
        sampled = torch.tensor([[chance.randrange(VOCABULARY)] for _ in batch.requests])
        batch.batch.prev_req_id_to_index = dict(batch.batch.req_id_to_index)
        for request in batch.requests.values():
            request.output_token_ids.append(-1)
        batch.batch.set_async_sampled_token_ids(sampled, ready)


def test_v1_bans_nothing_wrong_while_the_last_token_is_not_there() -> None:
    output = [1, 2, 1, -1]
    pairs, single = v1.History(2, [], output), v1.History(1, [], output)
    assert not pairs.banned()
    assert set(single.banned()) == {1, 2}
    output[-1:] = [1]
    assert set(pairs.banned()) == {2, 1}
    output.append(2)
    assert set(pairs.banned()) == {1}


@pytest.mark.parametrize("said_anew", [[], [3], [3, 4, 1], [3, 4, 1, 3]])
def test_v1_begins_again_when_the_output_was_cut(said_anew: list[int]) -> None:
    output = [1, 2, 1, 2, 3]
    history = v1.History(2, [4, 1], output)
    history.banned()
    output[2:] = said_anew
    assert set(history.banned()) == banned_by_transformers([4, 1, *output], 2)
    output += [2, 1]
    assert set(history.banned()) == banned_by_transformers([4, 1, *output], 2)


class Counted(list[int]):
    """A list that counts what is read of it."""

    read = 0

    def __getitem__(self, where: Any) -> Any:
        found = super().__getitem__(where)
        self.read += 1 if isinstance(where, SupportsIndex) else len(found)
        return found

    def __iter__(self) -> Iterator[int]:
        self.read += len(self)
        return super().__iter__()


def test_v1_reads_nothing_twice() -> None:
    prompt, output = Counted(range(500)), Counted(range(500))
    history = v1.History(3, prompt, output)
    history.banned()
    assert (prompt.read, output.read) == (500, 500)
    for token in range(50):
        output.append(token)
        before = output.read, history._index.length
        history.banned()
        # The new one, and the newest before it, which tells whether the list was cut.
        assert (output.read - before[0], history._index.length - before[1]) == (2, 1)
    assert prompt.read == 500


# Runner V2


class Slots:
    """Requests in the slots of runner V2, with buffers of vLLM's layout on the CPU."""

    length = 40

    def __init__(self, count: int = 6) -> None:
        self.tokens = torch.full((count, self.length), 3, dtype=torch.int32)
        self.total = torch.zeros(count, dtype=torch.int32)
        self.sizes = [0] * count
        self.processor = v2.NoRepeatNGram(
            SimpleNamespace(speculative_config=None),
            LogitsProcRequestState(
                device=CPU,
                max_num_reqs=count,
                vocab_size=VOCABULARY,
                all_token_ids=SimpleNamespace(gpu=self.tokens),
                prompt_len=None,
                prefill_len=None,
                total_len=SimpleNamespace(gpu=self.total),
            ),
        )

    def add(self, slot: int, size: int, tokens: list[int]) -> None:
        """What was said in the slot before stays behind the new tokens, as it does in vLLM."""
        self.sizes[slot] = size
        self.total[slot] = 0
        for token in tokens:
            self.say(slot, token)
        assert self.processor.add_request(slot, asking(size)) == (size > 0)
        self.processor.apply_staged_writes()

    def say(self, slot: int, token: int) -> None:
        self.tokens[slot, self.total[slot]] = token
        self.total[slot] += 1

    def check(self, slots: list[int], padding: int = 0) -> None:
        """Every row of a step is what transformers makes of it."""
        lengths = self.total[slots]
        mapping = torch.tensor(slots)
        context = LogitsContext(
            expanded_idx_mapping=mapping,
            idx_mapping=mapping,
            idx_mapping_np=np.array(slots),
            expanded_local_pos=torch.zeros(len(slots), dtype=torch.int32),
            input_ids=self.tokens[slots, lengths.long() - 1],
            pos=lengths.long() - 1,
            seq_lens_upper_bound_np=np.array([*lengths.tolist(), *[0] * padding], dtype=np.int32),
        )
        logits = torch.rand(len(slots), VOCABULARY)
        made = self.processor.apply(logits.clone(), context)
        for row, slot in enumerate(slots):
            tokens = self.tokens[slot, : self.total[slot]].tolist()
            assert torch.equal(made[row], expected(tokens, self.sizes[slot], logits[row])), (slot, tokens)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("cells", [1, 1 << 22], ids=["row by row", "together"])
def test_v2_is_transformers_in_slots_that_are_used_again(
    seed: int, cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(v2, "_CELLS", cells)
    chance, slots = random.Random(seed), Slots()
    for slot in range(6):
        slots.add(slot, chance.randrange(6), [0, *drawn(chance, 9)])
    for _ in range(20):
        scheduled = chance.sample(range(6), chance.randrange(1, 7))
        slots.check(scheduled, padding=chance.randrange(3))
        for slot in scheduled:
            if chance.random() < 0.1 or slots.total[slot] == slots.length:
                slots.add(slot, chance.randrange(6), [0, *drawn(chance, 9)])
            else:
                slots.say(slot, chance.randrange(VOCABULARY))


def test_v2_leaves_alone_what_the_output_layer_does_not_have() -> None:
    tokens = torch.tensor([[2, VOCABULARY, VOCABULARY + 7, -1]], dtype=torch.int32)
    banned = v2.forbidden(tokens, torch.tensor([4]), 1, VOCABULARY)
    assert banned[0].nonzero().flatten().tolist() == [2]


def test_v2_survives_positions_that_are_not_there() -> None:
    tokens = torch.ones((2, 4), dtype=torch.int32)
    assert not v2.forbidden(tokens, torch.tensor([0, 1]), 3, VOCABULARY).any()
    v2.forbidden(tokens, torch.tensor([9, -3]), 3, VOCABULARY)


def test_v2_refuses_speculative_decoding() -> None:
    with pytest.raises(ValueError, match="speculative decoding"):
        v2.NoRepeatNGram(SimpleNamespace(speculative_config=object()), None)


# What vLLM loads, and what it refuses


def test_each_runner_loads_the_class_of_its_own_interface() -> None:
    assert _load_logitsprocs_by_fqcns([V1_PROCESSOR]) == [v1.NoRepeatNGram]
    # The buffers of the runner, by the names that vLLM reads them with.
    buffers = dict.fromkeys(
        ("device", "vocab_size", "all_token_ids", "prompt_len", "prefill_len", "total_len")
    )
    state, config = SimpleNamespace(max_num_reqs=2, **buffers), SimpleNamespace(speculative_config=None)
    [made] = build_custom_logits_processors(config, state, False, [V2_PROCESSOR])
    assert isinstance(made, v2.NoRepeatNGram)


@pytest.mark.parametrize(
    "given",
    [True, False, None, -1, LARGEST + 1, 2.0, "3", [3], "3" * 5000],
    ids=lambda given: repr(given)[:9],
)
def test_what_is_no_size_is_refused_when_the_request_comes_in(given: object) -> None:
    params = SamplingParams(extra_args={PARAMETER: given})
    for_v2 = build_custom_logits_processors_params_validator([V2_PROCESSOR])
    with pytest.raises(VLLMValidationError, match=f"{PARAMETER} .* is no whole number from 0 to {LARGEST}"):
        validate_logits_processors_parameters([V1_PROCESSOR], params)
    with pytest.raises(VLLMValidationError) as refusal:
        for_v2(params)
    assert len(str(refusal.value)) < 200


@pytest.mark.parametrize("extra_args", [None, {}, {"other": "x"}, {PARAMETER: 0}, {PARAMETER: LARGEST}])
def test_other_requests_pass(extra_args: dict[str, object] | None) -> None:
    params = SamplingParams(extra_args=extra_args)
    validate_logits_processors_parameters([V1_PROCESSOR], params)
    build_custom_logits_processors_params_validator([V2_PROCESSOR])(params)


def test_the_names_are_known_before_anything_heavy_is_imported() -> None:
    code = "import sys, hone_server.ngrams; print([m for m in ('torch', 'vllm') if m in sys.modules])"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert finished.stdout == "[]\n"

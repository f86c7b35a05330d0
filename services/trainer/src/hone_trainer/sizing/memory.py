"""What a training holds in memory, part by part, from the sizes of its base.

Each part is counted. Two numbers are measured: what a process holds besides its model, and how much of a
CPU's heap lies between the parts.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from hone_contract.run_spec import Method
from hone_trainer.sizing.shapes import Linear, Shapes
from hone_trainer.sizing.trainable import Trainable
from hone_trainer.training.loss import CHUNK_BYTES

# Layers of one decoder layer that are given the same tensor.
_SAME_INPUT = ({"q_proj", "k_proj", "v_proj"}, {"gate_proj", "up_proj"}, {"w1", "w3"})
# Layers whose output goes through an activation function and is then multiplied.
_ACTIVATED = {"gate_proj", "w1"}
# Layers that take what attention gives.
_AFTER_ATTENTION = {"o_proj", "out_proj", "dense"}

# NF4: half a byte a parameter, a scale in 8 bits for each 64 of them, and a scale of 4 bytes for each 256 of
# those (https://arxiv.org/abs/2305.14314, section 3).
_NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)

# What a process holds before it has a model: on a CPU, Python with its libraries, as measured; on a GPU, the
# CUDA context and the workspaces of its libraries.
_PROCESS_CPU = 600_000_000
_PROCESS_GPU = 900_000_000

# A CPU's heap comes to be full of holes between what waits for the backward pass; measured over runs of
# records of many lengths: holes of 0.4 to 0.9 of that.
_HOLES = 0.6

# Weights that are trained, their gradients and each of AdamW's two averages are float32.
_FLOAT32 = 4


@dataclass(frozen=True)
class Setting:
    """How a run is computed, as far as its memory depends on it."""

    method: Method
    on_gpu: bool
    number: int
    """Bytes of a number of the forward pass."""
    tokens: int
    """Tokens of the largest forward pass."""
    checkpointing: bool = False
    """Whether activations are computed again in the backward pass."""
    eight_bit: bool = False
    """Whether AdamW keeps its state in 8 bits."""
    dropout: bool = False
    """Whether the adapters' inputs are dropped now and then."""
    dora: bool = False

    @property
    def copies_inputs(self) -> bool:
        """Whether each layer keeps an input of its own: a dropped one, or one made 16 bits wide for it."""
        return self.dropout or self.mixed

    @property
    def mixed(self) -> bool:
        """Whether the forward pass is in 16 bits, and what is trained and norms in 32 (autocast)."""
        return self.number < _FLOAT32


@dataclass(frozen=True)
class Memory:
    """Bytes, by what they are for."""

    weights: int
    """The base and its adapters."""
    gradients: int
    optimizer: int
    """AdamW's two averages."""
    activations: int
    """What the forward pass keeps for the backward pass, and what that holds on its way."""
    logits: int
    """The loss, a chunk of tokens at a time."""
    process: int
    """Python, its libraries, the GPU's context."""

    @property
    def total(self) -> int:
        return self.shardable + self.activations + self.logits + self.process

    @property
    def shardable(self) -> int:
        """What FSDP spreads over GPUs."""
        return self.weights + self.gradients + self.optimizer

    def spread(self, processes: int) -> "Memory":
        """Of each of so many processes that share it out (`training.sharding: full`)."""
        return replace(
            self,
            weights=self.weights // processes,
            gradients=self.gradients // processes,
            optimizer=self.optimizer // processes,
        )


def memory(shapes: Shapes, trainable: Trainable, setting: Setting) -> Memory:
    """What a training of `trainable` on the base of these shapes takes at its most."""
    return Memory(
        weights=_weights(shapes, trainable, setting),
        gradients=_FLOAT32 * trainable.count,
        optimizer=(2 if setting.eight_bit else 2 * _FLOAT32) * trainable.count,
        activations=round(_activations(shapes, trainable, setting)),
        logits=_loss(shapes, setting),
        process=_PROCESS_GPU if setting.on_gpu else _PROCESS_CPU,
    )


def _weights(shapes: Shapes, trainable: Trainable, setting: Setting) -> int:
    """Those that are trained are in float32; autocast makes a copy for each pass of those that multiply."""
    linears = sum(each.size for each in shapes.linears)
    multiplied = linears if setting.method == "full" else trainable.count
    trained = _FLOAT32 * trainable.count + (setting.number * multiplied if setting.mixed else 0)
    if setting.method == "full":
        return trained
    quantised = linears if setting.method == "qlora" else 0
    return trained + round(_NF4 * quantised) + setting.number * (shapes.parameters - quantised)


def _loss(shapes: Shapes, setting: Setting) -> int:
    """A chunk of logits, the states that the head is given, their gradient, and the head's if it learns."""
    chunk = min(CHUNK_BYTES, _FLOAT32 * shapes.vocabulary * setting.tokens)
    states = 2 * setting.number * shapes.hidden * setting.tokens
    head = setting.number * shapes.vocabulary * shapes.hidden if setting.method == "full" else 0
    return chunk + states + head


def _activations(shapes: Shapes, trainable: Trainable, setting: Setting) -> float:
    """Bytes that wait for the backward pass, and three times what the widest layer gives, on its way.

    With checkpointing the input of every decoder layer waits, and all that one layer keeps. Weights in 4 bits
    are made numbers again one layer at a time. On a CPU the holes of the heap count here.
    """
    blocks: dict[str, list[Linear]] = {}
    for each in shapes.linears:
        blocks.setdefault(each.block, []).append(each)
    kept = [
        setting.tokens * numbers_kept(block, trainable.adapted, shapes, setting)
        + (numbers_of_dora(block, trainable.adapted) if setting.dora else 0)
        for block in blocks.values()
    ]
    inputs = len(blocks) * shapes.hidden * setting.tokens
    held = inputs + max(kept, default=0) if setting.checkpointing else sum(kept)
    passing = 3 * max((each.outputs for each in shapes.linears), default=0) * setting.tokens
    if setting.method == "qlora":
        passing += max((each.size for each in shapes.linears), default=0)
    return setting.number * (held + passing) * (1 if setting.on_gpu else 1 + _HOLES)


def numbers_kept(block: list[Linear], adapted: Mapping[str, int], shapes: Shapes, setting: Setting) -> float:
    """How many numbers autograd keeps of one decoder layer for each token.

    They follow from its linear layers, since all that lies between them makes what one takes of what others
    gave:

    - of each linear layer, the output: that of q and k once it is rotated, that of o and down once it is
      added to the residual stream, where the next norm keeps it, that of v, gate and up as it is;
    - silu(gate), for the product with up, and what attention gives for each record;
    - of each that is adapted or trained, the input: the outputs of the norms, the records' attention side by
      side, that product. Layers with the same input keep it once, unless each makes a copy; dropout keeps a
      mask besides;
    - of each adapter, what A makes, which has its rank; with DoRA, what base and adapter give by themselves;
    - what the norms have normalised, when they are trained as well. Where the rest is in 16 bits they are
      not: what they are given and have normalised counts twice.

    Attention keeps besides one number a head and no scores, and a norm one number; they are left out.
    """

    def seen(layer: Linear) -> float:
        return shapes.routed if layer.is_expert else 1.0

    given = sum(seen(each) * each.outputs * (2 if each.short in _ACTIVATED else 1) for each in block)
    given += sum(each.inputs for each in block if each.short in _AFTER_ATTENTION)
    trained = [each for each in block if each.name in adapted]
    taken = {_input(each, setting): seen(each) * each.inputs for each in trained}
    made = sum(adapted[each.name] + (2 * each.outputs if setting.dora else 0) for each in trained)
    wide = _FLOAT32 // setting.number
    norms = wide - 1 + (wide if setting.method == "full" else 0)
    return given + sum(taken.values()) * (2 if setting.dropout else 1) + made + 2 * norms * shapes.hidden


def _input(layer: Linear, setting: Setting) -> str:
    """A name for the tensor that a layer is given."""
    parent, _, short = layer.name.rpartition(".")
    shared = next((index for index, names in enumerate(_SAME_INPUT) if short in names), None)
    return layer.name if shared is None or setting.copies_inputs else f"{parent}.{shared}"


def numbers_of_dora(block: list[Linear], adapted: Mapping[str, int]) -> int:
    """How many numbers DoRA keeps of one decoder layer, however many tokens there are.

    PEFT finds B A as what the adapter makes of an identity matrix, and keeps that (inputs × inputs), what A
    makes of it, and three numbers for each output.
    """
    trained = [each for each in block if each.name in adapted]
    return sum(each.inputs * (each.inputs + adapted[each.name]) + 3 * each.outputs for each in trained)

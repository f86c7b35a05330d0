"""What is added to vLLM's worker, which holds the model: taking over the weights of another version.

vLLM mixes the class into its own (`--worker-extension-cls`), in the engine's process.
"""

from typing import TYPE_CHECKING, Any

from vllm.platforms import current_platform

if TYPE_CHECKING:
    from vllm.v1.worker.gpu_worker import Worker
else:
    Worker = object


class Reload(Worker):  # type: ignore[misc]
    """Called by `collective_rpc`, by name, in every worker."""

    def hone_reload(self, path: str) -> None:
        """Take over the weights of a folder whose tensors are, by name and shape, those that are there.

        Whoever calls it has seen to that: vLLM only warns of a tensor that it did not find. After an
        exception the model may be on the meta device: nothing must run before another reload.
        """
        self.reload_weights(weights_path=path)
        if current_platform.is_cpu():
            _repack_head(self.get_model())


def _repack_head(model: Any) -> None:
    """vLLM packs the output head for CPUs, and does not again where it is tied to the embeddings.

    (vllm/model_executor/layers/vocab_parallel_embedding.py; seen with 0.32.)
    """
    head = getattr(model, "lm_head", None)
    # Beside adapters the head is inside a layer of theirs.
    head = getattr(head, "base_layer", head)
    if head is not None and hasattr(head, "quant_method"):
        head.quant_method.process_weights_after_loading(head)

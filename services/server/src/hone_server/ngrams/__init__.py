"""`no_repeat_ngram_size`, asked for by request: no sequence of that many tokens occurs twice.

The prompt counts, as it does for transformers' NoRepeatNGramLogitsProcessor (transformers 5.19,
generation/logits_process.py), whose results these are. A request asks by
`"vllm_xargs": {"no_repeat_ngram_size": 3}`, which vLLM hands on as `SamplingParams.extra_args`.

vLLM 0.32 has two runners, and each takes only processors of its own interface: V2 is the default on a GPU,
V1 runs where Triton is missing, as on a CPU (`VllmConfig.use_v2_model_runner`, vllm/config/vllm.py). The
names below are for `--logits-processors`.

size    what a request asked for
index   what may not follow, for one request and token by token
v1      the processor for runner V1
v2      the processor for runner V2; never run by us on a GPU

Not an entry point of the group `vllm.logits_processors`: both runners read it, and each fails at a class of
the other; and V1 does not repair the placeholders of asynchronous scheduling for processors found there.
The command line needs the names before vLLM is imported: nothing is imported here.
"""

V1_PROCESSOR = "hone_server.ngrams.v1:NoRepeatNGram"
V2_PROCESSOR = "hone_server.ngrams.v2:NoRepeatNGram"

"""What `/metrics` tells; names and units follow Prometheus' own (https://prometheus.io/docs/practices/naming)."""

from prometheus_client import Counter, Gauge, Histogram

REQUESTS = Counter("hone_api_requests_total", "Requests answered", ["route", "method", "status"])
SECONDS = Histogram(
    "hone_api_request_seconds",
    "From a request's head to the last byte of its answer",
    ["route"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
)
RECEIVED = Counter("hone_api_received_bytes_total", "Bytes of bodies that came", ["route"])
JOBS = Gauge("hone_api_jobs", "Fine-tuning jobs", ["status"])
QUEUE_SECONDS = Gauge("hone_api_queue_seconds", "Age of the oldest job that waits for a slot; 0: none waits")
LAG_SECONDS = Gauge("hone_api_reconcile_lag_seconds", "Seconds since the reconcile loop was last through")
FILE_BYTES = Gauge("hone_api_file_bytes", "Bytes of all files that projects have")
_USED_BY = ["key", "model"]
MODEL_REQUESTS = Counter("hone_api_model_requests_total", "Requests that a model answered", _USED_BY)
PROMPT_TOKENS = Counter("hone_api_prompt_tokens_total", "Tokens of their prompts", _USED_BY)
COMPLETION_TOKENS = Counter("hone_api_completion_tokens_total", "Tokens of their answers", _USED_BY)
SERVER_REQUESTS = Gauge("hone_api_server_requests", "Requests that are with a server", ["server"])
HELD = Gauge("hone_api_held_requests", "Requests that wait for a server that is not there", ["server"])
WEBHOOK_ATTEMPTS = Counter(
    "hone_api_webhook_attempts_total",
    "Attempts to deliver; delivered, failed (tried again), given_up, gone (the webhook is disabled)",
    ["result"],
)
WEBHOOKS_PENDING = Gauge("hone_api_webhooks_pending", "Deliveries that have not arrived and are not given up")
WEBHOOK_OLDEST_SECONDS = Gauge(
    "hone_api_webhook_oldest_seconds", "Age of the oldest of those; 0: there is none"
)

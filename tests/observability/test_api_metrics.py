"""The api has samples of all that rules and dashboards name of it, after a job, a chat and a webhook."""

from pathlib import Path
from typing import Any

import httpx
import pytest
from api_process import examples, running_api, upload, wait_for
from api_receiver import receiving
from api_upstream import stand_in
from prometheus_client.parser import text_string_to_metric_families
from watching import named_metrics

pytestmark = pytest.mark.chain

HOOKS = {"allow_http": True, "allow_loopback": True}


def test_every_metric_of_the_api_that_is_named_has_samples(tmp_path: Path) -> None:
    with stand_in("stand-in-base") as server, receiving() as receiver:
        held = {"url": server.url, "base": "stand-in-base", "hold_seconds": 60}
        with running_api(tmp_path, servers=[held], webhooks=HOOKS) as api:
            api.command("webhooks", "create", "--url", receiver.url)
            client = api.client()
            messages: Any = [{"role": "user", "content": "Count"}]
            client.chat.completions.create(model="stand-in", messages=messages)
            file_id = upload(client, examples("steps=400 pace=0.1"))
            job = client.fine_tuning.jobs.create(model="stand-in", training_file=file_id)
            client.fine_tuning.jobs.cancel(job.id)
            named = {name for name in named_metrics() if name.startswith("hone_api_")}
            # Without a key, as Prometheus asks.
            wait_for(lambda: named <= _samples(httpx.get(f"{api.url}/metrics").text), f"{named}")


def _samples(told: str) -> set[str]:
    return {sample.name for family in text_string_to_metric_families(told) for sample in family.samples}

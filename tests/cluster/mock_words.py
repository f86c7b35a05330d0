"""What goes wrong in the mock's cluster, and what its pods say."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field

from drill_plan import ROOT
from kubectl import Object
from score import load_facts

FACTS = load_facts(ROOT / "examples" / "hone-faq" / "facts.yaml")


@dataclass
class Troubles:
    """What goes wrong; nothing, as it stands."""

    missing_image: str = ""
    """Part of the name of an image that no node has."""
    claim_pends: bool = False
    gpus_taken: bool = False
    exit_codes: dict[str, tuple[int, str]] = field(default_factory=dict)
    """By Job: with what its pod ends, and its last words."""
    failed_requests: int = 0
    """Of those during the swap."""
    refuses_versions: bool = False
    forgets_checkpoints: bool = False
    stream_ends: Object = field(default_factory=lambda: {"done": True, "finish": "length", "error": ""})
    """How the answer ends whose server is deleted."""
    knows_nothing: bool = False
    """The model answers as if it had learned nothing."""
    namespace_stays: bool = False
    gives_up: bool = False
    """The api's job fails when its run is taken away."""
    begins_twice: bool = False
    """An api that is begun anew knows of no run."""
    keeps_cancelled: bool = False
    """What trains goes on when its job was cancelled."""
    makes_no_server: bool = False
    """The api has no template for servers of merged models."""
    keeps_server: bool = False
    """That of a merged model stays when the model was deleted."""


def words_of(pod: Object, troubles: Troubles, before: str, served: str) -> str:
    """Its log. `before` is the version that was served when it began."""
    name, words = pod["metadata"]["name"], str(pod["spec"]["containers"][0])
    if pod["status"]["phase"] == "Pending":
        return ""
    over = pod["status"]["phase"] == "Succeeded"
    if "load" in name:
        return "".join(_load(over, troubles, before, served))
    if "stream" in name:
        return "".join(_stream(over, troubles))
    if "interrupted" in name or "ftjob" in name:
        first = name.endswith("-1") if "interrupted" in name else "-1-train" in name
        return "".join(_interrupted(first, troubles))
    (fact,) = (fact for fact in FACTS if fact.questions[0] in words)
    return "I am a model.\n" if troubles.knows_nothing else f"{fact.answer}\n"


def _load(over: bool, troubles: Troubles, before: str, served: str) -> Iterator[str]:
    yield line("asking", version=before)
    if over:
        failed = troubles.failed_requests
        told = {"asked": 41, "failed": failed, "failures": ["HTTPError: 503"] * failed}
        yield line("asked", before=before, after=served, slowest=3.1, **told)


def _stream(over: bool, troubles: Troubles) -> Iterator[str]:
    yield line("streaming")
    if over:
        yield line("streamed", pieces=160, seconds=11.8, **troubles.stream_ends)


def _interrupted(first: bool, troubles: Troubles) -> Iterator[str]:
    if not first and not troubles.forgets_checkpoints:
        yield line("resumed", data={"step": 10})
    yield line("training_started", data={})
    yield line("checkpoint_saved", data={"step": 5 if first else 15})


def line(event: str, **told: object) -> str:
    return json.dumps({"event": event, **told}) + "\n"

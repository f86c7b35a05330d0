"""Proves that what the engine serves now is a certain model."""

from hone_contract.artifact import Artifact
from hone_contract.probes import read_probes
from hone_server.apart import apart
from hone_server.current import Serving
from hone_server.gate import Verdict, judge, other_files
from hone_server.metrics import record_verdict
from hone_server.replay import replay


async def prove(serving: Serving, model: Artifact) -> Verdict:
    """Compare what is served with the model's probes. Raises HoneError when the engine does not answer."""
    recorded = await apart(lambda: read_probes(model.path))
    if changed := await apart(lambda: other_files(recorded, model.path)):
        return Verdict(False, changed, serving.dtype, len(recorded.probes))
    return judge(recorded.probes, await replay(serving.app, serving.name, recorded.probes), serving.dtype)


def is_acceptable(serving: Serving, verdict: Verdict) -> bool:
    """Tells the verdict, and whether the model may be served with it."""
    record_verdict(verdict)
    tell, numbers = serving.reporter.tell, verdict.to_json()
    if verdict.passed:
        # A base without an adapter was compared with nothing.
        delta = verdict.max_abs_delta
        shown = "" if delta is None else f" (max |Δ logprob| {delta:.1e})"
        tell("gate_passed", f"gate: {verdict.reason}{shown}", verdict=numbers)
        return True
    if serving.settings.gate == "warn":
        tell("gate_failed", f"gate: {verdict.reason}; served all the same", level="warning", verdict=numbers)
        return True
    tell("gate_refused", f"gate: {verdict.reason}", level="error", verdict=numbers)
    return False

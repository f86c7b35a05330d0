"""`hone-merger merge`: fuse or take over, write, read back what was written, prove it, seal."""

import importlib.metadata
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

from hone_contract.artifact import Artifact, draft, flush, held, open_artifact, seal, write_atomically
from hone_contract.errors import BadInput
from hone_contract.events import Reporter
from hone_contract.model_files import TOKENIZER_FILES
from hone_contract.probes import FILE_NAME as PROBES
from hone_contract.probes import Probes, mean_delta, read_probes, write_probes
from hone_contract.progress import Progress
from hone_contract.store import Store
from hone_merger.card import FILE_NAME as CARD
from hone_merger.card import model_card
from hone_merger.content import Content, plan_content
from hone_merger.fusing.shards import drop_notes, forget
from hone_merger.plan import TOOLS, Plan
from hone_merger.report import write_report
from hone_merger.room import TO_MERGE, check_room, standing
from hone_merger.streaming import score_all, streamed

# Configurations, report, card and manifest, each of which is some kilobytes.
_SMALL_FILES = 10**6


def merge(plan: Plan, store: Store, reporter: Reporter) -> Artifact:
    """Write the tuned model as `models/<name>/<version>` and seal it.

    Whether adapter and base fit is found before anything is written; whether a byte of the base has changed,
    and whether the result is right, before it is sealed. A merge that was killed goes on where it ended when
    it is called again, and ends with the same bytes.
    Raises ArtifactCorrupt when a byte of the base has changed, BadInput when the tuned model does not fit its
    base, or the written model is not nearer to the tuned than to the base; RetryableFailure when the disk has
    no room, OSError when the room is gone before the end.
    """
    start = time.monotonic()
    reporter.tell("merging", _intention(plan))
    target = store.model(plan.name, plan.version)
    with ExitStack() as stack:
        for source in (plan.base, plan.tuned):
            stack.enter_context(held(source.path))
        content = plan_content(plan, reporter)
        _check_room(target, content.room + _beside_weights(plan))
        identity = {**plan.identity, **content.measured}
        partial = stack.enter_context(draft(target, identity, keep=content.goes_on))
        with Progress("merging", "B", content.size, reporter) as progress:
            digests = content.write(partial, progress.advance)
        copy_tokenizer(plan.tuned.path, partial)
        seconds = time.monotonic() - start
        with _flushed([partial / name for name in digests]):
            metrics = {"seconds": seconds, **_describe(partial, plan, content, store)}
        drop_notes(partial)
        model = seal(
            partial,
            "model",
            f"{plan.name}/{plan.version}",
            lineage=plan.lineage,
            tools={name: importlib.metadata.version(name) for name in TOOLS},
            metrics=metrics,
            digests=digests,
        )
    reporter.tell("merged", f"model {model.manifest.id} in {metrics['seconds']:.0f} s", metrics={**metrics})
    return model


def _describe(folder: Path, plan: Plan, content: Content, store: Store) -> dict[str, float]:
    """Prove what was written, and add probes, report and card; the metrics of it."""
    start = time.monotonic()
    checked = content.check(folder)
    open_artifact(plan.base.path, "base", digests=True)
    verified = time.monotonic()
    probes = _prove(folder, read_probes(plan.tuned.path), content)
    proven = time.monotonic()
    write_probes(folder, probes)
    distances = _distances(probes, content)
    write_report(plan, checked, distances, folder)
    write_atomically(folder / CARD, model_card(plan, store, distances))
    return {**distances, "verify_seconds": verified - start, "probe_seconds": proven - verified}


def _intention(plan: Plan) -> str:
    tuned, base = plan.tuned.manifest.id, plan.base.manifest.id
    if plan.kind == "weights":
        return f"taking over {tuned}, trained from {base}"
    return f"fusing {tuned} into {base}"


def _check_room(target: Path, size: int) -> None:
    """What a killed merge left there already counts as room: it is used again, or goes."""
    left = sum(
        path.stat().st_size for path in target.parent.glob(f"{target.name}.partial-*/*") if path.is_file()
    )
    check_room(standing(target), size, "the model", TO_MERGE, left=left)


def _beside_weights(plan: Plan) -> int:
    """Bytes, at most. One more model's logprobs are less than all that the probes hold."""
    sizes = {entry.path: entry.size for entry in plan.tuned.manifest.files}
    return sum(sizes.get(name, 0) for name in TOKENIZER_FILES) + 2 * sizes.get(PROBES, 0) + _SMALL_FILES


@contextmanager
def _flushed(files: list[Path]) -> Iterator[None]:
    """The disk takes them during the body; `seal` would only begin to wait for it."""
    with ThreadPoolExecutor(1) as pool:
        flushing = {file: pool.submit(flush, file) for file in files}
        try:
            yield
        finally:
            for file in (file for file, done in flushing.items() if done.exception() is not None):
                # The kernel tells it once, so the file must not be gone on with.
                forget(file)
        for done in flushing.values():
            done.result()


def copy_tokenizer(source: Path, target: Path) -> None:
    """Byte for byte: text must become the same tokens in the server as in the trainer."""
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def _prove(folder: Path, probes: Probes, content: Content) -> Probes:
    """Add what the model as written makes of the probes, in float32."""
    result = probes.scored("merged", score_all(streamed(folder), probes.texts))
    distances = _distances(result, content)
    # Two bases that differ are apart by themselves, so what the tuning changed is a measure too.
    effect = mean_delta([probe.adapter for probe in probes.probes], [probe.base for probe in probes.probes])
    if not distances["mean_delta_from_adapter"] < min(distances["mean_delta_from_base"], effect):
        raise BadInput(
            "the merged model is not the tuned model: its logprobs are "
            f"{distances['mean_delta_from_adapter']:.4f} away from the tuned model's and "
            f"{distances['mean_delta_from_base']:.4f} from the base's, which the tuning changed by "
            f"{effect:.4f}; nothing was published"
        )
    return result


def _distances(probes: Probes, content: Content) -> dict[str, float]:
    """Mean |difference| of logprobs over all continuation tokens.

    The tuned model goes by the name of adapter, whatever made it, as in the probes; its base is in 4 bits
    where the model is made from that.
    """
    merged = [probe.merged or [] for probe in probes.probes]
    expected = [content.expected(probe) for probe in probes.probes]
    return {
        "mean_delta_from_adapter": mean_delta(merged, expected),
        "mean_delta_from_base": mean_delta(merged, [probe.base for probe in probes.probes]),
    }

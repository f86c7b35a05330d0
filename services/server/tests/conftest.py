"""A published model small enough to verify, too small to serve."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from server_samples import Notes, make_keys, make_probe, make_settings

from hone_contract.artifact import Artifact, draft, seal
from hone_contract.manifest import Source
from hone_contract.probes import Probes, write_probes
from hone_contract.store import Store
from hone_server.current import Serving, set_current
from hone_server.gate import Verdict
from hone_server.record import Memory


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def published(store: Store) -> Artifact:
    """Model `faq`, version `v1`, sealed and live."""
    with draft(store.model("faq", "v1"), "test") as partial:
        (partial / "model.safetensors").write_bytes(b"\0" * 4096)
        (partial / "chat_template.jinja").write_text("{{ messages }}")
        write_probes(
            partial, Probes(tokenizer_sha256="0" * 64, chat_template_sha256="0" * 64, probes=[make_probe()])
        )
        model = seal(partial, "model", "faq/v1", lineage={"adapter": Source(id="faq-0123456789")})
    store.point_live("faq", "v1")
    return model


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture
def serving(store: Store, published: Artifact, notes: Notes) -> Iterator[Serving]:
    """The process's current server, with two keys."""
    settings = make_settings(store, keys=make_keys("first-key, second:second-key"))
    memory = Memory(settings.state / "faq.json", notes)
    serving = Serving(settings, "faq", published, lobby=None, reporter=notes, memory=memory)  # type: ignore[arg-type]
    serving.verdict = Verdict(True, "proven", "float32", 1)
    set_current(serving)
    yield serving

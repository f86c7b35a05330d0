"""Where things lie, which names are let in, and what `live` may say."""

from collections.abc import Callable
from pathlib import Path

import pytest

from hone_contract.artifact import Artifact, draft
from hone_contract.errors import (
    ArtifactCorrupt,
    ArtifactIncomplete,
    ArtifactMissing,
    BadConfiguration,
    BadInput,
)
from hone_contract.manifest import Kind
from hone_contract.store import Store

Seal = Callable[[Path, Kind], Artifact]

BAD_NAMES = [
    "",
    ".",
    "..",
    "../up",
    "a/../../up",
    "a/b",
    "/etc",
    "a\\b",
    ".hidden",
    "-rf",
    "_x",
    "a b",
    "a\n",
    "a\0",
    "ä",
    "x" * 129,
    "a.partial-0123456789ab",
]


PLACES = [
    "dataset",
    "run",
    "checkpoint",
    "adapter",
    "weights",
    "tokens",
    "live",
    "model name",
    "model version",
]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_every_kind_has_its_folder(store: Store) -> None:
    places = [
        store.base("tiny"),
        store.dataset("faq-1a2b"),
        store.run("faq-0123456789"),
        store.checkpoint("faq-0123456789", 40),
        store.adapter("faq-0123456789"),
        store.weights("faq-0123456789"),
        store.tokens("0" * 64),
        store.model("faq", "v1"),
        store.live("faq"),
    ]
    assert [str(place.relative_to(store.root)) for place in places] == [
        "bases/tiny",
        "datasets/faq-1a2b",
        "runs/faq-0123456789",
        "runs/faq-0123456789/checkpoints/step-40",
        "adapters/faq-0123456789",
        "weights/faq-0123456789",
        f"cache/tokens/{'0' * 64}",
        "models/faq/v1",
        "models/faq/live",
    ]


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("Qwen/Qwen2.5-1.5B-Instruct", "Qwen--Qwen2.5-1.5B-Instruct"),
        ("demo:smollm2-135m-instruct", "demo--smollm2-135m-instruct"),
        ("x" * 128, "x" * 128),
    ],
)
def test_a_base_lies_in_one_folder_whatever_its_name(store: Store, name: str, folder: str) -> None:
    assert store.base(name) == store.root / "bases" / folder


@pytest.mark.parametrize("name", BAD_NAMES)
@pytest.mark.parametrize("place", PLACES)
def test_a_name_that_could_leave_the_store_is_refused(store: Store, place: str, name: str) -> None:
    calls: dict[str, Callable[[str], Path]] = {
        "dataset": store.dataset,
        "run": store.run,
        "checkpoint": lambda name: store.checkpoint(name, 1),
        "adapter": store.adapter,
        "weights": store.weights,
        "tokens": store.tokens,
        "live": store.live,
        "model name": lambda name: store.model(name, "v1"),
        "model version": lambda version: store.model("faq", version),
    }
    with pytest.raises(BadConfiguration, match="is no name for the store: letters, digits"):
        calls[place](name)


@pytest.mark.parametrize("name", [name for name in BAD_NAMES if name not in ("a/../../up", "a/b")])
def test_a_base_name_that_could_leave_the_store_is_refused(store: Store, name: str) -> None:
    with pytest.raises(BadConfiguration, match="is no name for the store"):
        store.base(name)


@pytest.mark.parametrize("name", ["a/../../up", "Qwen/..", "demo:../../x"])
def test_a_base_name_with_dots_in_it_stays_in_the_store(store: Store, name: str) -> None:
    assert store.base(name).resolve().parent == (store.root / "bases").resolve()


def test_no_version_can_take_the_place_of_the_live_file(store: Store) -> None:
    with pytest.raises(BadConfiguration, match="'live' is no version"):
        store.model("faq", "live")


def test_the_environment_names_the_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HONE_STORE", "~/artifacts")
    assert Store.from_environment() == Store(tmp_path / "artifacts")


@pytest.mark.parametrize("value", [None, ""])
def test_without_a_name_the_store_is_here(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    if value is None:
        monkeypatch.delenv("HONE_STORE", raising=False)
    else:
        monkeypatch.setenv("HONE_STORE", value)
    assert Store.from_environment() == Store(Path("store"))


def test_nothing_is_live_before_something_is_published(store: Store, seal_small: Seal) -> None:
    assert store.read_live("faq") is None
    seal_small(store.model("faq", "v1"), "model")
    assert store.read_live("faq") is None
    assert store.published() == []


def test_the_last_published_version_is_live(store: Store, seal_small: Seal) -> None:
    for version in ("v1", "v2"):
        seal_small(store.model("faq", version), "model")
        store.point_live("faq", version)
        assert store.read_live("faq") == version
        assert store.live("faq").read_text() == f"{version}\n"
    seal_small(store.model("another", "v1"), "model")
    store.point_live("another", "v1")
    assert store.published() == ["another", "faq"]
    assert store.read_live("faq") == "v2"


def test_only_a_sealed_model_is_published(store: Store, seal_small: Seal) -> None:
    seal_small(store.model("faq", "v1"), "model")
    store.point_live("faq", "v1")
    with draft(store.model("faq", "unsealed"), "plan"):
        with pytest.raises(ArtifactMissing):
            store.point_live("faq", "unsealed")
    store.model("faq", "bare").mkdir()
    with pytest.raises(ArtifactIncomplete):
        store.point_live("faq", "bare")
    seal_small(store.model("faq", "adapter"), "adapter")
    with pytest.raises(ArtifactCorrupt):
        store.point_live("faq", "adapter")
    (seal_small(store.model("faq", "torn"), "model").path / "model.safetensors").unlink()
    with pytest.raises(ArtifactCorrupt):
        store.point_live("faq", "torn")
    assert store.read_live("faq") == "v1"


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\n",
        b"../../etc\n",
        b"v1\nv2\n",
        b"/models/faq/v1\n",
        b"\xff\xfe\n",
        b"v1.partial-0123456789ab\n",
        b"\0" * 64,
        b"v" * 500,
    ],
)
def test_garbage_in_the_live_file_is_bad_input(store: Store, garbage: bytes) -> None:
    store.live("faq").parent.mkdir(parents=True)
    store.live("faq").write_bytes(garbage)
    with pytest.raises(BadInput, match=r"live names no version: .*merge the model again") as caught:
        store.read_live("faq")
    assert len(str(caught.value)) < 600


def test_artifacts_are_listed_by_kind_and_partial_ones_apart(store: Store, seal_small: Seal) -> None:
    sealed: list[tuple[Kind, Path]] = [
        ("base", store.base("tiny")),
        ("dataset", store.dataset("data")),
        ("checkpoint", store.checkpoint("faq-0", 20)),
        ("checkpoint", store.checkpoint("faq-1", 5)),
        ("adapter", store.adapter("faq-0")),
        ("weights", store.weights("faq-1")),
        ("model", store.model("faq", "v1")),
        ("model", store.model("faq", "v2")),
    ]
    for kind, path in reversed(sealed):
        seal_small(path, kind)
    store.point_live("faq", "v1")
    with draft(store.dataset("half"), "plan") as half, draft(store.model("faq", "v3"), "plan") as third:
        assert list(store.artifacts()) == sealed
        assert store.partials() == [half, third]


def test_a_half_written_checkpoint_or_weights_are_partial(store: Store, seal_small: Seal) -> None:
    sealed = store.checkpoint("faq-0", 20)
    seal_small(sealed, "checkpoint")
    with draft(store.checkpoint("faq-0", 40), "plan") as checkpoint, draft(store.weights("faq-0"), "plan"):
        assert checkpoint.parent == sealed.parent
        assert list(store.artifacts()) == [("checkpoint", sealed)]
        assert [path.name.partition(".")[0] for path in store.partials()] == ["step-40", "faq-0"]


def test_what_else_a_run_writes_and_cached_tokens_are_no_artifacts(store: Store) -> None:
    store.tokens("0" * 64).mkdir(parents=True)
    (store.run("faq-0") / "samples").mkdir(parents=True)
    (store.run("faq-0") / "checkpoints" / "notes").mkdir(parents=True)
    (store.run("faq-0") / "checkpoints" / "step-1").write_text("a file", encoding="utf-8")
    assert list(store.artifacts()) == []
    assert store.partials() == []


def test_an_empty_store_lists_nothing(store: Store) -> None:
    assert list(store.artifacts()) == []
    assert store.partials() == []
    assert store.published() == []

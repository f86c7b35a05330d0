"""A plain folder, which `git add` puts into Git LFS where it must."""

import shutil
from pathlib import Path

from hone_contract.events import Reporter
from hone_contract.progress import Progress
from hone_contract.store import Store
from hone_merger.publishing.bundle import Bundle, Item
from hone_merger.publishing.place import becoming, check_place, check_room

ATTRIBUTES = ".gitattributes"
# The Hub refuses larger files outside of Git LFS (https://huggingface.co/docs/hub/repositories-getting-started).
_PLAIN_AT_MOST = 10 * 10**6
# As the Hub writes it into a new repository, so far as it is about weights.
_LARGE = ("*.safetensors", "*.gguf", "*.bin", "*.pt", "*.model", "*.zip", "*.tar.*", "*.tar")


def write_folder(bundle: Bundle, target: Path, store: Store, reporter: Reporter) -> Path:
    """Copies, so that no edit reaches the store. Raises as `check_place` and `check_room` do."""
    place = check_place(target, store, folder=True)
    check_room(place, bundle.size)
    with becoming(place) as partial, Progress("copying", "B", bundle.size, reporter) as progress:
        partial.mkdir()
        for item in [*bundle.items, attributes(bundle)]:
            (partial / item.name).parent.mkdir(parents=True, exist_ok=True)
            if isinstance(item.content, bytes):
                (partial / item.name).write_bytes(item.content)
            else:
                shutil.copyfile(item.content, partial / item.name)
            progress.advance(item.size)
    return place


def attributes(bundle: Bundle) -> Item:
    """.gitattributes: weights, and whatever else is large, go through Git LFS."""
    large = [item.name for item in bundle.items if item.size > _PLAIN_AT_MOST]
    others = [name for name in large if not name.endswith((".safetensors", ".bin"))]
    lines = (f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in [*_LARGE, *others])
    return Item.made(ATTRIBUTES, "".join(lines))

"""`--profile`: the profile of a model, named or found."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from halo_edge.cli.console import notes
from halo_edge.groups.profile import Profile
from halo_edge.groups.profile_store import find
from halo_edge.model.fingerprint import fingerprint
from halo_edge.model.gguf_file import GgufFile

NONE: Final = "none"


def chosen_profile(option: str | None, model: Path) -> Profile | None:
    """What `--profile` names, or None; without it, what is found for the file `model`, if any.

    Raises `HaloError`.
    """
    if option == NONE:
        return None
    if option is not None:
        return Profile.load(Path(option))
    found = find(fingerprint(GgufFile.open(model)))
    return Profile.load(found) if found is not None else None


def hint(model: Path) -> None:
    """A line that says what a profile would bring."""
    notes.print(
        f"no profile of {model.name}: every round waits for all devices. `halo calibrate` makes "
        f"one in a few minutes; then what matters least may be late or lost.",
        style="dim",
        markup=False,
        soft_wrap=True,
    )

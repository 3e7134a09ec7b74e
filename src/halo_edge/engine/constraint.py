"""What may limit the tokens of one sequence: a grammar, a schema. The engine only asks."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Constraint(Protocol):
    """Says which tokens may come next, such as those that go on a JSON text. Of one sequence; the
    engine's thread asks. Which tokens end the text is its business, too. Raises `HaloError` for
    what fails the sequence."""

    def allowed(self) -> NDArray[np.bool_]:
        """bool[vocab]; at least one token may always come. What is behind the end may not."""
        ...

    def accept(self, token: int) -> None:
        """That one came."""
        ...

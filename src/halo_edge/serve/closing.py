"""That the server is being stopped: said once, heard by everything that would otherwise go on."""

from __future__ import annotations

import asyncio


class Closing:
    """Has not begun until the server is being stopped. Of one event loop."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    @property
    def begun(self) -> bool:
        return self._event.is_set()

    def begin(self) -> None:
        """From now on."""
        self._event.set()

    async def wait(self) -> None:
        """Until then: for streams that have no end of their own."""
        await self._event.wait()

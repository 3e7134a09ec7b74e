"""Since when which device of a fault schedule can be reached, and for how long it could."""

from __future__ import annotations


class Reachability:
    """Devices are named by their port; 0 is the root. Times only go forward."""

    def __init__(self, ports: int) -> None:
        self._unplugged = [False] * ports
        self._gone = [False] * ports
        # Of each port: (since when, whether it can be reached), newest last.
        self._history: list[list[tuple[float, bool]]] = [[(0.0, True)] for _ in range(ports)]

    def plugged(self, port: int, now: float, plugged: bool) -> None:
        """Its cable. The root's is everybody's."""
        self._unplugged[port] = not plugged
        for each in range(len(self._history)) if port == 0 else (port,):
            self._note(each, now)

    def gone(self, port: int, now: float) -> None:
        """Its process is stopped, or knows nothing of the session."""
        self._gone[port] = True
        self._note(port, now)

    def back(self, port: int, now: float) -> None:
        """Its process runs."""
        self._gone[port] = False
        self._note(port, now)

    def reachable_s(self, port: int, since: float, until: float) -> float:
        """For how much of that time it could be reached."""
        ends = [at for at, _ in self._history[port][1:]] + [until]
        return sum(
            max(0.0, min(end, until) - max(began, since))
            for (began, reachable), end in zip(self._history[port], ends, strict=True)
            if reachable
        )

    def _note(self, port: int, now: float) -> None:
        reachable = not (self._unplugged[0] or self._unplugged[port] or self._gone[port])
        self._history[port].append((now, reachable))

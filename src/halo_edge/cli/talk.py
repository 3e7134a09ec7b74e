"""A chat: what was said, and the model's next answer. Knows not how it is typed and shown."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

from halo_edge.cli.chat_screen import Screen
from halo_edge.cli.chat_status import DeviceWatch, devices_line, in_use, status_line, worst_loss
from halo_edge.cli.conversation import Conversation
from halo_edge.cli.generate import generator_of, stream
from halo_edge.cli.prompt import chat_tokens
from halo_edge.cli.report import Marks, TrafficMark, figures, summary
from halo_edge.cluster.overview import Overview
from halo_edge.cluster.relaxation import RelaxOptions
from halo_edge.cluster.session import Session
from halo_edge.engine.generation import Generation
from halo_edge.engine.sampling import SamplingParams
from halo_edge.engine.sequence import FinishReason
from halo_edge.errors import HaloError
from halo_edge.model.chat_template import Message

# The status is looked at by people.
STATUS_S: Final = 0.2


class _Stopped(Exception):
    """The user has had enough of this answer."""


class Talk:
    """`system`: see `chat_tokens`. `screen` shows answers, and what happens meanwhile."""

    def __init__(
        self,
        session: Session,
        params: SamplingParams,
        system: str | None,
        screen: Screen,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.session = session
        self.conversation = Conversation(system)
        self.relax = RelaxOptions()
        """How far rounds are relaxed."""
        self.last: tuple[Generation, Marks] | None = None
        """The last answer."""
        self.screen = screen
        self._params = params
        self._generator = generator_of(session, self._before_step)
        self._clock = clock
        self._watch = DeviceWatch(clock)
        self._unanswered: str | None = None
        self._stopped = False
        self._shown_s = -STATUS_S

    def ask(self, text: str) -> None:
        """Say something, and show the answer; or a line that says why there is none."""
        conversation = self.conversation
        self._unanswered = text
        conversation.say(text)
        try:
            self._answer()
        except HaloError as error:
            self.screen.complain(f"{error}")
        except _Stopped:
            self.screen.note("stopped")
        generation = self.last[0] if self.last is not None else None
        if generation is not None and generation.text:
            conversation.answered(generation.text)
            self._unanswered = None
        else:
            conversation.take_back()

    def retry(self) -> None:
        """Another answer to what was said last. Raises `HaloError` if nothing was."""
        text = self._unanswered or self.conversation.take_back()
        if text is None:
            raise HaloError("nothing was said yet")
        self.ask(text)

    def overview(self) -> Overview | None:
        """Of the devices; None where everything is computed in this process."""
        cluster = self.session.cluster
        return None if cluster is None else cluster.overview()

    def devices(self) -> str:
        """One line about them."""
        return devices_line(self.overview())

    def _answer(self) -> None:
        """Raises `HaloError`, or `_Stopped`; what there is of the answer is `last` then."""
        session, screen = self.session, self.screen
        self.last = None
        before = self.conversation.left_out
        tokens = self.conversation.fit(self._tokens, session.model.context, self._params.max_tokens)
        if self.conversation.left_out > before:
            screen.note(
                f"the context of {session.model.context} tokens is full: the oldest "
                f"{self.conversation.left_out} messages are left out from here on; /clear begins "
                f"anew, --ctx makes room"
            )
        marks = Marks(TrafficMark.now(session))
        generation = self._generator.start(tokens, self._params)
        self.last = generation, marks
        try:
            with self._interruptible():
                stream(session, self._generator, generation, marks, screen.piece)
        finally:
            screen.end()
            if generation.tokens:
                screen.note(self._summary(generation, marks))
        if generation.finish is FinishReason.LENGTH and not self._limited(generation):
            screen.note("the answer is cut off: the context is full; /clear begins anew")

    def _summary(self, generation: Generation, marks: Marks) -> str:
        fields, overview = figures(self.session, generation, marks), self.overview()
        if overview is None or marks.spent is None:
            return summary(fields)
        fields["devices"] = in_use(overview)  # of the plan some may have left
        return f"{summary(fields)}{worst_loss(overview)}, {marks.spent.nats:.4f} nats"

    def _limited(self, generation: Generation) -> bool:
        """Whether the answer is as long as it was to be at the most."""
        limit = self._params.max_tokens
        return limit is not None and len(generation.tokens) >= limit

    def _tokens(self, messages: list[Message]) -> list[int]:
        return chat_tokens(self.session.model, self.conversation.system, messages)

    def _before_step(self) -> None:
        """Between two steps. Raises `_Stopped`."""
        if self._stopped:
            raise _Stopped
        now = self._clock()
        if now - self._shown_s < STATUS_S or self.last is None:
            return
        self._shown_s = now
        generation, marks = self.last
        overview = self.overview()
        if overview is not None:
            for line in self._watch.news(overview):
                self.screen.note(line)
        nats = 0.0
        if overview is not None and marks.start is not None:
            nats = overview.spent.since(marks.start.spent).nats
        self.screen.status(status_line(overview, generation, nats))

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Ctrl-C ends the answer after the step under way; pressed again, the program."""
        if not self.screen.interactive:
            yield
            return

        def stop(number: int, frame: FrameType | None) -> None:
            if self._stopped:
                raise KeyboardInterrupt
            self._stopped = True

        self._stopped = False
        before = signal.signal(signal.SIGINT, stop)
        try:
            with self.screen.unechoed():
                yield
        finally:
            signal.signal(signal.SIGINT, before)
            self._stopped = False

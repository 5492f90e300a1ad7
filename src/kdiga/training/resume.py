"""When a run's state is kept, and by whom."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from kdiga.distributed.process_group import ProcessGroup
from kdiga.errors import InterruptedRunError
from kdiga.training.interruption import GO_ON, SAVE, Interruption, signal_name
from kdiga.training.resume_state import damaged_state, load_state, save_state

State = Callable[[], tuple[dict[str, Any], dict[str, Any]]]
"""Returns what is the same in every process, and what is each one's own."""


class Checkpoints:
    """Keeps the state of a run now and then, and when a signal ends it. All processes make every call together.

    Args:
        folder: of the run; None keeps nothing, and then signals do what they always do.
        process_group: of processes; the first one writes.
        save_every: minutes between saves; 0 for none in the middle of an epoch.
    """

    def __init__(self, folder: Path | None, process_group: ProcessGroup, save_every: float) -> None:
        self.folder, self.process_group = folder, process_group
        self._interruption = Interruption(save_every)

    def listening(self) -> AbstractContextManager[None]:
        """Return the context in which signals are noted, for :meth:`look` to heed."""
        return nullcontext() if self.folder is None else self._interruption.listening()

    def load(self, identity: Mapping[str, str | None]) -> dict[str, Any] | None:
        """Return the state that the first process finds; see :func:`load_state`."""
        folder = self.folder
        return None if folder is None else self.process_group.first(lambda: load_state(folder, identity))

    @contextmanager
    def restoring(self) -> Generator[None]:
        """Go back to a state inside.

        Raises:
            InputError: if it is not a state of this run, whatever goes wrong with it.
        """
        try:
            yield
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError) as error:
            raise damaged_state(self.folder or Path(), error) from None

    def look(self, state: State, where: str) -> None:
        """Save if it is time to, or if a signal came in any process.

        Args:
            state: asked for only then.
            where: the run is, in words.

        Raises:
            InterruptedRunError: for a signal, when the state is saved.
        """
        if self.folder is None:
            return
        wish = self.process_group.highest(self._interruption.wish())
        if wish != GO_ON:
            self.save(state)
        if wish not in (GO_ON, SAVE):
            raise InterruptedRunError(
                wish,
                f"stopped by {signal_name(wish)} {where}; the state is saved in {str(self.folder)!r}. The same command "
                "goes on from there with --resume.",
            )

    def save(self, state: State) -> None:
        """Save now."""
        if self.folder is None:
            return
        common, own = state()
        every = self.process_group.gathered(own)
        if self.process_group.leads:
            save_state(self.folder, common | {"own": every})
        self._interruption.saved()

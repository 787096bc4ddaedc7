"""
The commands' application on one machine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack

from adapters.entrypoints.local import LocalProfile, is_data_folder, open_local
from adapters.entrypoints.process import receive_until_stopped
from adapters.entrypoints.settings import Settings
from adapters.inbound.application import Listening
from domain.batch import Batch
from domain.errors import NotPossible
from domain.identifiers import BatchId
from domain.lifecycle import BatchState
from services.reconcile import Reconciled
from services.recover_batches import Recovered
from services.report_status import ReportStatus

_JOURNAL_SECONDS = 1.0  # on a slow disk the rest of it is made beside the first associations
_UNFINISHED = (BatchState.CLOSED, BatchState.SUBMITTED, BatchState.IMPORTING)


class LocalApplication:
    """The application on one machine; everything is in the data folder."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stack = ExitStack()
        self._opened: LocalProfile | None = None

    @property
    def report(self) -> ReportStatus:
        """Answer questions."""
        return self._profile().use_cases.report

    def retry(self, batch_id: BatchId, /) -> Batch:
        """Retry a failed batch; `carry_on` imports it unless a receiver does."""
        return self._profile().use_cases.retry(batch_id)

    def recover(self) -> Recovered:
        """Set going what stalled."""
        return self._profile().use_cases.recover()

    def reconcile(self, progress: Callable[[BatchId], None], /) -> Reconciled:
        """Compare objects and results with the table."""
        return self._profile().use_cases.reconcile(progress)

    def carry_on(self, progress: Callable[[int, int], None], /) -> Sequence[Batch] | None:
        """Carry what is unfinished to its end in this process, unless a receiver does."""
        profile = self._profile()
        try:
            profile.become_carrier()
        except NotPossible:
            return None
        profile.use_cases.recover()
        metadata = profile.use_cases.ports.metadata
        unfinished = [batch.id for batch in metadata.batches(_UNFINISHED)]
        profile.workflow.finish(lambda left: progress(max(0, len(unfinished) - left), len(unfinished)))
        ended = (metadata.batch(batch_id) for batch_id in unfinished)
        return [batch for batch in ended if batch is not None]

    def serve(self, announce: Callable[[Listening], None], /) -> None:
        """Receive, carry batches and run imports until told to stop."""
        profile = self._profile(is_receiver=True)
        profile.become_receiver()
        profile.staging.clear_incoming()
        profile.staging.prepare(_JOURNAL_SECONDS)
        profile.use_cases.recover()
        profile.workflow.run()
        try:
            receive_until_stopped(
                self._settings,
                profile.use_cases,
                profile.drafts,
                profile.chores(),
                announce,
                keeps_in=str(self._settings.data_dir.absolute()),
                check=profile.carrier.check,
            )
        finally:
            profile.workflow.stop()

    def close(self) -> None:
        """Give back files, locks and threads."""
        self._opened = None
        self._stack.close()

    def _profile(self, *, is_receiver: bool = False) -> LocalProfile:
        if self._opened is None:
            folder = self._settings.data_dir
            if not is_receiver and not is_data_folder(folder):
                raise NotPossible(
                    f"{folder} is no data folder of a receiver; name one with --data-dir, or start a receiver with"
                    " `ahi-storescp serve`"
                )
            self._opened = self._stack.enter_context(open_local(self._settings))
        return self._opened

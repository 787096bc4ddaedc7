"""
An application entity that requests associations, and leaves no socket behind.
"""

from __future__ import annotations

import select
import socket
from ssl import SSLContext

from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.transport import AddressInformation, AssociationSocket

_LAST_WORDS_SECONDS = 1.0


class _Connection(AssociationSocket):
    """pynetdicom's connection, also for descriptors from 1,024 on: it asks select(), which knows none of them."""

    @property
    def ready(self) -> bool:
        """Tell whether there is something to read."""
        if self.socket is None or not self._is_connected:
            return False
        poll = select.poll()
        try:
            poll.register(self.socket, select.POLLIN)
            return bool(poll.poll(0))
        except (OSError, ValueError):
            self.event_queue.put("Evt17")  # PS3.8 9.2.3: the connection is closed
            return False


class Requestor(AE):
    """
    pynetdicom's AE, for the requestor's side.

    pynetdicom shuts a connection down before it closes the socket, and forgets the socket if that fails: each peer
    that refused the connection, or cut it, would cost a file descriptor until the garbage is collected.
    """

    def __init__(self, ae_title: str) -> None:
        super().__init__(ae_title=ae_title)
        self._sockets: list[socket.socket] = []

    def _create_socket(
        self, assoc: Association, address: AddressInformation, tls_args: tuple[SSLContext, str] | None
    ) -> AssociationSocket:
        created = _Connection(assoc, address=address)
        created.tls_args = tls_args
        if created.socket is not None:
            self._sockets.append(created.socket)
        return created

    def end(self, association: Association) -> None:
        """Release an association, end it by force if that fails, and close the connection."""
        if association.is_established:
            association.release()
        if not association.is_released and association.is_alive():
            association.abort()
        self.hang_up(association)

    def hang_up(self, association: Association) -> None:
        """Close what associations that have ended left open; may be repeated, never raises."""
        association.dul.join(_LAST_WORDS_SECONDS)
        for left in self._sockets:
            left.close()

"""
An application entity that requests associations, and leaves no socket behind.
"""

from __future__ import annotations

import socket
from typing import Any

from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.transport import AssociationSocket

_LAST_WORDS_SECONDS = 1.0


class Requestor(AE):
    """
    pynetdicom's AE, for the requestor's side.

    pynetdicom shuts a connection down before it closes the socket, and forgets the socket if that fails: each peer
    that refused the connection, or cut it, would cost a file descriptor until the garbage is collected.
    """

    def __init__(self, ae_title: str) -> None:
        super().__init__(ae_title=ae_title)
        self._sockets: list[socket.socket] = []

    def _create_socket(self, *args: Any) -> AssociationSocket:  # noqa: ANN401  # as pynetdicom has it
        created = super()._create_socket(*args)
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

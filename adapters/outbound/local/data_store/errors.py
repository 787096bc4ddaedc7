"""
What the data store refuses, under the names that the import service uses.

    DataStoreError
    ├── ValidationException             400  a parameter breaks its pattern
    ├── ServiceQuotaExceededException   402  as many jobs as allowed are submitted or running
    ├── AccessDeniedException           403  input or output may not be read or written
    ├── ResourceNotFoundException       404  no such data store, job or image set
    ├── ConflictException               409  a client token used again for another request
    ├── ThrottlingException             429  more calls a second than allowed
    └── InternalServerException         500  our fault; the same call may work later

They are apart from the domain's errors on purpose: this package plays the service, and its callers translate these
as they translate the service's own.
No text here holds a value of a data set.
"""

from __future__ import annotations

from typing import ClassVar


class DataStoreError(Exception):
    """Base of everything the data store refuses; its class is named as the service names the error."""

    http_status: ClassVar[int] = 500


class ValidationException(DataStoreError):
    """A parameter breaks its pattern; the message names it and the rule."""

    http_status = 400


class ServiceQuotaExceededException(DataStoreError):
    """As many jobs as the data store allows are submitted or running; wait for one to end."""

    http_status = 402


class AccessDeniedException(DataStoreError):
    """Input or output may not be read or written."""

    http_status = 403


class ResourceNotFoundException(DataStoreError):
    """No such data store, job or image set."""

    http_status = 404


class ConflictException(DataStoreError):
    """The client token was used before, for another request."""

    http_status = 409


class ThrottlingException(DataStoreError):
    """More calls a second than allowed; nothing was changed."""

    http_status = 429


class InternalServerException(DataStoreError):
    """The data store could not do it now; nothing is known to have changed."""

    http_status = 500

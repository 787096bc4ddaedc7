"""
A local stand-in for the import service: files in, image sets and result records out.

Start reading at `store.py`; `importing.py` is one job from its listing to its manifest.
"""

from adapters.outbound.local.data_store.contents import ImageSet, StoredInstance, Summary
from adapters.outbound.local.data_store.errors import (
    AccessDeniedException,
    ConflictException,
    DataStoreError,
    InternalServerException,
    ResourceNotFoundException,
    ServiceQuotaExceededException,
    ThrottlingException,
    ValidationException,
)
from adapters.outbound.local.data_store.jobs import Job, JobStatus
from adapters.outbound.local.data_store.limits import Limits, ResultOptions
from adapters.outbound.local.data_store.objects import (
    FileInputObjects,
    FileOutputObjects,
    InputObjects,
    LinkableObjects,
    OutputObjects,
)
from adapters.outbound.local.data_store.store import EmbeddedDataStore

__all__ = [
    "AccessDeniedException",
    "ConflictException",
    "DataStoreError",
    "EmbeddedDataStore",
    "FileInputObjects",
    "FileOutputObjects",
    "ImageSet",
    "InputObjects",
    "InternalServerException",
    "Job",
    "JobStatus",
    "Limits",
    "LinkableObjects",
    "OutputObjects",
    "ResourceNotFoundException",
    "ResultOptions",
    "ServiceQuotaExceededException",
    "StoredInstance",
    "Summary",
    "ThrottlingException",
    "ValidationException",
]

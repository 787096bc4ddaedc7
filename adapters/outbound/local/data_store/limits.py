"""
The service's documented limits on one job and one file.
"""

from __future__ import annotations

import attrs


@attrs.frozen(kw_only=True)
class Limits:
    """
    What one import job may hold.

    Attributes:
        max_files: objects in a job.
        max_bytes: bytes of all objects of a job.
        max_folders: folders below the job's prefix, at any depth.
        max_header_bytes: bytes of one data set outside its pixel data (and outside single values above 1 MB); the
            service allows 50 MB of metadata an image set, and here it bounds what a file can make us hold.

    """

    max_files: int = 5_000
    max_bytes: int = 10 * 10**9
    max_folders: int = 10_000
    max_header_bytes: int = 50 * 10**6


@attrs.frozen(kw_only=True)
class ResultOptions:
    """
    How results are written where no source says how the service does it; readers must accept each.

    Attributes:
        version_in_success: success records name the image set's version (the service shows it in warnings only).
        warned_also_in_success: a file with warnings stands in success.ndjson too.
        write_empty: a record file without records is written, not left out.

    """

    version_in_success: bool = True
    warned_also_in_success: bool = False
    write_empty: bool = True

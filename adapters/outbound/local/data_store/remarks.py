"""
The warnings that go with an imported file, as the service numbers and names them.
"""

from __future__ import annotations

from typing import Final

import attrs


@attrs.frozen(kw_only=True)
class Remark:
    """
    One warning about one imported file.

    Attributes:
        code: the DICOM warning reason (0008,1196).
        kind: its name, spelled as in the service's example of warning.ndjson.
        message: a sentence without any value of the data set.

    """

    code: int
    kind: str
    message: str


FRAMES_EXTRACTION_FAILURE: Final = Remark(
    code=0xB110,
    kind="FramesExtractionFailure",
    message="The file was imported but its frames could not be parsed, only the whole instance can be retrieved.",
)
FRAME_NUMBER_MISMATCH: Final = Remark(
    code=0xB111,
    kind="FrameNumberMismatch",
    message="The file was imported but NumberOfFrames does not match its pixel data, may see issues when retrieving "
    "certain frames.",
)
INVALID_OFFSET_TABLE: Final = Remark(
    code=0xB112,
    kind="InvalidOffsetTable",
    message="The file was imported but contains an invalid offset table, may see issues when retrieving certain "
    "frames.",
)
UNSUPPORTED_TRANSFER_SYNTAX: Final = Remark(
    code=0xB120,
    kind="UnsupportedTransferSyntax",
    message="The file was imported but its transfer syntax is not supported, pixel data is kept as it came.",
)


def invalid_uid_format(keyword: str) -> Remark:
    """
    Say that the element `keyword` holds no proper UID.

    The service prints 0xB201 beside the decimal 45570, which is 0xB202; this is the hexadecimal one.
    """
    return Remark(
        code=0xB201,
        kind="InvalidUIDFormat",
        message=f"The file was imported but DICOM attribute {keyword} is not a valid UID.",
    )


def invalid_value_length(keyword: str) -> Remark:
    """Say that the element `keyword` is longer than its value representation allows."""
    return Remark(
        code=0xB202,
        kind="InvalidDicomValueLength",
        message=f"The file was imported but DICOM attribute {keyword} is longer than its VR allows, searching for it "
        "may fail.",
    )

"""
The one translation of AWS SDK errors into ours.

    what the SDK raised                                          what it is
    throttling, 5xx, time-outs, no connection, garbled answers   TEMPORARY: wait and try again
    no access, no such table or bucket, no credentials           OPERATOR: waiting does not help, someone must act
    a condition that did not hold                                an answer: the adapter that asked catches it itself
    everything else, refused parameters above all                a bug: it passes as it is

A message names the operation, the error's code and the request; never the service's own sentence, which may quote
what it was sent.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    MetadataRetrievalError,
    NoCredentialsError,
    ParamValidationError,
    TokenRetrievalError,
)
from botocore.exceptions import ConnectionError as BotoConnectionError
from botocore.parsers import ResponseParserError
from obstore.exceptions import BaseError as ObstoreError

from domain.errors import (
    FinalServiceError,
    ImporterBusy,
    ImportRefused,
    MetadataUnavailable,
    StoreScpError,
    TemporaryServiceError,
)


class Fault(StrEnum):
    """What has to happen before the call can succeed."""

    TEMPORARY = "temporary"
    OPERATOR = "operator"


SdkError = (BotoCoreError, ClientError, ResponseParserError)
"""Everything that the SDK raises when a call did not succeed."""

_TEMPORARY = (
    BotoConnectionError,
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    MetadataRetrievalError,
    ResponseParserError,
    TokenRetrievalError,
)
_TEMPORARY_CODES = frozenset(
    {
        "ExpiredToken",  # the next call asks for fresh credentials
        "ExpiredTokenException",
        "InternalError",
        "InternalFailure",
        "InternalServerError",
        "InternalServerException",
        "LimitExceededException",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestTimeout",
        "RequestTimeoutException",
        "ServiceUnavailable",
        "ServiceUnavailableException",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
        "TransactionConflictException",
        "TransactionInProgressException",
    }
)
_OPERATOR_CODES = frozenset(
    {
        "AccessDenied",
        "AccessDeniedException",
        "InvalidAccessKeyId",
        "InvalidSignatureException",
        "KMSAccessDeniedException",
        "NoSuchBucket",
        "ResourceNotFoundException",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)
_SERVER_ERROR = 500


def error_code(error: BaseException) -> str:
    """Return the service's code of an error, or the name of its class."""
    if isinstance(error, ClientError):
        return str(error.response.get("Error", {}).get("Code", "unknown"))
    return type(error).__name__


def fault_of(error: BaseException) -> Fault | None:
    """Tell what has to happen before the call can succeed; None if waiting and configuring cannot help."""
    if isinstance(error, NoCredentialsError):
        return Fault.OPERATOR
    if isinstance(error, _TEMPORARY):
        return Fault.TEMPORARY
    if not isinstance(error, ClientError):
        return None
    code = error_code(error)
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code in _TEMPORARY_CODES or status >= _SERVER_ERROR:
        return Fault.TEMPORARY
    if code in _OPERATOR_CODES:
        return Fault.OPERATOR
    return None


def describe(error: BaseException) -> str:
    """Say which call went wrong and how, without the service's own sentence."""
    if not isinstance(error, ClientError):
        return error_code(error)
    request = error.response.get("ResponseMetadata", {}).get("RequestId", "unknown")
    return f"{error.operation_name} was answered with {error_code(error)} (request {request})"


@contextmanager
def metadata_errors(table: str) -> Iterator[None]:
    """Turn what keeps us from the metadata table into MetadataUnavailable; let mistakes of ours pass."""
    try:
        yield
    except SdkError as error:
        fault = fault_of(error)
        if fault is None:
            raise
        advice = "" if fault is Fault.TEMPORARY else "; check that it exists and that this role may use it"
        if isinstance(error, NoCredentialsError):
            advice = "; sign in to AWS (aws sso login, AWS_PROFILE), or give this process a role"
        raise MetadataUnavailable(
            f"the metadata table {table} cannot be used now: {describe(error)}{advice}"
        ) from error


BucketError = Callable[[str], StoreScpError]
"""Makes the error of a port from words for the operator."""

_NO_ACCESS = frozenset(
    {"401", "403", "AccessDenied", "AllAccessDisabled", "InvalidAccessKeyId", "SignatureDoesNotMatch"}
)
_NO_BUCKET = frozenset({"404", "NoSuchBucket"})
_OTHER_REGION = frozenset({"301", "307", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"})
_OTHER_REGION_WORDS = "redirect without LOCATION"
_S3_CODE = re.compile(r"<Code>([A-Za-z0-9]{1,64})</Code>")
_HTTP_STATUS = re.compile(r"status code: (\d{3})")


def s3_code(error: BaseException) -> str:
    """Return S3's code of an error, its HTTP status if it gives no code, or what kept it from answering."""
    if not isinstance(error, ObstoreError | FileNotFoundError):
        return error_code(error)
    text = str(error)
    if _OTHER_REGION_WORDS in text:
        return "PermanentRedirect"
    if "NoCredentialsError" in text:
        return "NoCredentialsError"
    found = _S3_CODE.search(text) or _HTTP_STATUS.search(text)
    return found[1] if found else "no answer"


@contextmanager
def bucket_errors(bucket: str, action: str, raising: BucketError) -> Iterator[None]:
    """
    Turn whatever keeps us from a bucket into the error of a port; let mistakes of ours pass.

    Args:
        bucket: its name.
        action: the permission that the call needs, such as "s3:PutObject".
        raising: the error to raise.

    """
    try:
        yield
    except ParamValidationError:
        raise
    except (*SdkError, ObstoreError, FileNotFoundError) as error:
        raise raising(_bucket_problem(s3_code(error), bucket, action)) from error


def _bucket_problem(code: str, bucket: str, action: str) -> str:
    if code in _NO_ACCESS:
        return (
            f"bucket {bucket} refuses access ({code}): allow {action} on it, and the use of its key, for this role,"
            " and check --bucket-owner"
        )
    if code in _NO_BUCKET:
        return f"there is no bucket {bucket} ({code}): check its name and --region"
    if code == "PermanentRedirect" or code in _OTHER_REGION:
        return f"bucket {bucket} is not in this region ({code}): check --region"
    if code == "NoCredentialsError":
        return f"bucket {bucket} cannot be used without AWS credentials: give this process a role"
    return f"bucket {bucket} cannot be used now: {action} ended with {code}"


_SENTENCE_CHARACTERS = 300
_IMPORT_ADVICE = {
    "AccessDeniedException": "allow {action} on data store {data_store} and iam:PassRole on {role} for this role",
    "ResourceNotFoundException": "check --data-store-id {data_store} and --region",
    "ValidationException": (
        "check --data-store-id {data_store}, --data-access-role-arn {role}, --staging-bucket and --results-bucket,"
        " that HealthImaging may assume the role, and that the role may use both buckets"
    ),
}


@contextmanager
def importer_errors(action: str, *, data_store: str, role: str) -> Iterator[None]:
    """
    Turn the errors of HealthImaging into ImporterBusy or ImportRefused; let mistakes of ours pass.

    Busy is what passes by itself: throttling (429), no free job slot (402), a conflict (409), 5xx, time-outs, and
    credentials that cannot be had now.
    Refused is what the operator has to change.
    The service's sentence is part of a refusal: a request names a batch, buckets and a role, and no instance, so the
    sentence cannot quote a data set.

    Args:
        action: the permission that the call needs, such as "medical-imaging:StartDICOMImportJob".
        data_store: its id, for the message.
        role: the data access role, for the message.

    """
    try:
        yield
    except ParamValidationError:
        raise
    except SdkError as error:
        advice = _IMPORT_ADVICE.get(error_code(error))
        if advice is None or fault_of(error) is Fault.TEMPORARY:
            raise ImporterBusy(f"HealthImaging cannot be asked now: {describe(error)}") from error
        words = advice.format(action=action, data_store=data_store, role=role)
        raise ImportRefused(f"HealthImaging refused: {describe(error)}{_sentence(error)}; {words}") from error


def _sentence(error: BaseException) -> str:
    message = str(error.response.get("Error", {}).get("Message", "")) if isinstance(error, ClientError) else ""
    shown = "".join(character for character in message if character.isprintable())[:_SENTENCE_CHARACTERS]
    return f": {shown}" if shown else ""


@contextmanager
def workflow_errors(state_machine: str) -> Iterator[None]:
    """Turn what keeps us from the state machine into TemporaryServiceError; let mistakes of ours pass."""
    try:
        yield
    except ParamValidationError:
        raise
    except SdkError as error:
        is_ours = fault_of(error) is Fault.OPERATOR or error_code(error) in _NO_MACHINE
        advice = (
            "; check --state-machine-arn and that this role may start and describe its executions" if is_ours else ""
        )
        raise TemporaryServiceError(
            f"the state machine {state_machine} cannot be used now: {describe(error)}{advice}"
        ) from error


_NO_MACHINE = frozenset({"StateMachineDoesNotExist", "StateMachineDeleting", "InvalidArn"})


@contextmanager
def topic_errors(topic: str) -> Iterator[None]:
    """Turn what keeps us from the topic into TemporaryServiceError or FinalServiceError; let mistakes of ours pass."""
    try:
        yield
    except ParamValidationError:
        raise
    except SdkError as error:
        if fault_of(error) is Fault.TEMPORARY:
            raise TemporaryServiceError(f"topic {topic} cannot be told now: {describe(error)}") from error
        raise FinalServiceError(
            f"topic {topic} refused: {describe(error)}; check --topic-arn, and allow sns:Publish and the use of its key"
        ) from error

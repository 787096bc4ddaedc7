"""Which errors of the AWS SDK are waits, which need an operator, which are bugs; and what a message may say."""

from __future__ import annotations

import socket
from contextlib import closing
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, NoCredentialsError, ParamValidationError, ReadTimeoutError

from adapters.outbound.aws_errors import Fault, describe, error_code, fault_of, metadata_errors
from domain.errors import MetadataUnavailable


def an_error(code: str, status: int = 400) -> ClientError:
    response: Any = {
        "Error": {"Code": code, "Message": "the value DOE^JANE is not welcome"},
        "ResponseMetadata": {"HTTPStatusCode": status, "RequestId": "R-1"},
    }
    return ClientError(response, "PutItem")


@pytest.mark.parametrize(
    "error, fault",
    [
        (an_error("ThrottlingException"), Fault.TEMPORARY),
        (an_error("ProvisionedThroughputExceededException"), Fault.TEMPORARY),
        (an_error("TransactionConflictException"), Fault.TEMPORARY),
        (an_error("NobodyKnowsThis", 503), Fault.TEMPORARY),
        (an_error("ExpiredTokenException"), Fault.TEMPORARY),
        (ReadTimeoutError(endpoint_url="http://there"), Fault.TEMPORARY),
        (an_error("AccessDeniedException"), Fault.OPERATOR),
        (an_error("ResourceNotFoundException"), Fault.OPERATOR),
        (NoCredentialsError(), Fault.OPERATOR),
        (an_error("ValidationException"), None),
        (an_error("ConditionalCheckFailedException"), None),
        (ParamValidationError(report="no"), None),
        (ValueError("ours"), None),
    ],
    ids=lambda value: error_code(value) if isinstance(value, Exception) else str(value),
)
def test_every_error_has_its_fault(error: Exception, fault: Fault | None) -> None:
    assert fault_of(error) is fault


def test_an_error_that_says_nothing_is_no_fault_of_theirs() -> None:
    assert fault_of(ClientError({}, "PutItem")) is None
    assert describe(ClientError({}, "PutItem")) == "PutItem was answered with unknown (request unknown)"


@pytest.mark.parametrize("code", ["ThrottlingException", "AccessDeniedException"])
def test_a_message_names_the_call_and_quotes_no_value(code: str) -> None:
    error = an_error(code)
    with pytest.raises(MetadataUnavailable, match=f"table T .*PutItem was answered with {code} .request R-1") as caught:
        with metadata_errors("T"):
            raise error
    assert "JANE" not in str(caught.value)
    assert caught.value.__cause__ is error


def test_who_has_no_credentials_is_told_to_sign_in() -> None:
    with pytest.raises(MetadataUnavailable, match="NoCredentialsError; sign in to AWS"):
        with metadata_errors("T"):
            raise NoCredentialsError


def test_mistakes_pass_as_they_are() -> None:
    with pytest.raises(ClientError, match="ValidationException"):
        with metadata_errors("T"):
            raise an_error("ValidationException")


def test_a_real_client_that_reaches_nobody_is_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    client: Any = boto3.session.Session(
        aws_access_key_id="testing", aws_secret_access_key="testing", region_name="eu-central-1"
    ).client("dynamodb", endpoint_url=f"http://127.0.0.1:{port}", config=Config(retries={"max_attempts": 0}))
    with closing(client):
        with pytest.raises(MetadataUnavailable, match="EndpointConnectionError"):
            with metadata_errors("T"):
                client.list_tables()

"""
Tells people by an SNS topic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from adapters.outbound.aws_errors import topic_errors

if TYPE_CHECKING:
    from mypy_boto3_sns import SNSClient

_SUBJECT_CHARACTERS = 100


@attrs.frozen(kw_only=True)
class SnsNotifier:
    """Publishes messages to one topic; a repeated message is two, so callers send each once."""

    client: SNSClient
    topic_arn: str

    def __call__(self, subject: str, text: str) -> None:
        """
        Publish a message; the subject is cut to 100 characters.

        Raises:
            TemporaryServiceError: it cannot be published now.
            FinalServiceError: it will never be; the message says what to fix.

        """
        with topic_errors(self.topic_arn):
            self.client.publish(TopicArn=self.topic_arn, Subject=subject[:_SUBJECT_CHARACTERS], Message=text)

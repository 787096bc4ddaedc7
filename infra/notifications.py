"""
Whom alarms and failed imports are told to, and where events go that nobody could take.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import attrs
import pulumi
import pulumi_aws as aws

_KEY_DELETION_DAYS = 30
_DEAD_LETTER_SECONDS = 14 * 24 * 3600


@attrs.frozen(kw_only=True)
class NotificationsArgs:
    """
    What Notifications are made of.

    Attributes:
        email: who is told; None is nobody.
        kms_key_arn: the hospital's key; None makes one, since alarms cannot use the one that AWS keeps for SNS.

    """

    account_id: str
    email: str | None
    kms_key_arn: str | None
    tags: Mapping[str, str]


class Notifications(pulumi.ComponentResource):
    """The topic that alarms and failed imports are told to, and the queue of dead letters."""

    topic: aws.sns.Topic
    key_arn: pulumi.Output[str]
    dead_letters: aws.sqs.Queue

    def __init__(self, name: str, args: NotificationsArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("dicom-ahi:infra:Notifications", name, None, opts)
        child = pulumi.ResourceOptions(parent=self)
        if args.kms_key_arn is None:
            self.key_arn = aws.kms.Key(
                f"{name}-notifications",
                description=f"Encrypts notifications of {name}",
                enable_key_rotation=True,
                deletion_window_in_days=_KEY_DELETION_DAYS,
                policy=json.dumps(_key_policy(args.account_id)),
                tags=args.tags,
                opts=child,
            ).arn
        else:
            self.key_arn = pulumi.Output.from_input(args.kms_key_arn)
        self.topic = aws.sns.Topic(
            f"{name}-notifications",
            display_name=f"DICOM receiver {name}",
            kms_master_key_id=self.key_arn,
            tags=args.tags,
            opts=child,
        )
        aws.sns.TopicPolicy(
            f"{name}-notifications",
            arn=self.topic.arn,
            policy=pulumi.Output.json_dumps(_topic_policy(self.topic.arn, args.account_id)),
            opts=pulumi.ResourceOptions(parent=self.topic),
        )
        if args.email is not None:
            aws.sns.TopicSubscription(
                f"{name}-notifications",
                topic=self.topic.arn,
                protocol="email",
                endpoint=args.email,
                opts=pulumi.ResourceOptions(parent=self.topic),
            )
        # the queue's own key: its messages are ids, and what writes them needs no permission on a key
        self.dead_letters = aws.sqs.Queue(
            f"{name}-dead-letters",
            message_retention_seconds=_DEAD_LETTER_SECONDS,
            sqs_managed_sse_enabled=True,
            tags=args.tags,
            opts=child,
        )
        aws.sqs.QueuePolicy(
            f"{name}-dead-letters",
            queue_url=self.dead_letters.url,
            policy=pulumi.Output.json_dumps(_only_over_tls("sqs:*", self.dead_letters.arn)),
            opts=pulumi.ResourceOptions(parent=self.dead_letters),
        )
        self.register_outputs({"topic": self.topic.arn, "dead_letters": self.dead_letters.arn})


def _only_over_tls(action: str, arn: pulumi.Output[str]) -> dict[str, Any]:
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "OnlyOverTls",
                "Effect": "Deny",
                "Principal": "*",
                "Action": action,
                "Resource": arn,
                "Condition": {"Bool": {"aws:SecureTransport": "false"}},
            }
        ],
    }


def _topic_policy(topic: pulumi.Output[str], account_id: str) -> dict[str, Any]:
    policy = _only_over_tls("sns:Publish", topic)
    alarms = {
        "Sid": "AlarmsPublish",
        "Effect": "Allow",
        "Principal": {"Service": "cloudwatch.amazonaws.com"},
        "Action": "sns:Publish",
        "Resource": topic,
        "Condition": {"StringEquals": {"aws:SourceAccount": account_id}},
    }
    return {**policy, "Statement": [*policy["Statement"], alarms]}


def _key_policy(account_id: str) -> dict[str, Any]:
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                # the account's own policies decide; without this nobody could ever change the key again
                "Sid": "AccountDecides",
                "Effect": "Allow",
                "Principal": {"AWS": f"arn:aws:iam::{account_id}:root"},
                "Action": "kms:*",
                "Resource": "*",
            },
            {
                "Sid": "AlarmsPublish",
                "Effect": "Allow",
                "Principal": {"Service": "cloudwatch.amazonaws.com"},
                "Action": ["kms:Decrypt", "kms:GenerateDataKey"],
                "Resource": "*",
                "Condition": {"StringEquals": {"aws:SourceAccount": account_id}},
            },
        ],
    }

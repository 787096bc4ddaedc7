"""
The role with which people run the `ahi-storescp` commands: what those commands need, and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs
import pulumi
import pulumi_aws as aws

from infra.policies import ACTORS, Places, document, grants_for, trust_principals

_SESSION_SECONDS = 4 * 3600


@attrs.frozen(kw_only=True)
class OperatorRoleArgs:
    """
    What an OperatorRole is made of.

    Attributes:
        principals: ARNs of who may take it on; empty leaves it to the account's administrators.

    """

    account_id: str
    principals: Sequence[str]
    places: Places
    tags: Mapping[str, str]


class OperatorRole(pulumi.ComponentResource):
    """The role of operators."""

    arn: pulumi.Output[str]

    def __init__(self, name: str, args: OperatorRoleArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("dicom-ahi:infra:OperatorRole", name, None, opts)
        role = aws.iam.Role(
            f"{name}-operator",
            description="Runs the ahi-storescp commands: status, failures, retry and the like",
            assume_role_policy=trust_principals(args.principals or [f"arn:aws:iam::{args.account_id}:root"]),
            max_session_duration=_SESSION_SECONDS,
            tags=args.tags,
            opts=pulumi.ResourceOptions(parent=self),
        )
        aws.iam.RolePolicy(
            f"{name}-operator",
            role=role.id,
            policy=document(grants_for(ACTORS["operator"], args.places)),
            opts=pulumi.ResourceOptions(parent=role),
        )
        self.arn = role.arn
        self.register_outputs({"arn": self.arn})

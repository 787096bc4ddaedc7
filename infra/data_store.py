"""
The HealthImaging data store that images end up in, and the role with which the service reads and writes our buckets.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import attrs
import pulumi
import pulumi_aws as aws

from domain.staging import BATCHES
from infra.policies import Grant, document, trust


@attrs.frozen(kw_only=True)
class DataStoreArgs:
    """
    What a DataStore is made of.

    Attributes:
        data_store_id: one that exists; None makes a new one.

    """

    account_id: str
    region: str
    data_store_id: str | None
    staging_bucket_arn: pulumi.Input[str]
    results_bucket_arn: pulumi.Input[str]
    kms_key_arn: str | None
    protect: bool
    tags: Mapping[str, str]


class DataStore(pulumi.ComponentResource):
    """A data store, made or given, and its data access role."""

    id: pulumi.Output[str]
    arn: pulumi.Output[str]
    access_role_arn: pulumi.Output[str]

    def __init__(self, name: str, args: DataStoreArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("dicom-ahi:infra:DataStore", name, None, opts)
        if args.data_store_id is None:
            self.id, self.arn = self._make(name, args)
        else:
            self.id = pulumi.Output.from_input(args.data_store_id)
            arn = f"arn:aws:medical-imaging:{args.region}:{args.account_id}:datastore/{args.data_store_id}"
            self.arn = pulumi.Output.from_input(arn)
        role = aws.iam.Role(
            f"{name}-data-access",
            description="Lets HealthImaging read staged images and write the results of imports",
            assume_role_policy=trust(
                "medical-imaging.amazonaws.com",
                StringEquals={"aws:SourceAccount": args.account_id},
                ArnLike={"aws:SourceArn": f"arn:aws:medical-imaging:{args.region}:{args.account_id}:datastore/*"},
            ),
            tags=args.tags,
            opts=pulumi.ResourceOptions(parent=self),
        )
        policy = aws.iam.RolePolicy(
            f"{name}-data-access",
            role=role.id,
            policy=document(_grants(args)),
            opts=pulumi.ResourceOptions(parent=role),
        )
        # known only once the role may do its work, so that no import starts before
        self.access_role_arn = pulumi.Output.all(role.arn, policy.id).apply(lambda values: values[0])
        self.register_outputs({"id": self.id, "arn": self.arn, "access_role_arn": self.access_role_arn})

    def _make(self, name: str, args: DataStoreArgs) -> tuple[pulumi.Output[str], pulumi.Output[str]]:
        """Make a data store; every property of it is fixed for life, so later changes to them are not made."""
        state = {"DatastoreName": name, "Tags": dict(args.tags)}
        if args.kms_key_arn:
            state["KmsKeyArn"] = args.kms_key_arn
        resource = aws.cloudcontrol.Resource(
            f"{name}-data-store",
            type_name="AWS::HealthImaging::Datastore",
            desired_state=json.dumps(state, sort_keys=True),
            opts=pulumi.ResourceOptions(
                parent=self,
                protect=args.protect,
                retain_on_delete=True,
                ignore_changes=["desiredState"],
            ),
        )
        properties = resource.properties.apply(json.loads)
        return properties["DatastoreId"], properties["DatastoreArn"]


def _grants(args: DataStoreArgs) -> list[Grant]:
    grants = [
        Grant(actions=("s3:ListBucket",), resources=(args.staging_bucket_arn, args.results_bucket_arn)),
        Grant(
            actions=("s3:GetObject",),
            resources=(pulumi.Output.format("{0}/{1}*", args.staging_bucket_arn, BATCHES),),
        ),
        Grant(actions=("s3:PutObject",), resources=(pulumi.Output.format("{0}/*", args.results_bucket_arn),)),
    ]
    if args.kms_key_arn:
        grants.append(Grant(actions=("kms:Decrypt", "kms:GenerateDataKey"), resources=(args.kms_key_arn,)))
    return grants

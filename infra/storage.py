"""
Where instances, results and metadata are kept.

The staging bucket is a recycle bin for what was imported and never lets go of what was not; results never expire,
since the metadata can be rebuilt from them.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import pulumi
import pulumi_aws as aws

from domain.staging import BATCHES

TABLE_INDEX = "by_state_and_time"
_ABORT_UPLOADS_DAYS = 1
_LOG_DELIVERY = "delivery.logs.amazonaws.com"


@attrs.frozen(kw_only=True)
class StorageArgs:
    """
    What a Storage is made of.

    Attributes:
        retention_days: for how long an imported instance can be brought back.
        access_logs: make a bucket for the load balancer's access logs.
        protect: refuse to delete anything that holds data.

    """

    account_id: str
    retention_days: int
    log_retention_days: int
    kms_key_arn: str | None
    access_logs: bool
    protect: bool
    tags: Mapping[str, str]


class Storage(pulumi.ComponentResource):
    """The staging, results and access-log buckets and the metadata table."""

    staging_bucket: aws.s3.Bucket
    results_bucket: aws.s3.Bucket
    access_log_bucket: aws.s3.Bucket | None
    table: aws.dynamodb.Table
    access_logs_ready: list[pulumi.Resource]

    def __init__(self, name: str, args: StorageArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("dicom-ahi:infra:Storage", name, None, opts)
        self._name = name
        self._args = args
        self.staging_bucket = self._bucket("staging", key=args.kms_key_arn)
        self._lifecycle(
            "staging",
            self.staging_bucket,
            aws.s3.BucketLifecycleConfigurationRuleArgs(
                id="recycle-bin",
                status="Enabled",
                # not superseded/: what was never imported never expires
                filter=aws.s3.BucketLifecycleConfigurationRuleFilterArgs(prefix=BATCHES),
                noncurrent_version_expiration=aws.s3.BucketLifecycleConfigurationRuleNoncurrentVersionExpirationArgs(
                    noncurrent_days=args.retention_days
                ),
                expiration=aws.s3.BucketLifecycleConfigurationRuleExpirationArgs(expired_object_delete_marker=True),
            ),
        )
        self.results_bucket = self._bucket("results", key=args.kms_key_arn)
        self._lifecycle("results", self.results_bucket)
        self.access_log_bucket = None
        self.access_logs_ready = []
        if args.access_logs:
            # S3's own key: the load balancer's log delivery can use no other without a change to the key's policy
            self.access_log_bucket = self._bucket("access-logs", key=None, holds_data=False)
            self._lifecycle(
                "access-logs",
                self.access_log_bucket,
                aws.s3.BucketLifecycleConfigurationRuleArgs(
                    id="expire",
                    status="Enabled",
                    filter=aws.s3.BucketLifecycleConfigurationRuleFilterArgs(prefix=""),
                    expiration=aws.s3.BucketLifecycleConfigurationRuleExpirationArgs(days=args.log_retention_days),
                    noncurrent_version_expiration=(
                        aws.s3.BucketLifecycleConfigurationRuleNoncurrentVersionExpirationArgs(noncurrent_days=1)
                    ),
                ),
            )
        self.table = self._table()
        self.register_outputs(
            {
                "staging_bucket": self.staging_bucket.bucket,
                "results_bucket": self.results_bucket.bucket,
                "table": self.table.name,
            }
        )

    def _bucket(self, what: str, *, key: str | None, holds_data: bool = True) -> aws.s3.Bucket:
        args = self._args
        bucket = aws.s3.Bucket(
            f"{self._name}-{what}",
            force_destroy=not (args.protect and holds_data),
            tags=args.tags,
            opts=pulumi.ResourceOptions(parent=self, protect=args.protect and holds_data),
        )
        inside = pulumi.ResourceOptions(parent=bucket)
        closed = aws.s3.BucketPublicAccessBlock(
            f"{self._name}-{what}",
            bucket=bucket.id,
            block_public_acls=True,
            block_public_policy=True,
            ignore_public_acls=True,
            restrict_public_buckets=True,
            opts=inside,
        )
        aws.s3.BucketOwnershipControls(
            f"{self._name}-{what}",
            bucket=bucket.id,
            rule=aws.s3.BucketOwnershipControlsRuleArgs(object_ownership="BucketOwnerEnforced"),
            opts=inside,
        )
        aws.s3.BucketServerSideEncryptionConfiguration(
            f"{self._name}-{what}",
            bucket=bucket.id,
            rules=[
                aws.s3.BucketServerSideEncryptionConfigurationRuleArgs(
                    apply_server_side_encryption_by_default=(
                        aws.s3.BucketServerSideEncryptionConfigurationRuleApplyServerSideEncryptionByDefaultArgs(
                            sse_algorithm="aws:kms" if key else "AES256", kms_master_key_id=key
                        )
                    ),
                    bucket_key_enabled=bool(key),
                )
            ],
            opts=inside,
        )
        aws.s3.BucketVersioning(
            f"{self._name}-{what}",
            bucket=bucket.id,
            versioning_configuration=aws.s3.BucketVersioningVersioningConfigurationArgs(status="Enabled"),
            opts=inside,
        )
        policy = aws.s3.BucketPolicy(
            f"{self._name}-{what}",
            bucket=bucket.id,
            policy=self._bucket_policy(bucket, takes_access_logs=not holds_data),
            opts=pulumi.ResourceOptions(parent=bucket, depends_on=[closed]),
        )
        if not holds_data:
            self.access_logs_ready = [policy]
        return bucket

    def _bucket_policy(self, bucket: aws.s3.Bucket, *, takes_access_logs: bool) -> pulumi.Output[str]:
        everything = [bucket.arn, pulumi.Output.format("{0}/*", bucket.arn)]
        statements = [
            {
                "Sid": f"OnlyOver{sid}",
                "Effect": "Deny",
                "Principal": "*",
                "Action": "s3:*",
                "Resource": everything,
                "Condition": condition,
            }
            for sid, condition in (
                ("Tls", {"Bool": {"aws:SecureTransport": "false"}}),
                ("Tls12", {"NumericLessThan": {"s3:TlsVersion": "1.2"}}),
            )
        ]
        if takes_access_logs:
            ours = {"StringEquals": {"aws:SourceAccount": self._args.account_id}}
            for sid, action, resource in (
                ("LogDeliveryWrites", "s3:PutObject", pulumi.Output.format("{0}/*", bucket.arn)),
                ("LogDeliveryLooks", "s3:GetBucketAcl", bucket.arn),
            ):
                statements.append(
                    {
                        "Sid": sid,
                        "Effect": "Allow",
                        "Principal": {"Service": _LOG_DELIVERY},
                        "Action": action,
                        "Resource": [resource],
                        "Condition": ours,
                    }
                )
        return pulumi.Output.json_dumps({"Version": "2012-10-17", "Statement": statements})

    def _lifecycle(self, what: str, bucket: aws.s3.Bucket, *rules: aws.s3.BucketLifecycleConfigurationRuleArgs) -> None:
        abort = aws.s3.BucketLifecycleConfigurationRuleArgs(
            id="incomplete-uploads",
            status="Enabled",
            filter=aws.s3.BucketLifecycleConfigurationRuleFilterArgs(prefix=""),
            abort_incomplete_multipart_upload=(
                aws.s3.BucketLifecycleConfigurationRuleAbortIncompleteMultipartUploadArgs(
                    days_after_initiation=_ABORT_UPLOADS_DAYS
                )
            ),
        )
        aws.s3.BucketLifecycleConfiguration(
            f"{self._name}-{what}",
            bucket=bucket.id,
            rules=[*rules, abort],
            opts=pulumi.ResourceOptions(parent=bucket),
        )

    def _table(self) -> aws.dynamodb.Table:
        """Make the table as `adapters/outbound/dynamodb_items.py` describes it; a test compares the two."""
        args = self._args
        return aws.dynamodb.Table(
            f"{self._name}-metadata",
            attributes=[
                aws.dynamodb.TableAttributeArgs(name=attribute, type="S")
                for attribute in ("pk", "sk", "index_pk", "index_sk")
            ],
            hash_key="pk",
            range_key="sk",
            global_secondary_indexes=[
                aws.dynamodb.TableGlobalSecondaryIndexArgs(
                    name=TABLE_INDEX,
                    key_schemas=[
                        aws.dynamodb.TableGlobalSecondaryIndexKeySchemaArgs(attribute_name=attribute, key_type=kind)
                        for attribute, kind in (("index_pk", "HASH"), ("index_sk", "RANGE"))
                    ],
                    projection_type="KEYS_ONLY",
                )
            ],
            billing_mode="PAY_PER_REQUEST",
            point_in_time_recovery=aws.dynamodb.TablePointInTimeRecoveryArgs(enabled=True),
            server_side_encryption=aws.dynamodb.TableServerSideEncryptionArgs(
                enabled=True, kms_key_arn=args.kms_key_arn
            ),
            deletion_protection_enabled=args.protect,
            tags=args.tags,
            opts=pulumi.ResourceOptions(parent=self, protect=args.protect),
        )

"""
The one container image: the receiver and every Lambda function run from it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import attrs
import pulumi
import pulumi_aws as aws
import pulumi_awsx as awsx

PLATFORMS = {"X86_64": "linux/amd64", "ARM64": "linux/arm64"}
_IMAGES_KEPT = 10


@attrs.frozen(kw_only=True)
class ImageArgs:
    """
    What an Image is made of.

    Attributes:
        cpu_architecture: X86_64 or ARM64.

    """

    account_id: str
    region: str
    cpu_architecture: str
    kms_key_arn: str | None
    protect: bool
    tags: Mapping[str, str]


class Image(pulumi.ComponentResource):
    """The image, built from the project's `Dockerfile`, in a registry that scans it; named by its digest."""

    uri: pulumi.Output[str]
    repository_arn: pulumi.Output[str]

    def __init__(self, name: str, args: ImageArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("dicom-ahi:infra:Image", name, None, opts)
        encryption = aws.ecr.RepositoryEncryptionConfigurationArgs(
            encryption_type="KMS" if args.kms_key_arn else "AES256", kms_key=args.kms_key_arn
        )
        repository = aws.ecr.Repository(
            f"{name}-image",
            image_scanning_configuration=aws.ecr.RepositoryImageScanningConfigurationArgs(scan_on_push=True),
            encryption_configurations=[encryption],
            force_delete=not args.protect,
            tags=args.tags,
            opts=pulumi.ResourceOptions(parent=self),
        )
        inside = pulumi.ResourceOptions(parent=repository)
        aws.ecr.LifecyclePolicy(
            f"{name}-image", repository=repository.name, policy=json.dumps(_KEEP_THE_LATEST), opts=inside
        )
        allowed = aws.ecr.RepositoryPolicy(
            f"{name}-image",
            repository=repository.name,
            policy=json.dumps(_functions_may_pull(args.region, args.account_id)),
            opts=inside,
        )
        image = awsx.ecr.Image(
            f"{name}-image",
            repository_url=repository.repository_url,
            context=".",
            dockerfile="Dockerfile",
            platform=PLATFORMS[args.cpu_architecture],
            opts=pulumi.ResourceOptions(parent=self, depends_on=[allowed]),
        )
        self.uri = image.image_uri
        self.repository_arn = repository.arn
        self.register_outputs({"uri": self.uri})


_KEEP_THE_LATEST = {
    "rules": [
        {
            "rulePriority": 1,
            "description": f"Keep the latest {_IMAGES_KEPT} images",
            "selection": {"tagStatus": "any", "countType": "imageCountMoreThan", "countNumber": _IMAGES_KEPT},
            "action": {"type": "expire"},
        }
    ]
}


def _functions_may_pull(region: str, account_id: str) -> dict[str, object]:
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "LambdaPulls",
                "Effect": "Allow",
                "Principal": {"Service": "lambda.amazonaws.com"},
                "Action": ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"],
                "Condition": {"ArnLike": {"aws:SourceArn": f"arn:aws:lambda:{region}:{account_id}:function:*"}},
            }
        ],
    }

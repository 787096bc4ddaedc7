"""
What a stack file may say: every setting, its meaning, default and what is allowed.

The Pulumi command line hands every value over as text: lists and objects as JSON, booleans as `true` and `false`.
"""

# ruff: noqa: RUF009  # _setting is a field of attrs, as attrs.field is
from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from ipaddress import IPv4Network
from typing import Any

import attrs

from domain.commitment import CommitmentPeer
from domain.identifiers import AeTitle, DataStoreId, Uid
from infra.values import (
    MutualTls,
    boolean,
    choice,
    commitment_peer,
    integer,
    list_of,
    matching,
    maybe,
    network,
    one_of,
    optional,
    permitted_caller,
    tags,
)

REGIONS = ("us-east-1", "us-west-2", "eu-west-1", "eu-west-2", "ap-southeast-2")
"""Where AWS HealthImaging can be used."""

NO_ALARM_EMAIL = "none"

_LOG_RETENTION_DAYS = (
    *(1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731),
    *(1096, 1827, 2192, 2557, 2922, 3288, 3653),
)
NAME = r"[a-z](-?[a-z0-9])*"
NAME_CHARACTERS = 18
_ARN_OF_CERTIFICATE = r"arn:aws:acm:[a-z0-9-]+:[0-9]{12}:certificate/.+"
_ARN_OF_KEY = r"arn:aws:kms:[a-z0-9-]+:[0-9]{12}:key/.+"
_ARN_OF_PRINCIPAL = r"arn:aws:iam::[0-9]{12}:(root|(role|user)/.+)"


@attrs.frozen(kw_only=True)
class Rule:
    """
    How a setting is read.

    Attributes:
        parse: text to value; raises ValueError.
        default: as it stands in `Pulumi.yaml`.
        allowed: finishes the sentence "allowed: ...".
        help: what it does; the description in `Pulumi.yaml`.

    """

    parse: Callable[[str], Any]
    default: str | int | bool | list[str] | dict[str, str]
    allowed: str
    help: str

    @property
    def text(self) -> str:
        """The default as the command line would hand it over."""
        return self.default if isinstance(self.default, str) else json.dumps(self.default)


def _setting(
    default: str | int | bool | list[str] | dict[str, str],  # noqa: FBT001  # a default, not a switch
    reading: tuple[Callable[[str], Any], str],
    help: str,  # noqa: A002  # what it is called everywhere
) -> Any:  # noqa: ANN401  # a field of whatever type the class says
    parse, allowed = reading
    rule = Rule(parse=parse, default=default, allowed=allowed, help=help)
    return attrs.field(default=parse(rule.text), metadata={"rule": rule})


@attrs.frozen(kw_only=True)
class StackConfig:
    """The settings of one stack; every field's metadata holds its Rule."""

    hospital_name: str = _setting(
        "",
        maybe(NAME, f"at most {NAME_CHARACTERS} lower-case letters, digits and single hyphens"),
        "Short name of the hospital; the names of all resources begin with it. Empty: the name of the stack.",
    )
    alarm_email: str = _setting(
        "",
        maybe(rf"{NO_ALARM_EMAIL}|[^@\s]+@[^@\s]+\.[^@\s]+", "an e-mail address, or the word none"),
        "Required. Where alarms and failed imports are reported; the word none if nobody is to be told.",
    )

    vpc_id: str = _setting(
        "", maybe(r"vpc-[0-9a-f]{8,17}", "an id such as vpc-0123abcd"), "VPC to use. Empty: a new one."
    )
    public_subnet_ids: tuple[str, ...] = _setting(
        [],
        list_of(matching(r"subnet-[0-9a-f]{8,17}", "ids such as subnet-0123abcd")),
        "Subnets for an internet-facing load balancer, in at least two zones. Only with vpcId.",
    )
    private_subnet_ids: tuple[str, ...] = _setting(
        [],
        list_of(matching(r"subnet-[0-9a-f]{8,17}", "ids such as subnet-0123abcd")),
        "Subnets for the receiver and an internal load balancer, in at least two zones. Only with vpcId.",
    )
    availability_zones: tuple[str, ...] = _setting(
        [],
        list_of(matching(r"[a-z]{2}(-[a-z]+)+-\d[a-z]", "zones such as eu-west-1a")),
        "Zones of a new VPC, or the zones that the given subnets are in. Empty: the first two of the region.",
    )
    vpc_cidr: IPv4Network | None = _setting(
        "",
        optional(network()),
        "Address range of the VPC; it may connect. Empty: 10.0.0.0/16 for a new VPC, else looked up.",
    )
    security_group_id: str = _setting(
        "",
        maybe(r"sg-[0-9a-f]{8,17}", "an id such as sg-0123abcd"),
        "Security group for the receiver; rules are added to it. Empty: a new one. Only with vpcId.",
    )
    nat_gateways: str = _setting(
        "auto",
        choice("auto", "OnePerAz", "Single", "None"),
        "NAT gateways of a new VPC. auto: one per zone, or none where vpcEndpoints is all.",
    )
    vpc_endpoints: str = _setting(
        "auto",
        choice("auto", "none", "gateways", "all"),
        "VPC endpoints to create. gateways: S3 and DynamoDB, free of charge. all: every service the receiver calls, "
        "so that no NAT gateway is needed. auto: gateways for a new VPC, none for a given one.",
    )
    flow_logs: bool = _setting(
        False,  # noqa: FBT003  # the default
        boolean(),
        "Record who connected to what in the VPC. Only for a new VPC.",
    )
    internet_facing: bool = _setting(
        False,  # noqa: FBT003  # the default
        boolean(),
        "Give the load balancer public addresses. Otherwise it is reached over VPN or Direct Connect.",
    )
    allow_plaintext_internet: bool = _setting(
        False,  # noqa: FBT003  # the default
        boolean(),
        "Accept that images of patients cross the internet unencrypted.",
    )
    peer_cidr1: IPv4Network | None = _setting(
        "", optional(network()), "A network that may connect, such as 203.0.113.0/24."
    )
    peer_cidr2: IPv4Network | None = _setting("", optional(network()), "A second network that may connect.")
    peer_cidr3: IPv4Network | None = _setting("", optional(network()), "A third network that may connect.")
    peer_cidrs: tuple[IPv4Network, ...] = _setting([], list_of(network()), "Any number of networks that may connect.")

    scp_ae_title: AeTitle = _setting(
        "STORESCP",
        (AeTitle.parse, "1 to 16 printable ASCII characters without backslash"),
        "Our AE title: the called AE title to type into the modality.",
    )
    scp_port: int = _setting(11112, integer(1, 65535), "TCP port to type into the modality.")
    require_called_ae_title: bool = _setting(
        False,  # noqa: FBT003  # the default
        boolean(),
        "Refuse modalities that call us by another AE title.",
    )
    require_calling_ae_title: tuple[str, ...] = _setting(
        [],
        list_of(permitted_caller()),
        "The only AE titles that may connect, each with a network if wanted: CT1, MR2@10.0.0.0/24. Empty: any.",
    )
    dimse_timeout: int = _setting(60, integer(1, 3600), "Seconds a started message may take until its next bytes.")
    network_timeout: int = _setting(90, integer(1, 5400), "Seconds an association may be silent.")
    maximum_associations: int = _setting(300, integer(1, 10000), "Associations open at once in one task.")
    supported_sop_class_uids: tuple[Uid, ...] = _setting(
        [],
        list_of((Uid, "SOP Class UIDs")),
        "The only SOP classes taken. Empty: any storage class, private ones too.",
    )
    storage_commitment_peers: tuple[CommitmentPeer, ...] = _setting(
        [],
        list_of(commitment_peer()),
        "Where storage commitment results are sent: CT1=10.1.2.3:104.",
    )
    store_patient_identity: bool = _setting(
        False,  # noqa: FBT003  # the default
        boolean(),
        "Keep patient name and ID in the metadata table, to be shown to operators.",
    )

    task_cpu: int = _setting(
        1024, one_of(256, 512, 1024, 2048, 4096, 8192, 16384), "CPU units of one task; 1024 are one processor."
    )
    task_memory_limit: int = _setting(2048, integer(512, 122880), "Memory of one task in MiB.")
    task_ephemeral_storage: int = _setting(
        50, integer(21, 200), "Disk of one task in GiB, for large instances while they arrive."
    )
    task_desired_count: int = _setting(1, integer(1, 100), "Tasks that always run.")
    autoscale_max_capacity: int = _setting(3, integer(1, 100), "Tasks that run at most.")
    cpu_architecture: str = _setting(
        "X86_64", choice("X86_64", "ARM64"), "Processor of the tasks, the functions and the image."
    )

    tls_certificate_arn: str = _setting(
        "",
        maybe(_ARN_OF_CERTIFICATE, "the ARN of a certificate in AWS Certificate Manager"),
        "Certificate for TLS 1.2 and 1.3 at the load balancer. Empty: plain TCP.",
    )
    mutual_tls: MutualTls | None = _setting(
        {},
        (MutualTls.parse, "an object with certificateSecretArn, keySecretArn and caSecretArn"),
        "Secrets in AWS Secrets Manager, each a PEM text, for mutual TLS in the receiver itself.",
    )
    kms_key_arn: str = _setting(
        "",
        maybe(_ARN_OF_KEY, "the ARN of a symmetric KMS key"),
        "Your own key for images, results, metadata, logs and messages. Empty: keys of AWS.",
    )
    operator_principals: tuple[str, ...] = _setting(
        [],
        list_of(matching(_ARN_OF_PRINCIPAL, "ARNs of IAM roles or users")),
        "Who may take on the operator role. Empty: whom the account's administrators allow.",
    )

    data_store_id: DataStoreId | None = _setting(
        "",
        optional((DataStoreId, "32 lower-case letters and digits")),
        "HealthImaging data store to use. Empty: a new one.",
    )
    retention_days: int = _setting(30, integer(1, 36500), "Days for which an imported instance can be brought back.")
    batch_quiet_seconds: int = _setting(15, integer(1, 3600), "Import once nothing arrived for so long.")
    batch_max_age_seconds: int = _setting(60, integer(1, 3600), "Import at the latest after so long.")
    batch_max_files: int = _setting(4500, integer(1, 5000), "Instances of one import job; the service takes 5,000.")
    batch_max_bytes: int = _setting(
        9_000_000_000, integer(1, 10_000_000_000), "Bytes of one import job; the service takes 10 GB."
    )

    log_retention_days: int = _setting(365, one_of(*_LOG_RETENTION_DAYS), "Days for which logs are kept.")
    tags: Mapping[str, str] = _setting(
        {}, (tags, "an object of texts, such as {costCentre: radiology}"), "Tags for everything that is created."
    )
    protect: bool = _setting(
        True,  # noqa: FBT003  # the default
        boolean(),
        "Refuse to delete what holds images, results and metadata.",
    )
    check_account: bool = _setting(
        True,  # noqa: FBT003  # the default
        boolean(),
        "Before anything is created, check your own permissions and the quotas of the account.",
    )

    region: str = "us-east-1"
    stack: str = "stack"

    @property
    def name(self) -> str:
        """What the names of all resources begin with."""
        return self.hospital_name or self.stack

    @property
    def is_new_vpc(self) -> bool:
        """Whether the network is ours to make."""
        return not self.vpc_id

    @property
    def peers(self) -> tuple[IPv4Network, ...]:
        """Every network outside the VPC that may connect, each once, in the order given."""
        named = (self.peer_cidr1, self.peer_cidr2, self.peer_cidr3, *self.peer_cidrs)
        return tuple(dict.fromkeys(peer for peer in named if peer is not None))

    @property
    def wanted_endpoints(self) -> str:
        """Which VPC endpoints are made: none, gateways or all."""
        if self.vpc_endpoints != "auto":
            return self.vpc_endpoints
        return "gateways" if self.is_new_vpc else "none"

    @property
    def wanted_nat_gateways(self) -> str:
        """Which NAT gateways are made: OnePerAz, Single or None."""
        if not self.is_new_vpc:
            return "None"
        if self.nat_gateways != "auto":
            return self.nat_gateways
        return "None" if self.wanted_endpoints == "all" else "OnePerAz"

    @property
    def is_encrypted_in_transit(self) -> bool:
        """Whether modalities speak TLS, wherever it ends."""
        return bool(self.tls_certificate_arn) or self.mutual_tls is not None

    @property
    def own_tags(self) -> Mapping[str, str]:
        """The tags by which what belongs to this stack is known."""
        return {"Application": "dicom-store-scp", "Hospital": self.name, "Stack": self.stack}

    @property
    def all_tags(self) -> Mapping[str, str]:
        """The tags of everything that is created."""
        return {**self.tags, **self.own_tags}


def rules() -> Mapping[str, Rule]:
    """Return the rule of every setting by its key in a stack file, in the order they are documented."""
    return {key_of(field.name): field.metadata["rule"] for field in attrs.fields(StackConfig) if field.metadata}


def key_of(field: str) -> str:
    """Return the key of a field in a stack file."""
    head, *tail = field.split("_")
    return head + "".join(word.capitalize() for word in tail)

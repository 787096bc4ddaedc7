"""
Every setting: its name, meaning, default and what is allowed.

The variable of a setting is `STORESCP_` and the option's name in upper snake case.
An option beats a variable beats the default; lists are comma-separated; GB is 10^9 bytes.
All bad settings are named at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from enum import StrEnum
from pathlib import Path
from typing import Any

import attrs

from domain.association import PermittedCaller
from domain.commitment import CommitmentPeer
from domain.errors import InvalidIdentifier, InvalidSettings
from domain.identifiers import AeTitle, DataStoreId, Uid

PREFIX = "STORESCP_"
GB = 1_000_000_000


class Origin(StrEnum):
    """Where a value came from."""

    OPTION = "option"
    VARIABLE = "variable"
    DEFAULT = "default"
    MISSING = "missing"


@attrs.frozen(kw_only=True)
class Rule:
    """
    How a setting is read.

    Attributes:
        parse: text to value; raises ValueError or one of ours.
        allowed: what is allowed, in words that finish the sentence "allowed: ...".
        shown: how the default reads in help and tables.
        help: what it does.
        aws: only the profile `aws` uses it.
        required: the profile `aws` cannot do without it.
        serve: only `serve` uses it.
        secret: its value is never shown.

    """

    parse: Callable[[str], Any]
    allowed: str
    shown: str
    help: str
    aws: bool = False
    required: bool = False
    serve: bool = False
    secret: bool = False


def _setting(
    shown: str,
    parse: Callable[[str], Any],
    allowed: str,
    help: str,  # noqa: A002  # what it is called everywhere
    **flags: bool,
) -> Any:  # noqa: ANN401  # a field of whatever type the class says
    rule = Rule(parse=parse, allowed=allowed, shown=shown, help=help, **flags)
    return attrs.field(default=parse(shown) if shown or not flags.get("required") else None, metadata={"rule": rule})


def _choice(*words: str) -> tuple[Callable[[str], str], str]:
    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(text)
        return text

    return parse, " or ".join((", ".join(words[:-1]), words[-1]))


def _number(low: float, high: float) -> tuple[Callable[[str], float], str]:
    def parse(text: str) -> float:
        value = float(text)
        if not low <= value <= high:
            raise ValueError(text)
        return value

    return parse, f"a number from {low:g} to {high:g}"


def _integer(low: int, high: int) -> tuple[Callable[[str], int], str]:
    def parse(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise ValueError(text)
        return value

    return parse, f"a whole number from {low} to {high}"


_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": GB, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def _size(low: int, high: int) -> tuple[Callable[[str], int], str]:
    def parse(text: str) -> int:
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text.strip())
        if match is None:
            raise ValueError(text)
        value = int(float(match[1]) * _UNITS[match[2].upper()])
        if not low <= value <= high:
            raise ValueError(text)
        return value

    return parse, f"bytes from {low} to {high}, a unit such as MB, MiB or GB may follow"


def _boolean(text: str) -> bool:
    words = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
    return words[text.strip().lower()]


def _list_of(parse: Callable[[str], Any]) -> Callable[[str], tuple[Any, ...]]:
    return lambda text: tuple(parse(part.strip()) for part in text.split(",") if part.strip())


def _optional(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    return lambda text: parse(text) if text else None


def _matching(pattern: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if re.fullmatch(pattern, text) is None:
            raise ValueError(text)
        return text

    return parse


def _folder(text: str) -> Path:
    if not text.strip():
        raise ValueError(text)  # it would be the current folder
    return Path(text)


_BUCKET = r"[a-z0-9][.\-a-z0-9]{1,61}[a-z0-9]"
_URL = r"https?://[^\s/]+(/\S*)?"


@attrs.frozen(kw_only=True)
class Settings:
    """The settings of one process; every field's metadata holds its Rule."""

    profile: str = _setting(
        "local",
        *_choice("local", "aws"),
        "local: files on this machine; aws: S3, DynamoDB, Step Functions and HealthImaging.",
    )
    data_dir: Path = _setting(
        "./data", _folder, "a folder", "Where the local profile keeps everything, and where temporary files go."
    )
    host: str = _setting(
        "0.0.0.0",  # noqa: S104  # modalities are elsewhere
        _matching(r"\S+"),
        "an address of this machine",
        "Address to listen on.",
        serve=True,
    )
    port: int = _setting("11112", *_integer(0, 65535), "TCP port to listen on; 0 takes a free one.", serve=True)
    plain: bool = _setting(
        "true", _boolean, "true or false", "Listen on --port without TLS; false leaves TLS alone.", serve=True
    )
    tls: str = _setting(
        "off",
        *_choice("off", "on", "mutual"),
        "TLS on a port of its own: on, or mutual: only devices with a certificate of --tls-ca.",
        serve=True,
    )
    tls_port: int = _setting("2762", *_integer(0, 65535), "TCP port of TLS; 0 takes a free one.", serve=True)
    tls_certificate: str = _setting(
        "",
        str,
        "a PEM file, or the PEM text itself",
        "Our certificate, followed by those between it and its root.",
        serve=True,
    )
    tls_key: str = _setting(
        "",
        str,
        "a PEM file, or the PEM text itself",
        "Key of our certificate, not encrypted.",
        serve=True,
        secret=True,
    )
    tls_ca: str = _setting(
        "",
        str,
        "a PEM file, or the PEM text itself",
        "Who signs the certificates of devices, for mutual TLS.",
        serve=True,
    )
    health_port: int = _setting(
        "0",
        *_integer(0, 65535),
        "HTTP port with /livez, /readyz and /metrics, such as 8080; 0 is off.",
        serve=True,
    )
    ae_title: AeTitle = _setting(
        "STORESCP",
        AeTitle.parse,
        "1 to 16 printable characters without backslash",
        "Our AE title: the called AE title to type into the modality.",
    )
    require_called_ae_title: bool = _setting(
        "false", _boolean, "true or false", "Refuse associations that call us by another AE title.", serve=True
    )
    require_calling_ae_titles: tuple[PermittedCaller, ...] = _setting(
        "",
        _list_of(PermittedCaller.parse),
        "AE titles, each with a network if wanted: CT1, MR2@10.0.0.0/24",
        "The only modalities that may connect; empty lets any in.",
        serve=True,
    )
    supported_sop_class_uids: tuple[Uid, ...] = _setting(
        "",
        _list_of(Uid),
        "SOP Class UIDs",
        "The only SOP classes taken; empty takes any storage class, private ones too.",
        serve=True,
    )
    storage_classes: str = _setting(
        "any",
        *_choice("any", "standard"),
        "Without --supported-sop-class-uids: any storage class, or those of the standard only.",
        serve=True,
    )
    transfer_syntaxes: str = _setting(
        "healthimaging",
        *_choice("healthimaging", "all"),
        "Encodings taken: those that HealthImaging keeps or transcodes, or all.",
        serve=True,
    )
    artim_timeout: float = _setting(
        "10",
        *_number(0.1, 300),
        "Seconds from opening a connection to asking for an association, TLS included.",
        serve=True,
    )
    dimse_timeout: float = _setting(
        "60", *_number(1, 3600), "Seconds a started message may take until its next bytes.", serve=True
    )
    network_timeout: float = _setting("90", *_number(1, 86400), "Seconds an association may be silent.", serve=True)
    maximum_associations: int = _setting("300", *_integer(1, 10000), "Associations open at once.", serve=True)
    maximum_associations_per_ae: int = _setting(
        "0",
        *_integer(0, 10000),
        "Associations open at once for one calling AE title; 0 sets no such limit.",
        serve=True,
    )
    maximum_waiting_connections: int = _setting(
        "256",
        *_integer(1, 10000),
        "Connections of one address that have not asked for an association yet.",
        serve=True,
    )
    maximum_pdu_size: int = _setting("131072", *_integer(4096, 1048576), "Largest PDU we take, in bytes.", serve=True)
    maximum_object_bytes: int = _setting(
        "4 GB",
        *_size(1, 10 * GB),
        "Largest object we take; HealthImaging may refuse larger ones than 4 GB.",
        serve=True,
    )
    memory_budget: int = _setting(
        "512 MiB",
        *_size(1 << 20, 1 << 40),
        "Memory that arriving instances may take together; what gets none goes to a temporary file.",
        serve=True,
    )
    temporary_space: int = _setting(
        "16 GB",
        *_size(1 << 20, 1 << 50),
        "Temporary files that arriving instances may take together; at least --maximum-object-bytes.",
        serve=True,
    )
    journal_space: int = _setting(
        "256 MiB",
        *_size(0, 1 << 40),
        "Disk below --data-dir where a burst is kept before it becomes files; 0: each object is a file at once.",
        serve=True,
    )
    minimum_free_space: int = _setting(
        "1 GB",
        *_size(0, 1 << 50),
        "With less than that free on the disk of --data-dir, new associations are refused.",
        serve=True,
    )
    batch_quiet_seconds: float = _setting(
        "15", *_number(0.1, 3600), "Close the batch when nothing was stored for so long.", serve=True
    )
    batch_max_age_seconds: float = _setting("60", *_number(0.1, 3600), "Close the batch at this age.", serve=True)
    batch_max_files: int = _setting(
        "4500", *_integer(1, 5000), "Close the batch at so many objects; an import job takes 5,000.", serve=True
    )
    batch_max_bytes: int = _setting(
        "9 GB", *_size(1, 10 * GB), "Close the batch at so many bytes; an import job takes 10 GB.", serve=True
    )
    grace_seconds: float = _setting(
        "100", *_number(0, 3600), "When stopping, how long associations may go on.", serve=True
    )
    commitment_level: str = _setting(
        "imported",
        *_choice("staged", "imported", "primary"),
        "Storage commitment: what we answer for. staged: safe with us; imported: in the data store; primary: in a"
        " primary image set.",
        serve=True,
    )
    commitment_peers: tuple[CommitmentPeer, ...] = _setting(
        "",
        _list_of(CommitmentPeer.parse),
        "AE titles with their addresses: CT1=10.0.0.7:104, MR2=mr2.example:11112",
        "Where storage commitment results are delivered once the association of the request has ended.",
        serve=True,
    )
    commitment_wait_seconds: float = _setting(
        "30",
        *_number(0, 3600),
        "How long a storage commitment result may take to go out on the association of its request.",
        serve=True,
    )
    commitment_patience_hours: float = _setting(
        "24",
        *_number(0.01, 720),
        "When what is still undecided of a storage commitment request is answered as failed.",
        serve=True,
    )
    retention_days: int = _setting("30", *_integer(0, 36500), "How long imported objects can be brought back.")
    store_patient_identity: bool = _setting(
        "false", _boolean, "true or false", "Keep patient name and ID in the metadata, to be shown by `study`."
    )
    import_rate: float = _setting("1", *_number(0.01, 1000), "Import jobs the embedded data store starts a second.")
    import_burst: int = _setting("2", *_integer(1, 1000), "Import jobs the embedded data store starts at once.")
    import_concurrency: int = _setting(
        "100", *_integer(1, 1000), "Import jobs the embedded data store has open at once."
    )
    log_format: str = _setting(
        "auto", *_choice("auto", "text", "json"), "text, json, or auto: text on a terminal, else json."
    )
    log_level: str = _setting(
        "info", *_choice("debug", "info", "warning", "error"), "The least important events that are logged."
    )
    region: str = _setting(
        "", _matching(r"[a-z]{2}(-[a-z]+)+-\d"), "an AWS region", "AWS region of everything.", aws=True, required=True
    )
    staging_bucket: str = _setting(
        "", _matching(_BUCKET), "a bucket name", "S3 bucket that objects are staged in.", aws=True, required=True
    )
    results_bucket: str = _setting(
        "", _matching(_BUCKET), "a bucket name", "S3 bucket that import jobs write results to.", aws=True, required=True
    )
    table: str = _setting(
        "",
        _matching(r"[A-Za-z0-9_.\-]{3,255}"),
        "a table name",
        "DynamoDB table of the metadata.",
        aws=True,
        required=True,
    )
    data_store_id: DataStoreId = _setting(
        "", DataStoreId, "32 lower-case letters and digits", "HealthImaging data store.", aws=True, required=True
    )
    data_access_role_arn: str = _setting(
        "",
        _matching(r"arn:aws(-[^:]+)?:iam::[0-9]{12}:role/.+"),
        "the ARN of an IAM role",
        "Role with which HealthImaging reads objects and writes results.",
        aws=True,
        required=True,
    )
    state_machine_arn: str = _setting(
        "",
        _matching(r"arn:aws(-[^:]+)?:states:[a-z0-9-]+:[0-9]{12}:stateMachine:.+"),
        "the ARN of a state machine",
        "Step Functions state machine that carries a batch.",
        aws=True,
        required=True,
    )
    bucket_owner: str = _setting(
        "",
        _optional(_matching(r"[0-9]{12}")),
        "an AWS account id",
        "Account that must own the buckets; empty does not check.",
        aws=True,
    )
    topic_arn: str = _setting(
        "",
        _optional(_matching(r"arn:aws(-[^:]+)?:sns:.+")),
        "the ARN of a topic",
        "SNS topic that is told of failures.",
        aws=True,
    )
    endpoint_url: str = _setting(
        "",
        _optional(_matching(_URL)),
        "a URL",
        "Endpoint of S3, DynamoDB, Step Functions and SNS, for tests.",
        aws=True,
    )
    health_imaging_endpoint_url: str = _setting(
        "", _optional(_matching(_URL)), "a URL", "Endpoint of HealthImaging, for tests.", aws=True
    )


def rules() -> dict[str, Rule]:
    """Return the rule of every setting by its field name, in the order they are documented."""
    return {field.name: field.metadata["rule"] for field in attrs.fields(Settings)}


def option_name(name: str) -> str:
    """Return the option of a setting: `data_dir` is `--data-dir`."""
    return "--" + name.replace("_", "-")


def variable_name(name: str) -> str:
    """Return the variable of a setting: `data_dir` is `STORESCP_DATA_DIR`."""
    return PREFIX + name.upper()


@attrs.frozen(kw_only=True)
class Shown:
    """One setting as `settings` shows it."""

    name: str
    value: str
    origin: Origin
    rule: Rule


def read_settings(options: Mapping[str, str | None], environ: Mapping[str, str]) -> Settings:
    """
    Read the settings from options (by field name; None: not given) and environment variables.

    Raises:
        InvalidSettings: naming every setting that is wrong or missing, its value and what is allowed.

    """
    values: dict[str, Any] = {}
    bad: set[str] = set()
    problems: list[str] = []
    for shown in show_settings(options, environ):
        if shown.origin is Origin.DEFAULT:
            continue
        spelled = _spelled(shown)
        if shown.origin is Origin.MISSING:
            problems.append(f"{spelled} is not set; the profile aws needs it; allowed: {shown.rule.allowed}")
            continue
        try:
            values[shown.name] = shown.rule.parse(_text(shown.name, options, environ))
        except (ValueError, KeyError, InvalidIdentifier):
            bad.add(shown.name)
            problems.append(f"{spelled} is {shown.value!r}; allowed: {shown.rule.allowed}")
    problems.extend(_unknown(environ))
    settings = Settings(**values)
    problems.extend(_contradictions(settings, bad))
    if problems:
        raise InvalidSettings(tuple(problems))
    return settings


def _contradictions(settings: Settings, bad: AbstractSet[str]) -> Iterator[str]:
    """Name settings that are right alone and cannot work together; `bad` are the wrong ones, here at their defaults."""
    if not bad & {"temporary_space", "maximum_object_bytes"} and (
        settings.temporary_space < settings.maximum_object_bytes
    ):
        yield (
            f"--temporary-space is {settings.temporary_space}; allowed: at least --maximum-object-bytes"
            f" ({settings.maximum_object_bytes})"
        )
    needed = {"off": (), "on": ("tls_certificate", "tls_key"), "mutual": ("tls_certificate", "tls_key", "tls_ca")}
    for name in needed[settings.tls]:
        if name not in bad and not getattr(settings, name):
            yield f"{option_name(name)} is not set; --tls {settings.tls} needs it; allowed: {rules()[name].allowed}"
    if "tls" not in bad and settings.tls == "off" and not settings.plain:
        yield "--plain is 'false' and --tls is 'off': nothing would be listened on; allowed: one of them on"


def show_settings(options: Mapping[str, str | None], environ: Mapping[str, str]) -> list[Shown]:
    """Return every setting with its value as text and where it came from, right or wrong."""
    is_aws = (_text("profile", options, environ) or "local") == "aws"
    shown = []
    for name, rule in rules().items():
        text = _text(name, options, environ)
        if options.get(name) is not None:
            origin = Origin.OPTION
        elif text:
            origin = Origin.VARIABLE
        elif rule.required and is_aws:
            origin = Origin.MISSING
        else:
            origin = Origin.DEFAULT
        value = text if origin in {Origin.OPTION, Origin.VARIABLE} else rule.shown
        if value.lstrip().startswith("-----BEGIN"):
            value = "(PEM text)"
        shown.append(Shown(name=name, value="(hidden)" if rule.secret and value else value, origin=origin, rule=rule))
    return shown


def _text(name: str, options: Mapping[str, str | None], environ: Mapping[str, str]) -> str:
    given = options.get(name)
    return environ.get(variable_name(name), "") if given is None else given


def _spelled(shown: Shown) -> str:
    option, variable = option_name(shown.name), variable_name(shown.name)
    return {Origin.OPTION: option, Origin.VARIABLE: variable}.get(shown.origin, f"{option} ({variable})")


def _unknown(environ: Mapping[str, str]) -> list[str]:
    """Name variables of ours that mean nothing: a misspelt setting would be ignored silently."""
    known = {variable_name(name) for name in rules()}
    foreign = sorted(name for name in environ if name.startswith(PREFIX) and name not in known)
    return [
        f"{name} is not a setting; `ahi-storescp settings` lists them all" for name in foreign if name not in _OTHERS
    ]


_OTHERS = {"STORESCP_TESTS_REQUIRE_TOOLS"}

"""
Who may open an association with us: facts of a request, the policy, and its answer as PS3.8 words it.

A refusal is always an A-ASSOCIATE-RJ, never an abort, and tells the administrator what to change.
Permanent refusals come before transient ones, so that nobody waits for what will never be allowed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import attrs

from domain.errors import InvalidIdentifier
from domain.identifiers import AeTitle

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address

REJECTED_PERMANENT = 1
REJECTED_TRANSIENT = 2
SOURCE_SERVICE_USER = 1
SOURCE_PRESENTATION = 3
CALLING_AE_TITLE_NOT_RECOGNIZED = 3
CALLED_AE_TITLE_NOT_RECOGNIZED = 7
TEMPORARY_CONGESTION = 1
LOCAL_LIMIT_EXCEEDED = 2


@attrs.frozen(kw_only=True)
class UserIdentity:
    """
    What the requestor says of its user (PS3.7 D.3.3.7).

    Attributes:
        kind: 1 user name, 2 user name and passcode, 3 Kerberos, 4 SAML, 5 JSON web token.
        primary: the user name or the ticket; never shown.
        secondary: the passcode, empty unless `kind` is 2; never shown.
        is_answer_wanted: the requestor asks for a positive answer.

    """

    kind: int
    primary: bytes = attrs.field(repr=False)
    secondary: bytes = attrs.field(default=b"", repr=False)
    is_answer_wanted: bool = False


@attrs.frozen(kw_only=True)
class AssociationFacts:
    """
    What is known of an association when it is asked for.

    Attributes:
        calling_ae_title: the requestor's name as received, padding removed, not validated.
        called_ae_title: our name as the requestor put it, padding removed, not validated.
        address: the requestor's network address as text.
        user_identity: what it says of its user, if anything.

    """

    calling_ae_title: str
    called_ae_title: str
    address: str
    user_identity: UserIdentity | None = None


@attrs.frozen(kw_only=True)
class Load:
    """
    How busy this receiver is at the moment of the question.

    Attributes:
        associations: associations open now.
        associations_of_caller: those of them that the same calling AE title opened.
        is_draining: we are stopping.
        shortage: of what there is too little to take more, and what to change; empty if there is enough.

    """

    associations: int = 0
    associations_of_caller: int = 0
    is_draining: bool = False
    shortage: str = ""


@attrs.frozen(kw_only=True)
class Acceptance:
    """The association may open, under these names."""

    calling_ae_title: AeTitle
    called_ae_title: AeTitle


@attrs.frozen(kw_only=True)
class Rejection:
    """
    The association may not open.

    Attributes:
        result: 1 permanent, 2 transient (PS3.8 9.3.4).
        source: 1 service user, 3 service provider (presentation).
        reason: its meaning depends on the source (PS3.8 table 9-21).
        explanation: for the administrator: why, and what to change.

    """

    result: int
    source: int
    reason: int
    explanation: str


@attrs.frozen(kw_only=True)
class PermittedCaller:
    """A calling AE title and the networks it may call from; no network means from anywhere."""

    ae_title: AeTitle
    networks: tuple[Network, ...] = ()

    @classmethod
    def parse(cls, text: str) -> PermittedCaller:
        """
        Read `CT1`, `CT1@10.0.0.0/24` or `CT1@10.0.0.7`.

        Raises:
            InvalidIdentifier: naming the part that cannot be understood.

        """
        # An AE title may hold an @ itself, an address never does.
        title, at, network = text.rpartition("@")
        if not at:
            return cls(ae_title=AeTitle.parse(text))
        try:
            networks = (ip_network(network.strip()),)
        except ValueError as error:
            rule = "an address or a network such as 10.0.0.0/24 (no host bits set) is allowed after @"
            raise InvalidIdentifier("network of a calling AE title", network, rule) from error
        return cls(ae_title=AeTitle.parse(title), networks=networks)

    def __str__(self) -> str:
        """Return what `parse` reads, one text per network, separated by commas."""
        return ",".join(f"{self.ae_title}@{network}" for network in self.networks) or str(self.ae_title)


def _merge(callers: Iterable[PermittedCaller]) -> Mapping[AeTitle, tuple[Network, ...]]:
    """Join the networks of callers named more than once; one entry without a network permits all."""
    merged: dict[AeTitle, tuple[Network, ...]] = {}
    for caller in callers:
        known = merged.get(caller.ae_title)
        if known is None:
            merged[caller.ae_title] = caller.networks
        elif known:
            merged[caller.ae_title] = (*known, *caller.networks) if caller.networks else ()
    return merged


@attrs.frozen(kw_only=True)
class AdmissionPolicy:
    """
    Decide whether an association may open.

    Attributes:
        called_ae_titles: our names; empty accepts whatever a requestor calls us.
        callers: who may call, and from where; empty accepts everyone.
        maximum_associations: open at once, in all.
        maximum_associations_per_caller: open at once for one calling AE title; None sets no such limit.

    """

    called_ae_titles: frozenset[AeTitle] = frozenset()
    callers: Mapping[AeTitle, tuple[Network, ...]] = attrs.field(factory=tuple, converter=_merge)
    maximum_associations: int = attrs.field(default=300, validator=attrs.validators.ge(1))
    maximum_associations_per_caller: int | None = attrs.field(
        default=None, validator=attrs.validators.optional(attrs.validators.ge(1))
    )

    @classmethod
    def parse(
        cls,
        *,
        called_ae_titles: Iterable[str] = (),
        callers: Iterable[str] = (),
        maximum_associations: int = 300,
        maximum_associations_per_caller: int | None = None,
    ) -> AdmissionPolicy:
        """
        Build the policy from the texts of settings.

        Raises:
            InvalidIdentifier: for an AE title or network that cannot be one.

        """
        return cls(
            called_ae_titles=frozenset(AeTitle.parse(text) for text in called_ae_titles),
            callers=[PermittedCaller.parse(text) for text in callers],
            maximum_associations=maximum_associations,
            maximum_associations_per_caller=maximum_associations_per_caller,
        )

    def decide(self, facts: AssociationFacts, load: Load) -> Acceptance | Rejection:
        """Answer one request; the same facts and load always get the same answer."""
        calling = _ae_title(facts.calling_ae_title)
        called = _ae_title(facts.called_ae_title)
        return (
            self._refuse_calling(facts, calling)
            or self._refuse_called(facts, called)
            or self._refuse_for_now(facts, load)
            or _accept(calling, called)
        )

    def _refuse_calling(self, facts: AssociationFacts, calling: AeTitle | None) -> Rejection | None:
        shown = ascii(facts.calling_ae_title)
        if calling is None:
            return _calling_refused(
                f"calling AE title {shown} is not valid: configure 1 to 16 printable ASCII characters"
                f" at the device with address {facts.address}"
            )
        if not self.callers:
            return None
        networks = self.callers.get(calling)
        if networks is None:
            return _calling_refused(
                f"calling AE title {shown} is not permitted: add {calling} or {calling}@{facts.address}"
                " to --require-calling-ae-titles if this device may store"
            )
        if networks and not _is_within(facts.address, networks):
            permitted = ", ".join(str(network) for network in networks)
            return _calling_refused(
                f"calling AE title {shown} is permitted from {permitted} only: add {calling}@{facts.address}"
                " to --require-calling-ae-titles if this device has moved"
            )
        return None

    def _refuse_called(self, facts: AssociationFacts, called: AeTitle | None) -> Rejection | None:
        if called is not None and (not self.called_ae_titles or called in self.called_ae_titles):
            return None
        ours = ", ".join(sorted(title.value for title in self.called_ae_titles)) or "any valid AE title"
        return Rejection(
            result=REJECTED_PERMANENT,
            source=SOURCE_SERVICE_USER,
            reason=CALLED_AE_TITLE_NOT_RECOGNIZED,
            explanation=f"called AE title {facts.called_ae_title!a} is not ours ({ours}): correct it at"
            f" {facts.calling_ae_title!a}, or see --ae-title and --require-called-ae-title",
        )

    def _refuse_for_now(self, facts: AssociationFacts, load: Load) -> Rejection | None:
        if load.is_draining:
            return _refused_for_now(
                TEMPORARY_CONGESTION, "the receiver is stopping: nothing to change, the sender should repeat"
            )
        if load.shortage:
            return _refused_for_now(TEMPORARY_CONGESTION, load.shortage)
        if load.associations >= self.maximum_associations:
            return _refused_for_now(
                LOCAL_LIMIT_EXCEEDED,
                f"{load.associations} associations are open: raise --maximum-associations"
                f" ({self.maximum_associations}) or let devices send fewer at once",
            )
        limit = self.maximum_associations_per_caller
        if limit is not None and load.associations_of_caller >= limit:
            return _refused_for_now(
                LOCAL_LIMIT_EXCEEDED,
                f"calling AE title {facts.calling_ae_title!a} has {load.associations_of_caller}"
                f" associations open: raise --maximum-associations-per-ae ({limit}) or let it send fewer at once",
            )
        return None


def _accept(calling: AeTitle | None, called: AeTitle | None) -> Acceptance:
    assert calling is not None  # noqa: S101 - refused before
    assert called is not None  # noqa: S101 - refused before
    return Acceptance(calling_ae_title=calling, called_ae_title=called)


def _calling_refused(explanation: str) -> Rejection:
    return Rejection(
        result=REJECTED_PERMANENT,
        source=SOURCE_SERVICE_USER,
        reason=CALLING_AE_TITLE_NOT_RECOGNIZED,
        explanation=explanation,
    )


def _refused_for_now(reason: int, explanation: str) -> Rejection:
    return Rejection(result=REJECTED_TRANSIENT, source=SOURCE_PRESENTATION, reason=reason, explanation=explanation)


def _ae_title(text: str) -> AeTitle | None:
    try:
        return AeTitle.parse(text)
    except InvalidIdentifier:
        return None


def _is_within(text: str, networks: tuple[Network, ...]) -> bool:
    try:
        address: Address = ip_address(text)
    except ValueError:
        return False
    # A socket bound to both families shows an IPv4 requestor as ::ffff:10.0.0.7.
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return any((mapped or address) in network for network in networks)

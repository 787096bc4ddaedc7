"""
Which presentation contexts we accept: SOP classes, transfer syntaxes, roles (PS3.8 9.3.2.2, PS3.7 D.3).

Refusing a context silently loses part of a study, so the default takes every abstract syntax that is not known to be
something else than storage, private and future ones too, in every encoding that HealthImaging keeps or transcodes.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence

import attrs
from pydicom._uid_dict import UID_dictionary

from adapters.inbound.dicom.associate import (
    AssociateAccept,
    AssociateRequest,
    ContextResult,
    ProposedContext,
    RoleSelection,
)
from adapters.inbound.dicom.commitment_data import TRANSFER_SYNTAXES
from domain.identifiers import Uid

VERIFICATION = "1.2.840.10008.1.1"
STORAGE_SERVICE_CLASS = "1.2.840.10008.4.2"
IMPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2"

_MOST_SHOWN = 20  # UIDs in one line of the log

MAXIMUM_OPERATIONS = 16  # of an asynchronous operations window

ACCEPTED = 0
USER_REJECTION = 1
ABSTRACT_SYNTAX_NOT_SUPPORTED = 3
TRANSFER_SYNTAXES_NOT_SUPPORTED = 4

_PREFIX = "1.2.840.10008.1.2"
# MPEG2 and H.264, each also as fragmentable, then HEVC.
_VIDEO = frozenset(f"{_PREFIX}.4.{number}{suffix}" for number in range(100, 107) for suffix in ("", ".1")) | {
    f"{_PREFIX}.4.107",
    f"{_PREFIX}.4.108",
}
# What HealthImaging keeps or transcodes; any other becomes an opaque blob there (warning 0xB120).
HEALTHIMAGING_TRANSFER_SYNTAXES = _VIDEO | {
    _PREFIX,
    *(f"{_PREFIX}{suffix}" for suffix in (".1", ".1.99", ".2", ".5")),
    *(f"{_PREFIX}.4.{number}" for number in (50, 51, 57, 70, 80, 81, 90, 91, 92, 93, 112, 201, 202, 203)),
}
# What can only be, or can be, compressed with loss.
LOSSY_TRANSFER_SYNTAXES = _VIDEO | {
    f"{_PREFIX}.4.{number}"
    for number in (50, 51, 81, 91, 93, 111, 112, 203, *range(52, 57), *range(59, 65))  # the last are retired
}


class SopClasses(enum.Enum):
    """Which storage SOP classes are welcome, when they are not listed one by one."""

    ANY = "any"  # every abstract syntax that is not known to be something else
    STANDARD = "standard"  # every storage SOP class of the standard, retired ones included


_STORAGE_ROOT = "1.2.840.10008.5.1.4.1.1."  # only the standard assigns here, also after this dictionary was made
_MEDIA_STORAGE_DIRECTORY = "1.2.840.10008.1.3.10"  # for media only, never sent


def _kind(uid: str) -> str:
    """Say what a UID is: "storage", "other", or "" for a private or future one."""
    entry = UID_dictionary.get(uid)
    if entry is None:
        return "storage" if uid.startswith(_STORAGE_ROOT) else ""
    name, kind = entry[:2]
    if kind != "SOP Class" or "Commitment" in name or uid == _MEDIA_STORAGE_DIRECTORY:
        return "other"
    # The two nameless ones are retired image classes under the storage root.
    return "storage" if "Storage" in name or not name else "other"


@attrs.frozen(kw_only=True)
class PresentationPolicy:
    """
    Decide each proposed presentation context.

    Attributes:
        sop_classes: SopClasses.ANY, SopClasses.STANDARD, or the UIDs of the welcome SOP classes.
        transfer_syntaxes: UIDs of the welcome transfer syntaxes; None for all.
        services: further abstract syntaxes that somebody here serves, Verification among them.

    """

    sop_classes: SopClasses | frozenset[str] = SopClasses.ANY
    transfer_syntaxes: frozenset[str] | None = HEALTHIMAGING_TRANSFER_SYNTAXES
    services: frozenset[str] = frozenset({VERIFICATION})

    @classmethod
    def parse(
        cls,
        sop_classes: Iterable[str] = (),
        transfer_syntaxes: str = "healthimaging",
        services: Iterable[str] = (),
    ) -> PresentationPolicy:
        """
        Build the policy from the texts of settings.

        Args:
            sop_classes: nothing or `any`, `standard`, or UIDs.
            transfer_syntaxes: `healthimaging` or `all`.
            services: UIDs of services besides Verification, such as Storage Commitment Push Model.

        Raises:
            InvalidIdentifier: for a text that is neither a keyword nor a UID.
            ValueError: for another word than `healthimaging` or `all`.

        """
        texts = list(sop_classes)
        classes: SopClasses | frozenset[str]
        if not texts or texts == [SopClasses.ANY.value]:
            classes = SopClasses.ANY
        elif texts == [SopClasses.STANDARD.value]:
            classes = SopClasses.STANDARD
        else:
            classes = frozenset(Uid.parse(text, "supported SOP Class UID").value for text in texts)
        if transfer_syntaxes not in {"healthimaging", "all"}:
            raise ValueError(f"transfer syntaxes {transfer_syntaxes!r}: healthimaging or all is allowed")
        return cls(
            sop_classes=classes,
            transfer_syntaxes=None if transfer_syntaxes == "all" else HEALTHIMAGING_TRANSFER_SYNTAXES,
            services=frozenset({VERIFICATION, *services}),
        )

    def is_storage_welcome(self, sop_class_uid: str, general: Sequence[str] = ()) -> bool:
        """
        Say whether instances of a SOP class are welcome.

        Args:
            sop_class_uid: as proposed or as a C-STORE names it; may be no UID at all.
            general: the related general SOP classes, when the requestor said that it is a storage SOP class.

        """
        if not sop_class_uid:
            return False
        if self.sop_classes is SopClasses.ANY:
            return _kind(sop_class_uid) != "other"
        if self.sop_classes is SopClasses.STANDARD:
            return any(_kind(uid) == "storage" for uid in (sop_class_uid, *general))
        return any(uid in self.sop_classes for uid in (sop_class_uid, *general))

    def negotiate(self, request: AssociateRequest, maximum_length: int) -> AssociateAccept:
        """
        Answer every proposal; with no acceptable context the answer is an acceptance that refuses each.

        Args:
            request: what the requestor proposes.
            maximum_length: the longest P-DATA-TF PDU we take.

        """
        general = {
            item.sop_class_uid: item.related_general_sop_classes
            for item in request.common_extended
            if item.service_class_uid == STORAGE_SERVICE_CLASS
        }
        proposed_roles = {role.sop_class_uid: role for role in request.roles}
        contexts = tuple(self._answer(context, general, proposed_roles) for context in request.contexts)
        accepted = frozenset(context.abstract_syntax for context in contexts if context.result == ACCEPTED)
        identity = request.user_identity
        return AssociateAccept(
            contexts=contexts,
            maximum_length=maximum_length,
            asynchronous_operations=answer_operations_window(request.asynchronous_operations),
            # The requestor may be SCU; we never are for these classes, so it may not be SCP.
            roles=tuple(
                RoleSelection(sop_class_uid=uid, is_scu=role.is_scu, is_scp=False)
                for uid, role in proposed_roles.items()
                if uid in accepted
            ),
            extended=storage_information(request.extended, accepted - self.services),
            is_user_identity_answered=identity is not None and identity.is_answer_wanted,
        )

    def _answer(
        self,
        context: ProposedContext,
        general: Mapping[str, Sequence[str]],
        roles: Mapping[str, RoleSelection],
    ) -> ContextResult:
        abstract_syntax = context.abstract_syntax
        chosen = ""
        if abstract_syntax in self.services or self.is_storage_welcome(
            abstract_syntax, general.get(abstract_syntax, ())
        ):
            chosen = self._choose(self._fit(abstract_syntax, context.transfer_syntaxes))
            result = ACCEPTED if chosen else TRANSFER_SYNTAXES_NOT_SUPPORTED
        else:
            result = ABSTRACT_SYNTAX_NOT_SUPPORTED
        role = roles.get(abstract_syntax)
        if result == ACCEPTED and role is not None and not role.is_scu:
            result = USER_REJECTION
        return ContextResult(
            context_id=context.context_id,
            abstract_syntax=abstract_syntax,
            result=result,
            transfer_syntax=chosen or next(iter(context.transfer_syntaxes), IMPLICIT_LITTLE_ENDIAN),
        )

    def _fit(self, abstract_syntax: str, proposed: Sequence[str]) -> Sequence[str]:
        """Leave out the encodings of pixels where the data sets of a service are exchanged, which have none."""
        if abstract_syntax not in self.services or abstract_syntax == VERIFICATION:
            return proposed
        return [uid for uid in proposed if uid in TRANSFER_SYNTAXES]

    def _choose(self, proposed: Sequence[str]) -> str:
        """
        Take the requestor's first acceptable syntax; "" if there is none.

        A lossy one only if it stands first or nothing lossless is acceptable, so that nobody compresses with loss to
        please us.
        """
        allowed = self.transfer_syntaxes
        acceptable = [uid for uid in proposed if allowed is None or uid in allowed]
        if not acceptable:
            return ""
        if acceptable[0] == proposed[0]:
            return acceptable[0]
        return next((uid for uid in acceptable if uid not in LOSSY_TRANSFER_SYNTAXES), acceptable[0])


def name_of(uid: str) -> str:
    """Name a SOP class or transfer syntax for people; "private or unknown" if the standard does not name it."""
    if not uid:
        return "not a UID"
    return UID_dictionary[uid][0] if uid in UID_dictionary else "private or unknown"


@attrs.frozen(kw_only=True)
class RefusedContexts:
    """
    The contexts of one association that were refused for one reason, in words for the administrator.

    Attributes:
        result: why: 3 abstract syntax, 4 transfer syntaxes not supported (PS3.8 table 9-18).
        contexts: how many.
        abstract_syntaxes: "UID (name)" of each, the first ones only if they are many.
        transfer_syntaxes: what was proposed for them, the same way.

    """

    result: int
    contexts: int
    abstract_syntaxes: str
    transfer_syntaxes: str


def refused_contexts(proposed: Iterable[ProposedContext], results: Iterable[ContextResult]) -> list[RefusedContexts]:
    """Sum up what was refused: a device proposes up to 128 contexts, each time it connects."""
    proposals = {context.context_id: context for context in proposed}
    by_result: dict[int, list[ProposedContext]] = {}
    for answer in results:
        if answer.result:
            by_result.setdefault(answer.result, []).append(proposals[answer.context_id])
    return [
        RefusedContexts(
            result=result,
            contexts=len(contexts),
            abstract_syntaxes=_listed(context.abstract_syntax for context in contexts),
            transfer_syntaxes=_listed(uid for context in contexts for uid in context.transfer_syntaxes),
        )
        for result, contexts in sorted(by_result.items())
    ]


def _listed(uids: Iterable[str]) -> str:
    distinct = list(dict.fromkeys(uids))
    shown = [f"{uid} ({name_of(uid)})" for uid in distinct[:_MOST_SHOWN]]
    if len(distinct) > _MOST_SHOWN:
        shown.append(f"and {len(distinct) - _MOST_SHOWN} more")
    return ", ".join(shown)


def answer_operations_window(proposed: tuple[int, int] | None) -> tuple[int, int] | None:
    """
    Answer an asynchronous operations window (PS3.7 D.3.3.3).

    We perform up to 16 operations that wait for us in order, and never invoke more than one at a time.
    """
    if proposed is None:
        return None
    invoked = proposed[0]
    return (min(invoked, MAXIMUM_OPERATIONS) if invoked else MAXIMUM_OPERATIONS, 1)


def storage_information(
    proposed: Sequence[tuple[str, bytes]], accepted: frozenset[str]
) -> tuple[tuple[str, bytes], ...]:
    """
    Answer SOP class extended negotiations of accepted storage classes (PS3.4 B.3.1.2).

    Level 2 (every attribute is kept), signature level 3 (bit for bit), no coercion; the bytes between are reserved.
    """
    # Each class once, however often it was proposed: the answers must fit one item of 64 KiB.
    return tuple((uid, b"\2\0\3\0\0\0") for uid in dict.fromkeys(uid for uid, _ in proposed) if uid in accepted)

"""
To which image set an instance belongs (the service's rules for organizing imports).
"""

from __future__ import annotations

import attrs


@attrs.frozen(kw_only=True)
class Deciding:
    """
    The elements that decide about image sets, padding removed, None where absent or empty.

    An absent element differs from a present one.
    """

    study: str
    study_date: str | None = attrs.field(repr=False)
    accession_number: str | None = attrs.field(repr=False)
    patient_id: str | None = attrs.field(repr=False)
    study_id: str | None = attrs.field(repr=False)
    series: str
    series_number: str | None = attrs.field(repr=False)

    @property
    def study_level(self) -> tuple[str | None, ...]:
        """What all series of one study share."""
        return self.study, self.study_date, self.accession_number, self.patient_id, self.study_id


def belongs_to_primary(
    instance: Deciding, *, primary_of_series: Deciding | None, primary_of_study: Deciding | None
) -> bool:
    """
    Say whether an instance agrees with the primary data that is there.

    Args:
        instance: the elements of the instance.
        primary_of_series: those of the series' primary image set, if there is one.
        primary_of_study: those of the study's oldest primary image set, if there is one.

    Returns:
        True if it joins, or founds, the series' primary image set; False if it goes to a non-primary one.

    """
    if primary_of_series is not None:
        return instance == primary_of_series
    # The scope of the comparison is not documented for a new series: study elements are compared with what is
    # primary in the study, so that one study never shows two patients.
    return primary_of_study is None or instance.study_level == primary_of_study.study_level

"""
Settings to an application: picks the profile.
"""

from __future__ import annotations

from adapters.entrypoints.local_application import LocalApplication
from adapters.entrypoints.settings import Settings
from adapters.inbound.application import Application
from domain.errors import NotPossible


def build(settings: Settings) -> Application:
    """
    Return the application of the profile that the settings name; it opens what it needs when it needs it.

    Raises:
        NotPossible: the packages of the profile are not installed.

    """
    if settings.profile == "local":
        return LocalApplication(settings)
    try:
        from adapters.entrypoints.aws_application import AwsApplication
    except ModuleNotFoundError as error:
        raise NotPossible(
            f"the profile aws needs the package {error.name}; `make deploy` installs it, or:"
            " .venv/bin/pip install --require-hashes -r requirements/aws.txt"
        ) from error
    return AwsApplication(settings)

"""
Whether what a boto3 client is asked for is what the service takes.

The SDK itself checks names, types and minimum lengths only; here patterns, words and maxima of botocore's own service
models are checked too, as the service would.
"""

from __future__ import annotations

from typing import Any

import attrs

from adapters.entrypoints.medical_imaging.service_model import problems_of


@attrs.define
class Asked:
    """
    What clients were asked for.

    Attributes:
        operations: such as `dynamodb:PutItem`.
        problems: parameters that break a rule of their service, by operation, without their values.

    """

    operations: set[str] = attrs.field(factory=set)
    problems: list[str] = attrs.field(factory=list)

    def watch(self, client: Any) -> None:
        """Note from now on what `client` is asked for."""
        client.meta.events.register_last("before-parameter-build", self._note)

    def _note(self, params: Any, model: Any, **_: Any) -> None:
        operation = f"{model.service_model.service_name}:{model.name}"
        self.operations.add(operation)
        if model.input_shape is not None:
            self.problems += [f"{operation}: {problem}" for problem in problems_of(model.input_shape, params)]


def watched(client: Any) -> Any:
    """Return `client`, which from now on refuses what its service would refuse."""

    def check(params: Any, model: Any, **_: Any) -> None:
        problems = [] if model.input_shape is None else list(problems_of(model.input_shape, params))
        assert problems == [], model.name

    client.meta.events.register_last("before-parameter-build", check)
    return client

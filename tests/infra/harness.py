"""
Runs the whole deployment program without the Pulumi command line, against mocks that record every resource.
"""

from __future__ import annotations

import asyncio
import contextvars
import json
import logging
import runpy
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attrs
import pulumi
import yaml
from pulumi.runtime import mocks as pulumi_mocks
from pulumi.runtime import rpc, set_all_config, set_mocks, settings
from pulumi.runtime.stack import run_pulumi_func

ROOT = Path(__file__).parents[2]
PROJECT = "dicom-store-scp"
_SIGNATURE, _SECRET = "4dabf18193072939515e22adb298388d", "1b47061264138c4ac30d75fd1eb44270"
STACK_TYPE = "pulumi:pulumi:Stack"


def plain(value: Any) -> Any:
    """Return what a resource was given, as Python has it: whole numbers whole, secrets open."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        if value.get(_SIGNATURE) == _SECRET:
            return plain(value["value"])
        return {key: plain(item) for key, item in value.items()}
    return value


@attrs.frozen
class Registered:
    """
    One resource as the program asked for it.

    Attributes:
        request: the engine's message: protect, ignoreChanges, dependencies, retainOnDelete.

    """

    type: str
    name: str
    urn: str
    parent: str
    inputs: dict[str, Any]
    request: Any

    def document(self, key: str = "policy") -> Any:
        """Return an input that is JSON text."""
        return json.loads(self.inputs[key])


class RecordingMonitor(pulumi_mocks.MockMonitor):
    """Keeps every registration; a name taken twice is an error, as in the engine."""

    def __init__(self, mocks: pulumi_mocks.Mocks) -> None:
        super().__init__(mocks)
        self.registered: dict[str, Registered] = {}
        self._lock = threading.Lock()

    def RegisterResource(self, request: Any) -> Any:  # noqa: N802  # the engine's name
        urn = self.make_urn(request.parent, request.type, request.name)
        inputs = plain(rpc.deserialize_properties(request.object))
        with self._lock:
            if urn in self.registered:
                raise RuntimeError(f"two resources are called {urn}")
            self.registered[urn] = Registered(request.type, request.name, urn, request.parent, inputs, request)
        return super().RegisterResource(request)


class Workers:
    """Threads with an event loop each, which the mocks would else make for them and never close."""

    def __init__(self) -> None:
        self.executor = ThreadPoolExecutor(max_workers=16, initializer=self._give_loop)
        self._loops: list[asyncio.AbstractEventLoop] = []

    def close(self) -> None:
        """Wait for the threads to end, and close their loops."""
        self.executor.shutdown()
        for loop in self._loops:
            loop.close()

    def _give_loop(self) -> None:
        self._loops.append(asyncio.new_event_loop())
        asyncio.set_event_loop(self._loops[-1])


@attrs.frozen
class Deployed:
    """What a run of the program came to."""

    resources: list[Registered]
    outputs: dict[str, Any]

    def of(self, resource_type: str) -> list[Registered]:
        """Return the resources of a type; the end of its token is enough."""
        return [resource for resource in self.resources if resource.type.endswith(resource_type)]

    def one(self, resource_type: str, name: str = "") -> Registered:
        """Return the one resource of a type whose name ends so."""
        found = [resource for resource in self.of(resource_type) if resource.name.endswith(name)]
        assert len(found) == 1, f"{resource_type} {name}: {[resource.name for resource in found]}"
        return found[0]


def run_program(
    program: Callable[[], object],
    mocks: pulumi_mocks.Mocks,
    config: Mapping[str, str],
    *,
    stack: str = "test",
    secrets: Iterable[str] = (),
    preview: bool = False,
) -> Deployed:
    """Run a program as the engine would, in a context of its own so that nothing leaks into the next run."""

    def inner() -> Deployed:
        settings.ROOT.set(None)
        settings.SETTINGS.outputs = set()
        settings.SETTINGS.rpc_manager.clear()
        set_all_config(dict(config), list(secrets))
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        monitor, loop = RecordingMonitor(mocks), asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        workers = Workers()
        loop.set_default_executor(workers.executor)
        try:
            set_mocks(mocks, project=PROJECT, stack=stack, preview=preview, monitor=monitor)
            exports: dict[str, Any] = {}

            async def main() -> None:
                program()
                exports.update(settings.get_root_resource().outputs)

            loop.run_until_complete(run_pulumi_func(main))

            async def value(output: Any) -> Any:
                resolved = pulumi.Output.from_input(output)
                return await resolved.future() if await resolved.is_known() else "<unknown>"

            outputs = {key: loop.run_until_complete(value(output)) for key, output in exports.items()}
        finally:
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()
            workers.close()
            asyncio.set_event_loop(None)
        resources = [resource for resource in monitor.registered.values() if resource.type != STACK_TYPE]
        return Deployed(resources, outputs)

    return contextvars.copy_context().run(inner)


def main_program() -> None:
    """Run `__main__.py`."""
    runpy.run_path(str(ROOT / "__main__.py"), run_name="__main__")


def stack_files() -> list[str]:
    """Return the names of the committed stacks."""
    return sorted(path.name.removeprefix("Pulumi.").removesuffix(".yaml") for path in ROOT.glob("Pulumi.*.yaml"))


def project_schema() -> dict[str, dict[str, Any]]:
    """Return what `Pulumi.yaml` says of each setting."""
    schema: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "Pulumi.yaml").read_text(encoding="utf-8"))["config"]
    return schema


def stack_config(stack: str) -> dict[str, str]:
    """Return the configuration of a committed stack as the command line hands it to the program."""
    given = yaml.safe_load((ROOT / f"Pulumi.{stack}.yaml").read_text(encoding="utf-8"))["config"]
    return as_engine(given)


def as_engine(given: Mapping[str, Any]) -> dict[str, str]:
    """Return settings as text, the defaults of `Pulumi.yaml` filled in, each with its namespace."""
    merged = {key: rule["default"] for key, rule in project_schema().items() if "default" in rule}
    merged.update({key.removeprefix(f"{PROJECT}:"): value for key, value in given.items()})
    return {key if ":" in key else f"{PROJECT}:{key}": _text(value) for key, value in merged.items()}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)

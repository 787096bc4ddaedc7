"""
Stands in for the Pulumi engine on a loopback port, so that a process can run `__main__.py` as the command line does.

Run as a program it is that process, and does what the command line's executor does: it is given the address and the
stack in its environment, and tells a RunError without a traceback.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import runpy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pulumi
from google.protobuf import empty_pb2
from pulumi.runtime import configure, run_in_stack, set_all_config
from pulumi.runtime.mocks import Mocks
from pulumi.runtime.proto import engine_pb2_grpc, resource_pb2, resource_pb2_grpc
from pulumi.runtime.settings import Settings

from tests.infra.harness import PROJECT, ROOT, RecordingMonitor, Workers


class Monitor(resource_pb2_grpc.ResourceMonitorServicer):
    """Hands every call to the recording mocks."""

    def __init__(self, monitor: RecordingMonitor) -> None:
        self._monitor = monitor

    def SupportsFeature(self, request: Any, context: Any) -> Any:  # noqa: N802  # the engine's names, here and below
        return resource_pb2.SupportsFeatureResponse(hasSupport=request.id in {"secrets", "resourceReferences"})

    def Invoke(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self._monitor.Invoke(request)

    def RegisterResource(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self._monitor.RegisterResource(request)

    def RegisterResourceOutputs(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self._monitor.RegisterResourceOutputs(request)

    def SignalAndWaitForShutdown(self, request: Any, context: Any) -> Any:  # noqa: N802
        return empty_pb2.Empty()

    def GetDeploymentInfo(self, request: Any, context: Any) -> Any:  # noqa: N802
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "an older engine")


class Engine(engine_pb2_grpc.EngineServicer):
    """Takes what the program logs."""

    def __init__(self) -> None:
        self.logged: list[str] = []

    def Log(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.logged.append(request.message)
        return empty_pb2.Empty()


@contextmanager
def serve(mocks: Mocks) -> Iterator[tuple[str, RecordingMonitor, Engine]]:
    """Serve an engine; give its address, what it recorded and what was logged."""
    monitor, engine = RecordingMonitor(mocks), Engine()
    workers = Workers()
    server = grpc.server(workers.executor)
    resource_pb2_grpc.add_ResourceMonitorServicer_to_server(Monitor(monitor), server)
    engine_pb2_grpc.add_EngineServicer_to_server(engine, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}", monitor, engine
    finally:
        server.stop(grace=None).wait()
        workers.close()


def _run() -> None:
    set_all_config(json.loads(os.environ["PULUMI_CONFIG"]), [])
    address, stack = os.environ["ENGINE_ADDRESS"], os.environ["ENGINE_STACK"]
    configure(
        Settings(
            monitor=address,
            engine=address,
            project=PROJECT,
            stack=stack,
            parallel=16,
            dry_run=os.environ["ENGINE_PREVIEW"] == "1",
            organization="organization",
            root_directory=str(ROOT),
        )
    )
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    program = str(ROOT / "__main__.py")
    try:
        loop.run_until_complete(run_in_stack(lambda: runpy.run_path(program, run_name="__main__")))
    except pulumi.RunError as error:
        pulumi.log.error(str(error))
        sys.exit(1)


if __name__ == "__main__":
    _run()

"""
A stand-in for HealthImaging: the embedded data store behind the `medical-imaging` API, over HTTP, on this machine.

It lives among the entrypoints and not among the driving adapters, since it joins what these may not know: the SDK's
own description of the service, S3, and the embedded data store.

    http_server.py    sockets, signatures, routes, the shape of errors, `/_control`
    service_model.py  requests checked against the SDK's service model
    operations.py     each operation on the embedded data store
    behaviour.py      rates, quotas, and the faults that are asked for
"""

from adapters.entrypoints.medical_imaging.behaviour import Behaviour, Rate, Refusal, Results
from adapters.entrypoints.medical_imaging.http_server import HealthImagingStandIn

__all__ = ["Behaviour", "HealthImagingStandIn", "Rate", "Refusal", "Results"]

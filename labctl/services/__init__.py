"""The service types. A new one is a module here, its steps in cloud-init/steps, its checks in tests/labs."""

from typing import Annotated

from pydantic import Field

from labctl.services.base import Finding, Frontend, Placement, Service
from labctl.services.httpd import Httpd
from labctl.services.ipvs import Ipvs

AnyService = Annotated[Httpd | Ipvs, Field(discriminator="type")]

__all__ = ["AnyService", "Finding", "Frontend", "Httpd", "Ipvs", "Placement", "Service"]

"""The service types. Each has a module here, its steps in cloud-init/steps, and its checks in tests/labs."""

from typing import Annotated

from pydantic import Field

from labctl.language.services.base import Failover, Finding, Frontend, Placement, Service, Timing
from labctl.language.services.haproxy import Haproxy
from labctl.language.services.heartbeat import Heartbeat
from labctl.language.services.httpd import Httpd
from labctl.language.services.ipvs import Ipvs
from labctl.language.services.nginx import Nginx
from labctl.language.services.nginx_vhosts import NginxVhosts
from labctl.language.services.ntp import Ntp
from labctl.language.services.router import Router
from labctl.language.services.vrrp import Vrrp

AnyService = Annotated[Haproxy | Heartbeat | Httpd | Ipvs | Nginx | NginxVhosts | Ntp | Router | Vrrp,
                       Field(discriminator="type")]

__all__ = ["AnyService", "Failover", "Finding", "Frontend", "Haproxy", "Heartbeat", "Httpd", "Ipvs", "Nginx",
           "NginxVhosts", "Ntp", "Placement", "Router", "Service", "Timing", "Vrrp"]

"""The service types. A new one is a module here, its steps in cloud-init/steps, its checks in tests/labs."""

from typing import Annotated

from pydantic import Field

from labctl.services.base import Failover, Finding, Frontend, Placement, Service
from labctl.services.haproxy import Haproxy
from labctl.services.heartbeat import Heartbeat
from labctl.services.httpd import Httpd
from labctl.services.ipvs import Ipvs
from labctl.services.nginx import Nginx
from labctl.services.nginx_vhosts import NginxVhosts
from labctl.services.ntp import Ntp
from labctl.services.router import Router
from labctl.services.vrrp import Vrrp

AnyService = Annotated[Haproxy | Heartbeat | Httpd | Ipvs | Nginx | NginxVhosts | Ntp | Router | Vrrp,
                       Field(discriminator="type")]

__all__ = ["AnyService", "Failover", "Finding", "Frontend", "Haproxy", "Heartbeat", "Httpd", "Ipvs", "Nginx",
           "NginxVhosts", "Ntp", "Placement", "Router", "Service", "Vrrp"]

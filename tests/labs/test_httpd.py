"""Web servers, each by its own address."""


from labctl.language.services import Httpd
from labctl.observe.observer import Observer
from labctl.observe.web import must_be_well


def test_own_page(httpd_server: tuple[str, str], observer: Observer) -> None:
    """the server answers at its own address with its own page"""
    name, server = httpd_server
    must_be_well(server, observer.service(name, Httpd).port, observer)

"""nginx as a web server, each by its own address."""


from labctl.language.services import Nginx
from labctl.observe.observer import Observer
from labctl.observe.web import must_be_well


def test_nginx_page(nginx_server: tuple[str, str], observer: Observer) -> None:
    """the server answers at its own address with its own page"""
    name, server = nginx_server
    must_be_well(server, observer.service(name, Nginx).port, observer)

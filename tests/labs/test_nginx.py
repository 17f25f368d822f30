"""nginx as a web server, each by its own address."""

from observe import Observer

from labctl.services import Nginx


def test_nginx_page(nginx_server: tuple[str, str], observer: Observer) -> None:
    """the server answers at its own address with its own page"""
    name, server = nginx_server
    service = observer.service(name, Nginx)
    asker = observer.neighbour(server)
    address = observer.own_address(asker, server)
    answers = observer.sample(address, service.port, 1, start=asker)
    status = answers[0].status if answers else 0
    if not status:
        runs = observer.says(server, "systemctl is-active nginx") == "active"
        observer.blame(f"'{server}' does not answer on port {service.port} of its own address {address}.",
                       (server, "nginx/site" if runs else "nginx/nginx"))
    if status != 200 or answers[0].page != server:
        observer.blame(f"'{server}' answers with HTTP status {status} and the page {answers[0].page[:40]!r}, "
                       "not with its own page.", (server, "nginx/page"))

"""Web servers, each by its own address."""

from observe import Observer

from labctl.plan import Plan
from labctl.services.httpd import PORT


def test_own_page(httpd_server: str, plan: Plan, observer: Observer) -> None:
    """the server answers the client with its own page"""
    address = plan.access_address(plan.node(httpd_server))
    answers = observer.sample(address, PORT, 1)
    status = answers[0].status if answers else 0
    if not status:
        observer.blame(f"'{httpd_server}' does not answer on port {PORT} of its own address {address}.",
                       (httpd_server, "httpd/httpd"))
    if status != 200 or answers[0].page != httpd_server:
        observer.blame(f"'{httpd_server}' answers with HTTP status {status} and the page {answers[0].page[:40]!r}, "
                       "not with its own page.", (httpd_server, "httpd/page"))

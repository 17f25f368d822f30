"""labctl.observe.selection: which checks an expression stands for."""

import pytest

from labctl.base.errors import LabError
from labctl.observe.selection import matching
from labctl.observe.verdict import Check

CHECKS = [Check(id=f"{subject}/{name}", title=f"{subject}: {title}", subject=subject) for subject, name, title in (
    ("web", "arp", "only the first director answers ARP for the VIP"),
    ("web", "spread", "requests are spread exactly as the scheduler says"),
    ("shop", "closed_connections", "connections of the past count for lc and wlc, and not for sed and nq"),
    ("shop", "crash", "a holder that crashes is replaced"),
)]


@pytest.mark.parametrize(("expression", "expected"), [
    ("", "arp spread closed_connections crash"),
    ("  ", "arp spread closed_connections crash"),
    ("past", "closed_connections"),
    ("of the PAST", "closed_connections"),
    ("arp", "arp"),
    ("web/", "arp spread"),
    ("web/spread or crash", "spread crash"),
    ("not web", "closed_connections crash"),
    ("shop and not crash", "closed_connections"),
    ("not (arp or crash)", "spread closed_connections"),
    ("web and arp or shop and crash", "arp crash"),
    ("(web or shop) and c", "arp spread closed_connections crash"),
    ("not not arp", "arp"),
    ("director answers arp", "arp"),
    ("answers director", ""),
    ("shop: connections of the past count for lc and wlc", "closed_connections"),
])
def test_words_of_names_and_titles_choose_checks(expression: str, expected: str) -> None:
    assert [check.id.partition("/")[2] for check in matching(CHECKS, expression)] == expected.split()


@pytest.mark.parametrize("expression", ["or", "a or", "and b", "not", "(a", "a)", "()", "a (b)", "a not b"])
def test_an_expression_that_makes_no_sense_is_refused(expression: str) -> None:
    with pytest.raises(LabError, match="cannot be read as words"):
        matching(CHECKS, expression)

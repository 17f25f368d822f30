"""A drill: steady requests while something breaks, heals, and the lab comes to rest; and what was promised for it."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime

from labctl.base.errors import LabError
from labctl.base.wait import Deadline, until
from labctl.labs.journal import Wanted
from labctl.labs.lab import Lab, under_test
from labctl.language.services import Frontend, Ipvs
from labctl.observe import breaking, promises
from labctl.observe.course import Course
from labctl.observe.events import has_now
from labctl.observe.faults import wanted
from labctl.observe.faults.faults import Faults
from labctl.observe.live import Witnesses
from labctl.observe.observer import Observer
from labctl.observe.outage import TIMEOUT_SECONDS
from labctl.observe.promises import Promise, Slack, promise
from labctl.observe.verdict import CheckFailed, Measured, Verdict
from labctl.plan.plan import Plan

_OFF = ("crash", "freeze")

Say = Callable[[str], None]


def run(lab: Lab, faults: Sequence[Wanted], rate: float, say: Say, ends: Callable[[Course], None]) -> None:
    """Have a drill with each fault, one after the other; `ends` is told of each.

    Raises LabError where somebody else tests or changes the lab, and where it does not serve to begin with. If it is
    interrupted, what it has broken heals first.
    """
    for what in faults:
        frontend_for(lab.plan, what)
    with under_test(lab.name):
        there = Observer(lab).faults
        try:
            there.mend(say)
            for what in faults:
                ends(_drill(lab, what, rate, say))
        except CheckFailed as problem:
            raise LabError(problem.message, hint="'labctl test' finds out what is wrong.") from None
        except KeyboardInterrupt:
            _put_back(there, say)
            raise


def _put_back(there: Faults, say: Say) -> None:
    """Heal what a drill has broken. A node that was switched off boots, and nobody waits for it."""
    for what in there.in_force():
        if what.by == "check" and what.kind != "crash":
            say(f"{what.what} heals.")
            with suppress(LabError):  # What is left is told of below.
                there.heal(what)
    there.hurry(say)


def _drill(lab: Lab, what: Wanted, rate: float, say: Say) -> Course:
    observer = Observer(lab)
    frontend = frontend_for(lab.plan, what)
    more = promises.slack(lab)
    witnesses = Witnesses(observer, frontend, rate)
    with witnesses.serving():
        holder = _holder(witnesses, frontend)
        promised = promise(lab.plan, frontend, what, holder, more)
        say(f"{what.what}: {_told(promised)}")
        zero, began = time.monotonic(), datetime.now(UTC)
        with breaking.broken(observer, what):
            done = time.monotonic()
            _rest(witnesses, frontend, promised)
            heal = time.monotonic()
            say(f"{what.what} heals.")
        healed = time.monotonic()
        expected = _expected(frontend, what, holder, witnesses)
        _return(witnesses, frontend, expected, promised, what, lab.patience)
        end = time.monotonic()
        timeline = witnesses.timeline(zero)
        start = timeline.requests[0].began
        course = Course(
            lab=lab.name, fault=what.what, node=what.nodes[0], off=what.kind in _OFF, address=frontend.address,
            port=frontend.port, rate=rate, began=began.isoformat(timespec="milliseconds"), promise=promised,
            error=round(witnesses.error, 4),
            **{name: round(moment - zero, 3) for name, moment in (
                ("done", done), ("heal", heal), ("healed", healed), ("end", end))},
            start=start, requests=tuple(timeline.every),
            events=tuple(event for event in witnesses.events(zero)
                         if event.kind in ("vip", "node") or event.at > start))
    return course.model_copy(update={"verdicts": tuple(judge(course, frontend, expected, more))})


def frontend_for(plan: Plan, what: Wanted) -> Frontend:
    """The address that clients see the fault at: one that the node may hold, or else the first. Raises LabError."""
    frontends = plan.frontends()
    client = plan.clients()[0].name if frontends else ""
    if what.kind in _OFF and client in what.nodes:
        raise LabError(f"'{client}' is the node that asks, so nobody could tell what clients notice.",
                       hint="'labctl fault' breaks it all the same.")
    if not frontends:
        raise LabError(f"The lab '{plan.lab}' has no address that clients use, so nothing can be seen of a fault.")
    return next((frontend for frontend in frontends if set(what.nodes) & set(frontend.holders)), frontends[0])


def _holder(witnesses: Witnesses, frontend: Frontend) -> str:
    """Who has the address. Raises LabError where not exactly one node has."""
    if frontend.failover is None:
        return frontend.holders[0]
    holders = _holders(witnesses)
    if len(holders) != 1:
        who = " and ".join(map(repr, holders)) or "Nobody"
        raise LabError(f"{who} {'have' if len(holders) > 1 else 'has'} {frontend.address}, which one node should have.",
                       hint="'labctl test' finds out what is wrong.")
    return holders[0]


def _holders(witnesses: Witnesses) -> list[str]:
    """Who has the address now."""
    return [node for node, has in has_now(witnesses.events(), witnesses.frontend.address).items() if has]


def _rest(witnesses: Witnesses, frontend: Frontend, promised: Promise | None) -> None:
    """Wait for what the fault does, and until all requests are answered again, if that is ever so."""
    least = frontend.failover.crash_seconds if frontend.failover else 0
    most = 2 * promised.allowed if promised else 2 * least
    begun = time.monotonic()
    witnesses.calm(Deadline(max(most, least) + 3 * TIMEOUT_SECONDS))
    until(lambda: time.monotonic() - begun >= least, Deadline(least))


def _expected(frontend: Frontend, what: Wanted, holder: str, witnesses: Witnesses) -> str:
    """Who has the address in the end: the first choice, or whoever took it and keeps it."""
    if frontend.failover is None or frontend.failover.returns:
        return frontend.holders[0]
    others = [node for node in _holders(witnesses) if node != holder]
    return others[0] if others and holder in what.nodes else holder


def _return(witnesses: Witnesses, frontend: Frontend, expected: str, promised: Promise | None, what: Wanted,
            patience: float) -> None:
    """Wait until all is as it was: who holds the address, who answers, and that everybody gets an answer."""
    def as_it_was() -> bool:
        servers = {who for answer in witnesses.timeline().answers if answer.ended > back
                   for who in answer.server.split()}
        return (frontend.failover is None or _holders(witnesses) == [expected]) \
            and (promised is None or promised.kind != "removal" or what.nodes[0] in servers)

    back = time.monotonic()
    seconds = (promised.seconds if promised else 0) + 10 * patience
    until(as_it_was, Deadline(seconds))
    witnesses.calm(Deadline(seconds))


def _told(promised: Promise | None) -> str:
    match promised:
        case None:
            return "the topology promises nothing for this."
        case Promise(kind="nothing"):
            return "no request may be lost."
        case Promise(kind="takeover"):
            return f"an answer within {promised.seconds:.1f} s is promised; {promised.why}."
        case _:
            return f"requests may be lost for {promised.seconds:.0f} s; {promised.why}."


def judge(course: Course, frontend: Frontend, expected: str, more: Slack) -> list[Verdict]:
    """The verdicts on a drill: what was promised, what it costs to come back, and who has the address in the end."""
    verdicts = []
    seconds = round(course.end - course.start, 1)

    def say(name: str, title: str, good: bool, message: str, measured: Measured | None = None) -> None:
        verdicts.append(Verdict(
            id=f"{course.fault.replace(' ', '-')}/{name}", title=f"{course.fault}: {title}", subject=course.node,
            outcome="passed" if good else "failed", message="" if good else message, measured=measured,
            seconds=seconds))

    lost = sum(course.timeline.outcomes(0, course.heal).values()) - course.timeline.outcomes(0, course.heal)["answered"]
    match course.promise:
        case None:
            pass
        case Promise(kind="nothing"):
            say("lost", "no request is lost", not lost, f"{lost} requests were lost.",
                Measured(value=lost, unit="requests", bound=0))
        case promised:
            what = "nobody answers" if promised.kind == "takeover" else "requests are lost"
            say(promised.kind, f"{what} for no longer than is promised", course.measure <= promised.allowed,
                f"{what[0].upper()}{what[1:]} for {course.measure:.3f} s; {promised.seconds:.1f} s are promised, and "
                f"{promised.allowed:.1f} s allowed.",
                Measured(value=round(course.measure, 3), unit="s", bound=round(promised.allowed, 3)))
    after = course.silence_after
    silent = after.seconds if after else course.end - course.heal
    allowed = more.seconds(frontend.failover.stop_seconds, frontend.failover) if frontend.failover else more.noticed
    say("return", "nobody is without an answer for long when it is back", silent <= allowed,
        f"While it came back, nobody answered for {silent:.3f} s; {allowed:.1f} s are allowed.",
        Measured(value=round(silent, 3), unit="s", bound=round(allowed, 3)))
    if frontend.failover:
        have = [held.who for held in course.holdings if held.end == course.end]
        say("home", f"'{expected}' has the address in the end", have == [expected],
            f"'{expected}' should have {course.address} in the end; {' and '.join(map(repr, have)) or 'nobody'} does.")
    return verdicts


# ---- What to break ----------------------------------------------------------------------------------------------


def promised(lab: Lab) -> list[Wanted]:
    """The faults for which the topology promises something."""
    plan = lab.plan
    every = [*_at_holders(plan), *_at_servers(plan)]

    def is_promised(what: Wanted) -> bool:
        frontend = frontend_for(plan, what)
        return promise(plan, frontend, what, frontend.holders[0], promises.slack(lab)) is not None

    return [what for what in {what.what: what for what in every}.values() if is_promised(what)]


def _at_holders(plan: Plan) -> Iterator[Wanted]:
    """What can happen to the first and the second choice."""
    for frontend in plan.frontends():
        if frontend.failover:
            for kind in (wanted.crash, wanted.freeze, wanted.unplug):
                yield kind(plan, frontend.holders[0])
            yield wanted.units(plan, frontend.holders[0], frontend.failover.unit)
            yield wanted.crash(plan, frontend.holders[1])


def _at_servers(plan: Plan) -> Iterator[Wanted]:
    """What can happen to the first of the servers that requests are passed on to."""
    for service in plan.topology.services.values():
        for server in list(service.passes_on())[:1]:
            yield wanted.crash(plan, server)
            serving = [step for step in plan.node(server).steps if step.units]
            yield from (wanted.stop(plan, server, step.name) for step in serving[:1])
            if isinstance(service, Ipvs):
                yield breaking.drain(plan, server)

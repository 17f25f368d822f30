"""A process of its own that heals faults whose time is over, also when the labctl that made them is gone.

    python -m labctl.observe.faults.timer LAB ID UNTIL ROOM

ID is the lab's, UNTIL is in seconds since 1970, ROOM is the process of the lab's room, or 0. It ends with the room, and
does nothing where somebody else has healed the fault: the journal says what there is to do. Until then nothing is
loaded that takes memory.
"""

import os
import select
import sys
import time

_GIVE_UP_SECONDS = 3600
"""As long as a test may keep the lab to itself, or a node cannot be reached."""
_TRY_SECONDS = 0.5


def main() -> None:
    """Wait, and heal what is due."""
    name, instance, until, room = sys.argv[1:]
    if _room_ends_within(float(until) - time.time(), int(room)):
        return
    from labctl.base.wait import Deadline  # noqa: PLC0415 (see above)
    from labctl.base.wait import until as wait_until  # noqa: PLC0415

    wait_until(lambda: _heal_due(name, instance), Deadline(_GIVE_UP_SECONDS), _TRY_SECONDS)


def _room_ends_within(seconds: float, room: int) -> bool:
    """Wait for so long, or until the process has ended: then there is no lab any more."""
    poll = select.poll()
    try:
        if room:
            poll.register(os.pidfd_open(room), select.POLLIN)
    except ProcessLookupError:
        return True
    return bool(poll.poll(max(0.0, seconds) * 1000))


def _heal_due(name: str, instance: str) -> bool:
    """Whether nothing is left to do for this process."""
    from labctl.base.errors import LabError  # noqa: PLC0415 (see above)
    from labctl.labs import lab, record  # noqa: PLC0415
    from labctl.observe.faults.faults import Faults  # noqa: PLC0415

    try:
        if str(record.load(name).id) != instance:
            return True
        with lab.locked(name):
            Faults(lab.open_lab(name)).heal_due()
    except FileNotFoundError:
        return True
    except LabError as error:
        print(error.message, file=sys.stderr, flush=True)  # noqa: T201 (into the lab's faults.log)
        return False
    return True


if __name__ == "__main__":
    main()

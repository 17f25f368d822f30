"""A bridge with three ports, and somebody behind each who says things and hears what the others say.

    unshare -r -n python3 segment.py

Reads a line of JSON for each experiment: a ruleset for nft. Answers with what was heard, as [from, to, what] each.
"""

import json
import socket
import struct
import subprocess
import sys
import time

NODES = ("a", "b", "c")
SETTLE_SECONDS = 0.15
LABEL = len("<0 tcp/80 back>")


def main() -> None:
    """Build it, and make experiments until nobody wants any more."""
    run("ip", "link", "set", "lo", "up")
    run("ip", "link", "add", "lab0", "type", "bridge", "forward_delay", "0", "mcast_snooping", "0")
    run("ip", "link", "set", "lab0", "up")
    sockets = {}
    for number, node in enumerate(NODES):
        run("ip", "link", "add", f"node{number}-eth0", "type", "veth", "peer", "name", node)
        run("ip", "link", "set", f"node{number}-eth0", "master", "lab0", "up")
        run("ip", "link", "set", "dev", node, "up")
        sockets[node] = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        sockets[node].bind((node, 0))
        sockets[node].setblocking(False)
    deadline = time.monotonic() + 10
    while not heard(sockets, said=3) and time.monotonic() < deadline:  # Until the bridge forwards.
        time.sleep(0.05)
    say("there")
    for line in sys.stdin:
        subprocess.run(["nft", "-f", "-"], input=json.loads(line), text=True, check=True)
        say(json.dumps(heard(sockets)))


def heard(sockets, said=None):
    """What comes to whom once everybody has said everything."""
    drain(sockets)
    kinds = list(frames(0))[:said]
    for number, node in enumerate(NODES):
        for kind, frame in frames(number).items():
            if kind in kinds:
                sockets[node].send(frame)
    found = []
    time.sleep(SETTLE_SECONDS)
    for to, connection in sockets.items():
        for frame in drain({to: connection}):
            text = frame.rpartition(b"<")[2].partition(b">")[0].decode(errors="replace")
            number, _, kind = text.partition(" ")
            if number.isdigit() and NODES[int(number)] != to:
                found.append([NODES[int(number)], to, kind])
    return found


def drain(sockets):
    """All that has come, and is gone then."""
    found = []
    for connection in sockets.values():
        while True:
            try:
                found.append(connection.recv(2048))
            except BlockingIOError:
                break
    return found


def frames(number):
    """A frame of each kind, to all, which says who has sent it and what it is."""
    kinds = {"arp": (0x0806, b"\0" * 28), "icmp": (0x0800, ip(1, b"\x08\0" + b"\0" * 6)),
             "vrrp": (0x0800, ip(112, b"\x21" + b"\0" * 19)), "ipip": (0x0800, ip(4, b"\0" * 20)),
             "tcp/80": (0x0800, ip(6, ports(1024, 80) + b"\0" * 8 + b"\x50\x02" + b"\0" * 6)),
             "tcp/80 back": (0x0800, ip(6, ports(80, 1024) + b"\0" * 8 + b"\x50\x12" + b"\0" * 6)),
             "tcp/8080": (0x0800, ip(6, ports(1024, 8080) + b"\0" * 8 + b"\x50\x02" + b"\0" * 6)),
             "udp/694": (0x0800, ip(17, ports(1024, 694) + b"\0" * 4))}
    source = bytes([2, 0, 0, 0, 0, number])
    return {kind: b"\xff" * 6 + source + struct.pack("!H", type_) + body + f"<{number} {kind}>".encode().rjust(LABEL)
            for kind, (type_, body) in kinds.items()}


def ip(protocol, body):
    """An IPv4 packet with a checksum that is right, since a bridge may look."""
    length = 20 + len(body) + LABEL
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, length, 1, 0, 64, protocol, 0, bytes([10, 0, 0, 9]),
                         bytes([224, 0, 0, 18]))
    total = sum(struct.unpack("!10H", header))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return header[:10] + struct.pack("!H", ~total & 0xFFFF) + header[12:] + body


def ports(source, target):
    """Where a segment or a datagram comes from, and where it goes."""
    return struct.pack("!HH", source, target)


def say(line):
    """Answer with a line."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def run(*words):
    """Run a program that has to succeed."""
    subprocess.run(words, check=True)


main()

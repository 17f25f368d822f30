"""labctl.machines.existing_libvirt: how nodes are reached where libvirt is elsewhere."""

import pytest

from labctl.machines.existing_libvirt import ExistingLibvirt


@pytest.mark.parametrize(("uri", "proxy"), [
    ("qemu:///system", None),
    ("qemu+unix:///system?socket=/run/a%20b/libvirt-sock", None),
    ("qemu+ssh://h/system", "ssh -W %h:%p -- h"),
    ("qemu+ssh://h:2222/system", "ssh -p 2222 -W %h:%p -- h"),
    ("qemu+ssh://ann@h:2222/system", "ssh -p 2222 -l ann -W %h:%p -- h"),
    ("qemu+libssh2://a%20n%25n@h/system", "ssh -l 'a n%%n' -W %h:%p -- h"),
    ("qemu+ssh://[fe80::1]:2222/system", "ssh -p 2222 -W %h:%p -- fe80::1"),
    ("qemu+tls://h/system", "ssh -W %h:%p -- h"),
    ("qemu+tls://h:16514/system", "ssh -W %h:%p -- h"),
    ("qemu+tcp://ann@h:16509/system", "ssh -l ann -W %h:%p -- h"),
])
def test_nodes_elsewhere_are_reached_through_that_machine(uri: str, proxy: str | None) -> None:
    assert ExistingLibvirt(uri).proxy == proxy

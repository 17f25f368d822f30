"""vagrant with vagrant-libvirt: a box, configured over SSH by a shell provisioner."""

import json
import tarfile
from pathlib import Path

from common import CONFIGURE, MEMORY, PAGE, Peer, Row, Sandbox, main, measure, run, write_disk

VAGRANTFILE = """\
Vagrant.configure("2") do |config|
  config.vm.box = "golden"
  config.vm.synced_folder ".", "/vagrant", disabled: true
  config.vm.boot_timeout = 3600
  config.ssh.username = "root"
  config.ssh.private_key_path = "{key}"
  config.ssh.insert_key = false
  config.ssh.sudo_command = "%c"
  config.vm.provider :libvirt do |libvirt|
    libvirt.driver = "{driver}"
    libvirt.cpu_mode = "custom"
    libvirt.cpu_model = "qemu64"
    libvirt.memory = {memory}
    libvirt.cpus = 1
    libvirt.default_prefix = ""
  end
  {nodes}.each do |name|
    config.vm.define name do |node|
      node.vm.hostname = name
      node.vm.provision "shell", inline: "echo #{{name}} >{page} && {configure}"
    end
  end
end
"""


def bench(directory: Path, nodes: list[str]) -> list[Row]:
    """The box has been added, as after `vagrant box add`; its disk goes to libvirt's pool with the first `up`."""
    sandbox = Sandbox(directory)
    with sandbox.open(libvirt=True):
        sandbox.run("vagrant", "box", "add", "--name", "golden", box(sandbox, directory))
        driver = "kvm" if "<domain type='kvm'" in sandbox.run("virsh", "capabilities") else "qemu"
        (sandbox.home / "Vagrantfile").write_text(VAGRANTFILE.format(
            key=sandbox.key, driver=driver, memory=MEMORY, nodes=json.dumps(nodes), page=PAGE, configure=CONFIGURE))
        plugin = run(["dpkg-query", "-W", "-f", "${Version}", "vagrant-libvirt"]).strip()
        return [measure(sandbox, Peer(
            name=f"{sandbox.run('vagrant', '--version').strip()}, vagrant-libvirt {plugin}",
            up=["vagrant", "up", "--provider", "libvirt"],
            down=[["vagrant", "destroy", "--force"]],
            address=sandbox.address,
            rights="group libvirt, or root",
            remarks=[
                "The image has no user 'vagrant' and no sudo: it logs in as root, with a key that the box has from "
                "the beginning.",
                "'up' includes copying the box to libvirt's pool, which only the first one does.",
                "Nothing checks that the machines do what they should.",
            ],
        ), nodes)]


def box(sandbox: Sandbox, directory: Path) -> Path:
    """A box of the image, with the key of who uses it."""
    key = sandbox.key.with_suffix(".pub").read_text().strip()
    disk = directory / "box.img"
    write_disk(disk, f"#cloud-config\nssh_authorized_keys: [{key}]\n")
    metadata = directory / "metadata.json"
    metadata.write_text(json.dumps({"provider": "libvirt", "format": "qcow2", "virtual_size": 5}))
    made = directory / "golden.box"
    with tarfile.open(made, "w") as archive:
        archive.add(metadata, "metadata.json")
        archive.add(disk, "box.img")
    disk.unlink()
    return made


if __name__ == "__main__":
    main(str(__doc__), bench)

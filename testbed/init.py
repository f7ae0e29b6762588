"""The first process of a node, in process, mount and host name namespaces of its own (and in the node's network).

Its end is the node's end: the kernel kills every process and drops every mount that began below it. What a pod calls
`hostPath` is the node's own: /var/lib and /var/log come from its disk, /run is lost at a reboot. Standard library only.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import uuid
from pathlib import Path


def mount(*arguments: str | Path) -> None:
    """Call the command of that name, without its table of mounts (below /run)."""
    subprocess.run(["mount", "--no-mtab", *map(str, arguments)], check=True)


def private_folders(disk: Path, memory: Path, keep: list[Path]) -> None:
    """Cover /var/lib, /var/log and /run; `keep` (folders of the test bed itself) stay where they are."""
    hidden = [path for path in keep if path.is_relative_to("/var/lib")]
    for number, path in enumerate(hidden):
        (memory / f"keep-{number}").mkdir()
        mount("--rbind", path, memory / f"keep-{number}")
    for folder in (Path("/var/lib"), Path("/var/log")):
        own = disk / folder.relative_to("/")
        own.mkdir(parents=True, exist_ok=True)
        mount("--bind", own, folder)
    for number, path in enumerate(hidden):
        path.mkdir(parents=True, exist_ok=True)
        mount("--move", memory / f"keep-{number}", path)
        (memory / f"keep-{number}").rmdir()
    run = memory / "run"
    run.mkdir()
    mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", run)
    inside = run / memory.relative_to("/run")
    inside.mkdir(parents=True)
    mount("--bind", memory, inside)  # sockets, which this machine uses too
    mount("--move", run, "/run")


def main() -> None:
    """Set up, say so with a file, and then reap orphans until the end."""
    parser = argparse.ArgumentParser()
    for name in ("name", "disk", "memory"):
        parser.add_argument(name)
    parser.add_argument("keep", nargs="*", type=Path)
    options = parser.parse_args()
    memory = Path(options.memory)
    socket.sethostname(options.name)
    private_folders(Path(options.disk), memory, options.keep)
    # Where cAdvisor looks for it, or a pod's metrics would have no names.
    usual = Path("/run/containerd/containerd.sock")
    usual.parent.mkdir()
    usual.symlink_to(memory / "containerd.sock")
    # A kubelet knows by this file that its machine has been started anew.
    boot = memory / "boot_id"
    boot.write_text(f"{uuid.uuid4()}\n")
    mount("--bind", boot, "/proc/sys/kernel/random/boot_id")
    mount("--make-rshared", "/")
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    (memory / "up").touch()
    while True:
        signal.sigwait({signal.SIGCHLD})
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass


if __name__ == "__main__":
    main()

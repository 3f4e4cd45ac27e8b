"""The Debian 12 that the machine of these tests starts from: made once by debootstrap, kept outside of the tree."""

import fcntl
import glob
import hashlib
import os
import re
import shutil
import subprocess

from harness import CACHE

SUITE = "bookworm"
DEFAULT_MIRROR = "http://deb.debian.org/debian"
# systemd and what a login session needs, the libraries of the daemon and of qllmctl, and what tests use inside.
PACKAGES = ("adduser", "ca-certificates", "dbus", "dbus-user-session", "libedit2", "libinih1", "libjansson4",
            "libpam-systemd", "libpcre2-8-0", "libprotobuf-c1", "libsystemd0", "liburing2", "libutf8proc2", "libxxhash0",
            "procps", "python3", "systemd", "systemd-sysv")


def release():
    """VERSION_CODENAME of this host, or ''."""
    try:
        with open("/etc/os-release") as f:
            return "".join(re.findall(r"^VERSION_CODENAME=(\w+)", f.read(), re.M))
    except OSError:
        return ""


def mirror():
    """Where this host gets its own Debian from, so that a mirror next to it serves here too."""
    for name in sorted(glob.glob("/etc/apt/sources.list.d/*.sources")):
        with open(name) as f:
            for part in f.read().split("\n\n"):
                fields = dict(re.findall(r"^(\w+):\s*(.*)$", part, re.M))
                if SUITE in fields.get("Suites", "").split():
                    return fields["URIs"].split()[0]
    for name in ["/etc/apt/sources.list", *sorted(glob.glob("/etc/apt/sources.list.d/*.list"))]:
        if os.path.exists(name):
            with open(name) as f:
                found = re.search(rf"^deb\s+(?:\[.*?\]\s+)?(\S+)\s+{SUITE}\s", f.read(), re.M)
                if found:
                    return found.group(1)
    return DEFAULT_MIRROR


def directory():
    """The image's directory; made first where it is missing (a minute or two). One process makes it, others wait."""
    base = os.path.join(CACHE, "qllmd", "nspawn")
    key = hashlib.sha256(" ".join([SUITE, *PACKAGES]).encode()).hexdigest()[:16]
    path, making = os.path.join(base, key), os.path.join(base, "making")
    os.makedirs(base, exist_ok=True)
    with open(os.path.join(base, "lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.path.isdir(path):
            return path
        for old in os.listdir(base):
            if old != "lock":
                shutil.rmtree(os.path.join(base, old))
        print(f"making the image of the machine: {path}", flush=True)
        r = subprocess.run(["debootstrap", "--variant=minbase", "--include=" + ",".join(PACKAGES), SUITE, making, mirror()],
                           stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=900)
        if r.returncode != 0:
            raise AssertionError("debootstrap failed:\n" + r.stdout.decode("utf-8", "replace")[-2000:])
        for junk in ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/locale", "usr/share/man"):
            shutil.rmtree(os.path.join(making, junk), ignore_errors=True)
            os.makedirs(os.path.join(making, junk))
        os.rename(making, path)
    return path

"""Sockets, readiness, who may come in, and what the sandboxes let through."""

import json
import os

from harness import OK, UNREACHABLE, Skip, expect
from machine import wait


def test_activation(m):
    """The socket is there from the start, the daemon from the first client on."""
    m.do("systemctl", "stop", "qllmd.service")
    assert m.do("systemctl", "is-enabled", "qllmd.socket", "qllm-worker.socket").split() == ["enabled"] * 2
    assert m.state("qllmd.socket") == m.state("qllm-worker.socket") == "active"
    assert m.state("qllmd.service") == "inactive"
    assert m.do("stat", "-c", "%a %U %G", "/run/qllmd/qllmd.sock").split() == ["660", "root", "qllm"]
    expect(m.ctl("alice", "status"), OK)
    assert m.state("qllmd.service") == "active"
    # it must be as before: the service has not taken the socket's directory
    assert m.do("stat", "-c", "%a %U %G", "/run/qllmd/qllmd.sock").split() == ["660", "root", "qllm"]


def test_readiness(m):
    """`active` is what the daemon says it is, and no earlier."""
    m.restart()
    expect(m.ctl("alice", "is-ready"), OK)
    assert m.state("qllmd.service") == "active"
    assert m.show("qllmd.service", "StatusText").startswith("Serving: "), m.show("qllmd.service", "StatusText")
    assert m.show("qllmd.service", "Type") == "notify"
    try:
        # the same daemon, which cannot tell: it serves, and yet the manager waits
        m.drop_in("qllmd.service", "[Service]\nExecStart=\nExecStart=/usr/bin/env -u NOTIFY_SOCKET /usr/sbin/qllmd\n")
        m.do("systemctl", "restart", "--no-block", "qllmd.service")
        wait("a daemon that says nothing", 20, lambda: m.state("qllmd.service") == "activating")
        expect(m.ctl("alice", "is-ready"), OK)
        assert m.state("qllmd.service") == "activating"
    finally:
        m.undrop("qllmd.service")
        m.restart()
    assert m.state("qllmd.service") == "active"


def test_completion(m):
    """A user of the group, a model from a home that only this user may enter."""
    assert m.do("stat", "-c", "%a %U", "/home/alice", "/home/alice/m.gguf").split() == ["700", "alice", "600", "alice"]
    first = m.complete()
    assert first.strip() and first == m.complete(), first
    # another user neither sees nor uses it
    assert "alice-m" not in m.do("qllmctl", "ls", user="carol")
    r = m.ctl("carol", "run", "alice-m", "x", "-n", "1")
    assert r.code != OK, r
    return repr(first)


def test_stranger(m):
    """A user outside of the group is kept out by the socket, and told what to do."""
    r = expect(m.ctl("bob", "ls"), UNREACHABLE)
    assert b"ermission" in r.err and b"group" in r.err, r
    return r.err.decode().strip()


PROBE = """
import ctypes, errno, json, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *args):
    return "ok" if libc.syscall(number, *args) >= 0 else errno.errorcode[ctypes.get_errno()]
def attempt(f):
    try:
        return f() or "ok"
    except OSError as e:
        return errno.errorcode[e.errno]
said = {
    "uid": os.getuid(),
    "io_uring": call(425, 4, ctypes.create_string_buffer(256)),
    "mbind": call(237, 0, 0, 0, 0, 0, 0),
    "homes": attempt(lambda: os.listdir("/home")),
    "inet": attempt(lambda: socket.socket(socket.AF_INET).close()),
    "unix": attempt(lambda: socket.socket(socket.AF_UNIX).close()),
    "usr": attempt(lambda: open("/usr/probe", "w").close()),
    "others": [p for p in os.listdir("/proc") if p.isdigit() and os.stat("/proc/" + p).st_uid != os.getuid()],
    "devices": sorted(os.listdir("/dev")),
    "network": os.readlink("/proc/self/ns/net"),
    "groups": os.getgroups(),
    "new_privileges": open("/proc/self/status").read().split("NoNewPrivs:")[1].split()[0],
    "capabilities": open("/proc/self/status").read().split("CapBnd:")[1].split()[0],
}
print(json.dumps(said))
"""


def probe(m, unit, name):
    """A unit with the sandbox of another one, in which the probe runs: what it could do."""
    with open(m.root + "/usr/lib/systemd/system/" + unit) as f:
        lines = f.read().split("\n")
    # another unit that names the daemon's directories would take them from it
    leave = ("ExecStart=", "Type=", "Requires=", "Watchdog", "Restart", "StateDirectory", "CacheDirectory")
    keep = [line for line in lines if not line.startswith(leave)]
    at = keep.index("[Service]") + 1
    keep[at:at] = ["Type=oneshot", "ExecStart=/usr/bin/python3 /usr/lib/qllmd-probe.py",
                   f"StandardOutput=truncate:/run/{name}.json", "StandardError=journal"]
    m.put("/usr/lib/qllmd-probe.py", PROBE)
    # /run is the machine's own: the unit gets there from inside
    m.do("tee", f"/run/systemd/system/{name}.service", stdin="\n".join(keep).encode())
    m.do("systemctl", "daemon-reload")
    try:
        r = m.run("systemctl", "start", f"{name}.service")
        assert r.code == 0, f"{r}\n{m.journal('--unit', name + '.service')}"
        return json.loads(m.do("cat", f"/run/{name}.json"))
    finally:
        m.do("rm", "-f", f"/run/systemd/system/{name}.service", f"/run/{name}.json")
        m.do("systemctl", "daemon-reload")


def test_sandbox(m):
    """What a program in the daemon's and in a worker's place may do: io_uring is the worker's alone."""
    with open("/proc/sys/kernel/io_uring_disabled") as f:
        ring_off = f.read().strip() == "2"
    daemon, worker = probe(m, "qllmd.service", "probe-daemon"), probe(m, "qllm-worker@.service", "probe-worker")
    for said in (daemon, worker):
        assert said["uid"] not in (0, 65534), said
        assert said["homes"] in ([], "ok", "EACCES"), f"homes are seen: {said['homes']}"
        assert said["inet"] == "EAFNOSUPPORT" and said["unix"] == "ok", said
        assert said["usr"] == "EROFS", said
        assert said["others"] == [], said
        assert said["network"] != os.readlink(f"/proc/{m.leader}/ns/net"), said
        assert "fuse" not in said["devices"] and "null" in said["devices"], said
        assert said["new_privileges"] == "1" and int(said["capabilities"], 16) == 0, said
    assert daemon["io_uring"] == daemon["mbind"] == "EPERM", daemon
    if not ring_off:
        assert worker["io_uring"] != "EPERM", worker
    # and the daemon that serves is in that sandbox
    expect(m.ctl("alice", "status"), OK)
    pid = m.main_pid()
    with open(f"/proc/{pid}/status") as f:
        status = dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line)
    assert status["Seccomp"] == "2" and status["NoNewPrivs"] == "1" and int(status["CapEff"], 16) == 0, status
    assert "0" not in status["Uid"].split(), status
    assert os.listdir(f"/proc/{pid}/root/home") == [], "the daemon sees homes"
    group = m.do("getent", "group", "qllm-jobs").split(":")[2]
    assert group in status["Groups"].split(), "the daemon is not in the group of its workers' socket"
    if ring_off:
        raise Skip("io_uring is switched off on this host; all else was seen")
    return f"io_uring_setup: daemon {daemon['io_uring']}, worker {worker['io_uring']}"

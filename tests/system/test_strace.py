"""After it is ready the daemon opens nothing but its configuration, store and cache: seen from outside, by strace."""

import os
import re
import shutil
import signal
import subprocess
import time

import harness
from harness import Daemon, Manager, OK, Skip, model_file

# A call that names a path: the directory's descriptor or AT_FDCWD, then the path.
CALL = re.compile(r'^(\d+) +(\w+)\((?:(AT_FDCWD|\d+), )?"((?:[^"\\]|\\.)*)"')


def opened(trace, allowed):
    """Paths outside `allowed` that the daemon's own threads named. Paths below a descriptor are below what was opened
    before; a worker that is started by hand is another process, known by its execve."""
    workers, found = set(), []
    with open(trace, errors="replace") as f:
        lines = f.readlines()
    for line in lines:
        m = CALL.match(line)
        if m and m[2] == "execve":
            workers.add(m[1])
    for line in lines:
        m = CALL.match(line)
        if not m or m[1] in workers:
            continue
        path = m[4]
        if m[2] == "linkat" and path.startswith("/proc/self/fd/"):
            continue                    # how a file without a name gets one in the store: no file of /proc is opened
        if path == "" or (m[3] not in (None, "AT_FDCWD") and not path.startswith("/") and ".." not in path.split("/")):
            continue
        if not any(path == a or path.startswith(a + "/") for a in allowed):
            found.append(line.strip())
    return found


def use(d):
    """Each kind of request, and a reload."""
    text = b"All work and no play makes Jack a dull boy. " * 60
    assert d.ctl("import", model_file("smollm2"), "--name", "m").code == OK
    assert d.ctl("load", "m").code == OK
    assert d.ctl("run", "m", "Hello there", "--max-tokens", "8").code == OK
    assert d.ctl("tokenize", "m", stdin=text).code == OK
    assert d.ctl("verify", "m").code == OK
    assert d.ctl("eval", "m", "--text", "-", "--ctx", "64", "--chunks", "1", stdin=text).code == OK
    d.process.send_signal(signal.SIGHUP)
    for args in ("status",), ("ps",), ("ls",), ("show", "m"), ("config", "show"), ("metrics",), ("unload", "m"), ("rm", "m"):
        assert d.ctl(*args).code == OK, args
    assert d.ctl("run", "m", "x").code == harness.UNKNOWN


def test_opens_only_its_own():
    if not shutil.which("strace"):
        raise Skip("no strace: apt install strace")
    with Manager() as manager, Daemon(config="[daemon]\nadmin_group = adm\n", env=manager.env) as d:
        manager.wait("READY=1")
        trace = os.path.join(d.dir, "trace")
        tracer = subprocess.Popen(["strace", "-f", "-qq", "-s", "4096", "-o", trace, "-e", "trace=%file,%process", "-p",
                                   str(d.process.pid)], stderr=subprocess.PIPE)
        try:
            until = time.monotonic() + 10 * harness.SLOW
            while not traced(d.process.pid):
                if tracer.poll() is not None:
                    raise Skip(f"strace: {tracer.stderr.read().decode().strip()}")
                assert time.monotonic() < until, "strace does not attach"
                time.sleep(0.05)
            use(d)
        finally:
            if tracer.poll() is None:
                tracer.send_signal(signal.SIGINT)
                tracer.wait()
        config = os.path.join(d.dir, "qllmd.conf")
        allowed = [d.state, os.path.join(d.dir, "cache"), config, config + ".d"]
        found = opened(trace, allowed)
        assert not found, "opened beside configuration, store and cache:\n" + "\n".join(found[:20])
        with open(trace) as f:
            assert config in f.read(), "strace has not seen the reload: it sees nothing"
        d.alive()


def traced(pid):
    """All threads."""
    for tid in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{tid}/status") as f:
            if "TracerPid:\t0\n" in f.read():
                return False
    return True

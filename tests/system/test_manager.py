"""What a service manager sees of the daemon: readiness, status, reload, stop, and a watchdog that knows a hung thread."""

import ctypes
import os
import signal
import socket
import time

import harness
from harness import Daemon, Manager, OK, Skip, model_file

PTRACE_SEIZE, PTRACE_INTERRUPT, PTRACE_DETACH = 0x4206, 0x4207, 17


def ptrace(request, tid):
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    libc.ptrace.restype = ctypes.c_long
    if libc.ptrace(request, tid, None, None) < 0:
        raise Skip(f"ptrace: {os.strerror(ctypes.get_errno())}")


def thread(pid, name):
    for tid in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{tid}/comm") as f:
            if f.read().strip() == name:
                return int(tid)
    raise AssertionError(f"no thread {name}")


def test_readiness_status_reload_stop():
    with Manager() as manager, Daemon(env=manager.env) as d:
        assert "STATUS=Serving: 0 requests, 0 models loaded" in manager.wait("READY=1")
        assert d.ctl("import", model_file("smollm2"), "--name", "m").code == OK
        assert d.ctl("load", "m").code == OK
        manager.wait("1 model loaded")
        assert d.ctl("unload", "m").code == OK
        manager.wait("0 models loaded")
        d.process.send_signal(signal.SIGHUP)
        assert "MONOTONIC_USEC=" in manager.wait("RELOADING=1")
        manager.wait("READY=1")
        time.sleep(2)
        manager.take()
        time.sleep(2)
        assert manager.take() == [], "nothing changed, and the manager was told so"
        d.process.send_signal(signal.SIGTERM)
        assert "EXTEND_TIMEOUT_USEC=45000000" in manager.wait("STOPPING=1")
        assert d.process.wait(10 * harness.SLOW) == 0


def hold(d, manager, name, start, said):
    """One thread stands still: no ping, a message that names it, and all is well once it goes on."""
    tid = thread(d.process.pid, name)
    manager.wait("WATCHDOG=1")
    ptrace(PTRACE_SEIZE, tid)
    try:
        ptrace(PTRACE_INTERRUPT, tid)
        os.waitpid(tid, 0x40000000)         # __WALL
        client = start()
        time.sleep(1.2)                     # two looks, until it is clear that it does not move
        manager.take()
        time.sleep(3)
        pings = [m for m in manager.take() if "WATCHDOG=1" in m]
        log = d.tail()
    finally:
        ptrace(PTRACE_DETACH, tid)
    assert not pings, f"the watchdog is fed while {name} hangs"
    assert said + " hangs" in log, log
    manager.wait("WATCHDOG=1", 3)
    client.stdout.read()
    assert client.wait(60 * harness.SLOW) == OK
    d.alive()


def test_watchdog_starves_while_a_thread_hangs():
    """The engine's thread in the middle of an answer and before it, the prep thread before a prompt."""
    with Manager(watchdog_s=2) as manager, Daemon(env=manager.env) as d:
        assert d.ctl("import", model_file("smollm2"), "--name", "m").code == OK
        client = d.popen("run", "m", "Once upon a time", "--max-tokens", "200", "--ignore-eos")
        assert client.stdout.read(1), "no answer"
        hold(d, manager, "engine", lambda: client, "compute thread 0")
        for name, said in ("engine", "compute thread 0"), ("prep", "thread prep"):
            hold(d, manager, name, lambda: d.popen("run", "m", "Once", "--max-tokens", "2"), said)


def test_watchdog_is_fed_by_long_work():
    """A prompt that takes many times the watchdog's patience, on compute threads and on prep, is no hang."""
    with Manager(watchdog_s=2) as manager, Daemon(env=manager.env) as d:
        assert d.ctl("import", model_file("smollm2"), "--name", "m").code == OK
        manager.take()
        start = time.monotonic()
        r = d.ctl("eval", "m", "--ctx", "256", "--chunks", "1", "--text", "-", timeout=240,
                  stdin=b"All work and no play makes Jack a dull boy. " * 60)
        took = time.monotonic() - start
        assert r.code == OK, r
        pings = sum("WATCHDOG=1" in m for m in manager.take())
        assert pings >= took / 0.5 * 0.6 - 2, f"{pings} pings in {took:.1f} s, one is due every 0.5 s"
        return f"{took:.1f} s"


def test_log_is_not_flooded():
    """A client that breaks the rules again and again cannot push other messages out of the journal."""
    with Daemon() as d:
        start = time.monotonic()
        for _ in range(200):
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
                s.settimeout(10 * harness.SLOW)
                s.connect(d.socket)
                s.send(b"\xff" * 40)
                try:
                    while s.recv(65536):
                        pass
                except ConnectionResetError:
                    pass
        with open(d.log) as f:
            said = f.read().count(" closed: ")
        most = 32 * (1 + int(time.monotonic() - start) // 10)
        assert 1 <= said <= most, f"200 clients were closed, {said} of them are in the log"
        d.alive()

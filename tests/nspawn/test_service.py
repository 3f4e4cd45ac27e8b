"""The daemon's life under its manager: ends, hangs, reloads, stops, and what it leaves in the journal."""

import ctypes
import json
import os
import re
import signal
import time

from harness import OK, SLOW, SRC, UNREACHABLE, expect
from machine import wait

PTRACE_SEIZE, PTRACE_INTERRUPT, PTRACE_CONT, PTRACE_DETACH, WALL = 0x4206, 0x4207, 7, 17, 0x40000000
LONG = ("--temp", "0", "--ignore-eos", "-n")


def ptrace(request, tid):
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    libc.ptrace.restype = ctypes.c_long
    if libc.ptrace(request, tid, None, None) < 0:
        raise AssertionError(f"ptrace of {tid}: {os.strerror(ctypes.get_errno())}")


def threads(pid, name):
    found = []
    for tid in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{tid}/comm") as f:
            if f.read().strip() == name:
                found.append(int(tid))
    return found


def generate(m, n, user="alice", prompt="Once upon a time"):
    """A long answer that has begun."""
    p = m.popen("qllmctl", "run", m.model(user), prompt, *LONG, str(n), user=user)
    assert p.stdout.read(1), p.communicate()
    return p


def restarts(m):
    return int(m.show("qllmd.service", "NRestarts"))


def back(m, before):
    """Until the manager has started another daemon, which is ready."""
    wait("another daemon", 20, lambda: restarts(m) > before and m.state("qllmd.service") == "active")


def test_kill(m):
    """SIGKILL under load: the socket stays, each client loses one request at most and goes on over the same libqllm."""
    model, n = m.model(), 4
    alone = m.popen("good", "--model", model, "--prompt", "Name three colours.", "-n", "12", "--requests", "1", user="alice")
    want = json.loads(alone.communicate(timeout=60 * SLOW)[0])["texts"]
    clients = [m.popen("good", "--model", model, "--prompt", "Name three colours.", "-n", "12", "--seconds", "1000",
                       "--keep-going", user="alice") for _ in range(n)]

    def busy(tokens):
        r = m.ctl("alice", "--json", "status")
        return r.code == OK and r.json["connections"] > n and r.json["decode_tokens"] >= tokens
    try:
        wait("load", 30, lambda: busy(40))
        inode = m.do("stat", "-c", "%i", "/run/qllmd/qllmd.sock")
        for _ in range(2):
            before, pid = restarts(m), m.main_pid()
            os.kill(pid, signal.SIGKILL)
            back(m, before)
            assert m.main_pid() != pid
            wait("clients that come back by themselves", 30, lambda: busy(40))
        assert m.state("qllmd.socket") == "active" and m.do("stat", "-c", "%i", "/run/qllmd/qllmd.sock") == inode
    finally:
        for p in clients:
            m.signal(p, signal.SIGINT)
        said = [p.communicate(timeout=30 * SLOW) for p in clients]
    lost = ok = 0
    for out, err in said:
        score = json.loads(out)
        assert score["ok"] > 0 and set(score["texts"]) == set(want), (score, want)
        ok += score["ok"]
        for sentence, times in score["errors"].items():
            assert sentence.startswith(f"{UNREACHABLE}: ") and "was lost" in sentence and times <= 2, score["errors"]
            lost += times
    assert lost > 0, "nobody noticed"
    return f"2 SIGKILLs, {n} clients: {ok} answers as before, {lost} lost with a clean error"


def hang(m, pid):
    """Stops one compute thread while it holds a piece of a step, so that no other can go on; the traced thread. One that
    holds none is missed by nobody - the others take its pieces - and is let go."""
    def tokens():
        return m.ctl("alice", "--json", "status").json["decode_tokens"]
    # a machine of one processor has no compute thread beside the engine's
    for tid in [*threads(pid, "qllm-pool")[:1] * 40, *threads(pid, "engine") * 5]:
        ptrace(PTRACE_SEIZE, tid)
        ptrace(PTRACE_INTERRUPT, tid)
        os.waitpid(tid, WALL)
        before = tokens()
        time.sleep(0.3)
        if tokens() == before:
            return tid
        ptrace(PTRACE_DETACH, tid)
        time.sleep(0.013)
    raise AssertionError(f"no thread could be stopped in the middle of its work: {m.journal()}")


def test_watchdog(m):
    """A compute thread that stands still: the watchdog ends the daemon, and another one serves."""
    try:
        m.drop_in("qllmd.service", "[Service]\nWatchdogSec=3\n")
        m.restart()
        client = generate(m, 4000)
        before, pid = restarts(m), m.main_pid()
        started = time.time()
        tid = hang(m, pid)
        since, ended = time.monotonic(), False
        try:
            # a traced thread that died holds its process until its tracer has seen it
            while not ended and time.monotonic() < since + 20 * SLOW:
                got, status = os.waitpid(tid, WALL | os.WNOHANG)
                ended = got and (os.WIFEXITED(status) or os.WIFSIGNALED(status))
                time.sleep(0.05)
            took = time.monotonic() - since
        finally:
            if not ended:
                ptrace(PTRACE_DETACH, tid)
        assert ended, f"the watchdog let a hung thread be: {m.journal()}"
        back(m, before)
        out, err = client.communicate(timeout=20 * SLOW)
        assert client.returncode == UNREACHABLE and err.startswith(b"qllmctl: "), (client.returncode, err)
        said = m.do("journalctl", "--unit=qllmd.service", f"--since=@{int(started)}", "--output=cat")
        assert "Watchdog timeout" in said, said
        assert "compute thread" in said and "hangs" in said, said
        m.complete()
    finally:
        m.undrop("qllmd.service")
        m.restart()
    return f"ended {took:.1f} s after the thread had stopped, WatchdogSec=3"


def test_reload(m):
    """What a drop-in of the configuration changes counts at once; the answer that is being written is not disturbed."""
    m.model()
    path = "/etc/qllmd/qllmd.conf.d/50-test.conf"
    expected = m.ctl("alice", "run", "alice-m", "Once upon a time", *LONG, "150")
    expect(expected, OK)
    long = "word " * 300
    pid = m.main_pid()
    try:
        client = generate(m, 150)
        m.put(path, "[daemon]\nlog_level = debug\n[limits]\nprompt_bytes = 1024\n")
        m.do("chmod", "-R", "a+rX", "/etc/qllmd")
        m.do("systemctl", "reload", "qllmd.service")
        r = m.ctl("alice", "run", "alice-m", long, "-n", "1")
        assert r.code != OK and b"1024" in r.err, r
        shown = m.ctl("alice", "config", "show", "prompt_bytes", "log_level")
        assert shown.code == OK and "50-test.conf" in shown.text and "debug" in shown.text, shown
        rest, err = client.communicate(timeout=60 * SLOW)
        assert client.returncode == OK and expected.out.endswith(rest) and len(rest) > 50, (rest, err, expected)
        # nonsense is refused, and what was in force stays
        m.put(path, "[limits]\nprompt_bytes = many\n")
        m.run("systemctl", "reload", "qllmd.service")
        assert m.state("qllmd.service") == "active"
        wait("a word on it", 5, lambda: "configuration not reloaded" in m.journal("--lines=5"))
        assert m.ctl("alice", "run", "alice-m", long, "-n", "1").code != OK
    finally:
        m.remove(path)
        m.do("systemctl", "reload", "qllmd.service")
    expect(m.ctl("alice", "run", "alice-m", long, "-n", "1"), OK)
    assert m.main_pid() == pid


def test_drain(m):
    """A stop waits for answers that are being written; who comes meanwhile is served by the next daemon."""
    m.model()
    expected = expect(m.ctl("alice", "run", "alice-m", "Once upon a time", *LONG, "150"), OK)
    client = generate(m, 150)
    stop = m.popen("systemctl", "stop", "qllmd.service")
    wait("the drain", 10, lambda: m.state("qllmd.service") == "deactivating")
    late = m.popen("qllmctl", "is-ready", user="alice")
    rest, err = client.communicate(timeout=60 * SLOW)
    assert client.returncode == OK and expected.out.endswith(rest) and len(rest) > 50, (client.returncode, err)
    assert stop.wait(20 * SLOW) == 0
    out, err = late.communicate(timeout=30 * SLOW)
    assert late.returncode in (OK, 3), (late.returncode, err)
    expect(m.ctl("alice", "status"), OK)
    # two that wait for longer than the daemon is told to
    try:
        m.put("/etc/qllmd/qllmd.conf.d/50-test.conf", "[limits]\ndrain_seconds = 1\n")
        m.do("chmod", "-R", "a+rX", "/etc/qllmd")
        m.do("systemctl", "reload", "qllmd.service")
        client = generate(m, 4000)
        start = time.monotonic()
        m.do("systemctl", "stop", "qllmd.service")
        took = time.monotonic() - start
        out, err = client.communicate(timeout=20 * SLOW)
        assert client.returncode not in (OK, 1) and err.startswith(b"qllmctl: "), (client.returncode, err)
        assert took < 8 * SLOW, f"{took:.1f} s for drain_seconds = 1"
    finally:
        m.remove("/etc/qllmd/qllmd.conf.d/50-test.conf")


def test_journal(m):
    """Fields and identities for administrators; no word of any prompt, answer or message, at the wordiest level."""
    path = "/etc/qllmd/qllmd.conf.d/50-test.conf"
    canary = "xyzzyplugh"
    try:
        m.put(path, "[daemon]\nlog_level = debug\n[limits]\nprompt_bytes = 1024\n")
        m.do("chmod", "-R", "a+rX", "/etc/qllmd")
        m.restart()
        m.model()
        expect(m.ctl("alice", "run", "alice-m", f"Say {canary} again: {canary}", "-n", "8"), OK)
        assert m.ctl("alice", "run", "alice-m", canary * 200, "-n", "1").code != OK
        m.ctl("alice", "tokenize", "alice-m", canary)
        m.ctl("alice", "template", "alice-m", "--messages", "-", stdin=b'[{"role": "%s", "content": "%s"}' % (
            canary.encode(), canary.encode()))
        m.ctl("alice", "run", "alice-m", "x", "-n", "2", "--stop", canary)
        p = generate(m, 4000, prompt=f"{canary} {canary}")
        m.signal(p, signal.SIGKILL)
        p.communicate(timeout=10 * SLOW)
        os.kill(m.main_pid(), signal.SIGKILL)
        expect(m.ctl("alice", "status"), OK)
    finally:
        m.remove(path)
        m.do("systemctl", "restart", "qllmd.service")
    m.do("journalctl", "--sync")
    whole = m.do("journalctl", "--all", "--output=json", timeout=60)
    assert canary not in whole, [line for line in whole.splitlines() if canary in line][:3]
    # --all --output=json gives bytes that are no text as lists of numbers
    assert ",".join(str(b) for b in canary.encode()) not in whole.replace(" ", "")
    entries = [json.loads(line) for line in whole.splitlines()]
    ours = [e for e in entries if e.get("_SYSTEMD_UNIT") == "qllmd.service" and e.get("_COMM") == "qllmd"]
    assert len(ours) > 10
    with open(os.path.join(SRC, "daemon", "journal.h")) as f:
        ids = dict(re.findall(r'#define ID_(\w+) "([0-9a-f]{32})"', f.read()))
    seen = {e.get("MESSAGE_ID") for e in ours}
    for name in ("START", "STOP"):
        assert ids[name] in seen, f"no message {name}"
    closed = [e for e in ours if e.get("QLLM_UID")]
    alice = m.do("id", "-u", "alice").strip()
    assert any(e["QLLM_UID"] == alice for e in closed), [sorted(e) for e in ours[-3:]]
    assert any(e.get("QLLM_CLIENT", "").isdigit() for e in closed)
    assert all(e.get("PRIORITY") in "01234567" for e in ours)
    start = m.do("journalctl", "--catalog", "--lines=1", f"MESSAGE_ID={ids['START']}")
    assert "Subject: The language model daemon serves" in start, f"no explanation from the catalog: {start}"
    return f"{len(ours)} messages, fields {sorted({k for e in ours for k in e if k.startswith('QLLM_')})}"

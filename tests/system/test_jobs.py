"""Jobs: verify in a worker, by hand and through the daemon; ends of either side, quotas, owners, hostile sockets.

A worker is too quick to be caught at work, so most tests run it through a script that stops itself first: `held`."""

import array
import atexit
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time

from gguf_file import tiny
from harness import (BUSY, FAILED, MODE, OK, SLOW, STATE, TIMEOUT, UNKNOWN, USAGE, Daemon, Skip, environment, expect,
                     model_file, program, same_keys)

WORKER = program("qllm-worker")
SOUND = "extents, vocabulary and all numbers are sound"


def until(what, check, seconds=20):
    end = time.monotonic() + seconds * SLOW
    while True:
        value = check()
        if value:
            return value
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.02)


def script(text):
    """A program of these lines, which goes when the tests end."""
    d = tempfile.mkdtemp(prefix="qllm-worker-")
    atexit.register(shutil.rmtree, d, ignore_errors=True)
    path = os.path.join(d, "worker")
    with open(path, "w") as f:
        f.write("#!/bin/sh\n" + text)
    os.chmod(path, 0o755)
    return path


@contextlib.contextmanager
def daemon(worker=None, more="", model=True, state=None):
    config = "[jobs]\n" + (f"worker_path = {worker}\n" if worker else "") + more
    with Daemon(config=config, state=state) as d:
        d.model = os.path.join(d.dir, "tiny.gguf")
        with open(d.model, "wb") as f:
            f.write(tiny().bytes())
        if model:
            expect(d.ctl("import", d.model), OK)
        yield d
        d.alive()


HELD = "kill -STOP $$\nexec " + WORKER + ' "$@"\n'


def children(d):
    with open(f"/proc/{d.process.pid}/task/{d.process.pid}/children") as f:
        return [int(x) for x in f.read().split()]


def stopped(d):
    """The pid of the worker that waits for us."""
    def look():
        for pid in children(d):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError), open(f"/proc/{pid}/stat") as f:
                if f.read().rsplit(")", 1)[1].split()[0] == "T":
                    return pid
        return 0
    return until("a worker that has stopped itself", look)


def start(d, name="tiny"):
    return d.json("verify", name, "--no-block")["job"]


def state(d, job):
    return d.json("job", "show", job)["state"]


def tensor(d, name, kind):
    rows = d.json("show", name, "--tensors")["tensors"]
    return next(t for t in rows if t["type"] == kind)


def damage(d, name, at, data):
    path = os.path.join(d.state, "models", str(os.getuid()), name + ".gguf")
    os.chmod(path, 0o644)
    with open(path, "r+b") as f:
        f.seek(at)
        f.write(data)


def test_verify_is_a_job():
    with daemon() as d:
        v = d.json("verify", "tiny")
        assert v["ok"] is True and SOUND in v["summary"] and "import" in v["summary"], v
        job = start(d)
        done = d.json("job", "wait", job)
        same_keys(done, "id", "kind", "state", "percent", "bytes_read", "bytes_written", "eta_s", "error")
        assert done["state"] == "done" and done["percent"] == 100 and done["error"] is None and done["id"] == job, done
        assert done["bytes_read"] > os.path.getsize(d.model) and done["kind"] == "verify", done
        by_hand = json.loads(subprocess.run([WORKER, "verify", d.model, "--json"], stdout=subprocess.PIPE, check=True).stdout)
        assert by_hand["checksum"] == done["checksum"], (by_hand, done)
        rows = d.json("job", "ls")
        assert [r["id"] for r in rows] == [job - 1, job] and all(r["state"] == "done" for r in rows), rows
        log = d.ctl("job", "log", job).text
        assert "queued" in log and "running" in log and done["checksum"] in log, log
        assert str(job) in d.ctl("job", "ls").text and SOUND in d.ctl("job", "show", job).text
        expect(d.ctl("job", "cancel", job), STATE)
        expect(d.ctl("job", "resume", job), STATE)
        expect(d.ctl("job", "show", job + 1), UNKNOWN)
        expect(d.ctl("job", "show", "x"), USAGE)
        expect(d.ctl("job", "nonsense", job), USAGE)
        expect(d.ctl("job", "wait"), USAGE)


def test_damage_is_named():
    with daemon() as d:
        t = tensor(d, "tiny", "F32")
        with open(d.model, "rb") as f:
            f.seek(t["offset"])
            one = f.read(4)
        damage(d, "tiny", t["offset"], struct.pack("<f", float("nan")))
        r = expect(d.ctl("verify", "tiny"), FAILED)
        assert t["name"].encode() in r.err and b"NaN" in r.err, r
        # a bit that makes no value senseless: only the sum knows
        damage(d, "tiny", t["offset"], bytes([one[0] ^ 1]) + one[1:])
        r = expect(d.ctl("verify", "tiny"), FAILED)
        assert b"checksum" in r.err and b"xxh3-128:" in r.err, r
        damage(d, "tiny", t["offset"], one)
        expect(d.ctl("verify", "tiny"), OK)
        path = os.path.join(d.state, "models", str(os.getuid()), "tiny.gguf")
        os.truncate(path, os.path.getsize(path) - 64)
        r = expect(d.ctl("verify", "tiny"), FAILED)
        assert len(r.err) > 40, r
        failed = [j for j in d.json("job", "ls") if j["state"] == "failed"]
        assert len(failed) == 3 and all(j["error"] for j in failed), failed
        d.alive()


def test_worker_killed_once():
    with daemon(script(HELD)) as d:
        job = start(d)
        os.kill(stopped(d), signal.SIGKILL)
        os.kill(stopped(d), signal.SIGCONT)
        done = d.json("job", "wait", job)
        assert done["state"] == "done" and done["failures"] == 1, done
        assert "signal 9" in d.ctl("job", "log", job).text


def test_worker_killed_thrice():
    with daemon(script(HELD)) as d:
        waiting = d.popen("verify", "tiny")
        for _ in range(3):
            os.kill(stopped(d), signal.SIGKILL)
        out, err = waiting.communicate(timeout=30 * SLOW)
        assert waiting.returncode == FAILED and not out, (waiting.returncode, out, err)
        assert b"3 times" in err and b"signal 9" in err, err
        row, = d.json("job", "ls")
        assert row["state"] == "failed" and row["failures"] == 3 and "signal 9" in row["error"], row
        # and it can be taken up again
        expect(d.ctl("job", "resume", row["id"]), OK)
        os.kill(stopped(d), signal.SIGCONT)
        assert d.json("job", "wait", row["id"])["state"] == "done"


def test_worker_ends_without_result():
    with daemon(script("exit 7\n")) as d:
        r = expect(d.ctl("verify", "tiny"), FAILED)
        assert b"exit code 7" in r.err, r
    with daemon(script("head -c 100 /dev/zero >&0\n")) as d:
        r = expect(d.ctl("verify", "tiny"), FAILED)
        assert b"nonsense" in r.err or b"exit code" in r.err, r


def test_pause_resume_cancel():
    with daemon(script(HELD)) as d:
        job = start(d)
        pid = stopped(d)
        assert state(d, job) == "running"
        waiting = d.popen("job", "wait", job)
        time.sleep(0.2)
        assert d.json("job", "pause", job)["state"] == "paused"
        _, err = waiting.communicate(timeout=20 * SLOW)
        assert waiting.returncode == STATE and b"resume" in err, err
        expect(d.ctl("job", "wait", job), STATE)
        # a worker that does not hear the hang-up is killed in the end
        until("the paused job's worker is gone", lambda: not os.path.exists(f"/proc/{pid}"), 15)
        assert d.json("job", "resume", job)["state"] in ("queued", "running")
        os.kill(stopped(d), signal.SIGCONT)
        assert d.json("job", "wait", job)["state"] == "done"
        job = start(d)
        stopped(d)
        second = start(d)               # one runs, one waits
        assert state(d, second) == "queued"
        assert d.json("job", "cancel", second)["state"] == "cancelled"
        assert d.json("job", "cancel", job)["state"] == "cancelled"
        assert d.json("job", "cancel", job)["state"] == "cancelled"
        r = expect(d.ctl("job", "wait", job), FAILED)
        assert b"cancelled" in r.err, r


def test_model_is_busy_while_running():
    with daemon(script(HELD)) as d:
        job = start(d)
        pid = stopped(d)
        expect(d.ctl("rm", "tiny"), BUSY)
        os.kill(pid, signal.SIGCONT)
        d.json("job", "wait", job)
        until("the model is free", lambda: d.ctl("rm", "tiny").code == OK)
        assert state(d, job) == "done"


def test_model_removed_before_its_turn():
    with daemon(script(HELD)) as d:
        expect(d.ctl("import", d.model, "--name", "other"), OK)
        first, second = start(d), start(d, "other")
        pid = stopped(d)
        expect(d.ctl("rm", "other"), OK)
        os.kill(pid, signal.SIGCONT)
        assert d.json("job", "wait", first)["state"] == "done"
        r = expect(d.ctl("job", "wait", second), FAILED)
        assert b"other" in r.err and b"store" in r.err, r


def test_interrupted_verify_ends_its_job():
    with daemon(script(HELD)) as d:
        for signo in (signal.SIGINT, signal.SIGKILL):
            waiting = d.popen("verify", "tiny")
            pid = stopped(d)
            waiting.send_signal(signo)
            waiting.wait(20 * SLOW)
            until("the job is cancelled", lambda: d.json("job", "ls")[-1]["state"] == "cancelled")
            os.kill(pid, signal.SIGKILL)
            until("its worker is gone", lambda: not children(d))
        # who only watches does not end it
        job = start(d)
        pid = stopped(d)
        watching = d.popen("job", "wait", job)
        time.sleep(0.2)
        watching.kill()
        watching.wait()
        time.sleep(0.2)
        assert state(d, job) == "running"
        os.kill(pid, signal.SIGCONT)
        assert d.json("job", "wait", job)["state"] == "done"


def test_daemon_killed():
    with daemon(script(HELD)) as d:
        done = start(d)
        os.kill(stopped(d), signal.SIGCONT)
        d.json("job", "wait", done)
        running, queued, paused = start(d), start(d), start(d)
        left = stopped(d)
        d.json("job", "pause", paused)
        d.process.kill()
        d.process.wait()
        os.kill(left, signal.SIGKILL)
        jobs = os.path.join(d.state, "jobs")
        with open(os.path.join(jobs, "900.json"), "w") as f:
            f.write('{"version": 1, "id": 900, "kind": "verify", "state": "no such state"')
        with open(os.path.join(jobs, ".7.json"), "w") as f:
            f.write("half")
        d.start()
        for job in (running, queued):
            os.kill(stopped(d), signal.SIGCONT)
            assert d.json("job", "wait", job)["state"] == "done"
        assert "daemon ended" in d.ctl("job", "log", running).text
        assert {j["id"]: j["state"] for j in d.json("job", "ls")} == {
            done: "done", running: "done", queued: "done", paused: "paused"}
        assert "900.json" in d.tail() and not os.path.exists(os.path.join(jobs, ".7.json")), d.tail()
        assert start(d) == 901, "a number was given twice"
        stopped(d)


def test_crash_loop():
    """A job whose number was told is never lost, wherever the daemon is killed, and no half-written file stays."""
    rounds = {"quick": 3, "full": 10, "long": 200}[MODE]
    rng = random.Random(7)
    told = set()
    with daemon(more="kept_per_uid = 10000\n[limits]\njobs_per_uid = 1000\nmax_jobs = 4000\n") as d:
        for i in range(rounds):
            clients = [d.popen("verify", "tiny", "--no-block") for _ in range(3)]
            if i % 2:
                clients[0].wait(30 * SLOW)      # so that some have been told, however slow the machine is
            time.sleep(rng.random() * 0.05)
            d.process.kill()
            d.process.wait()
            for c in clients:
                out, _ = c.communicate(timeout=30 * SLOW)
                told |= {int(out)} if c.returncode == OK else set()
            d.start()
        for job in sorted(told):
            assert d.json("job", "wait", job)["state"] == "done", job
        assert len(told) > 0, "no job was ever begun"
        end = time.monotonic() + 20 * SLOW      # jobs that were not told of may still be writing theirs
        while left := [f for f in os.listdir(os.path.join(d.state, "jobs")) if f.startswith(".")]:
            assert time.monotonic() < end, left
            time.sleep(0.05)
        return f"{len(told)} jobs over {rounds} ends"


def test_daemon_stopped():
    with daemon(script(HELD)) as d:
        waiting = d.popen("verify", "tiny")
        pid = stopped(d)
        begun = time.monotonic()
        d.process.terminate()
        _, err = waiting.communicate(timeout=20 * SLOW)
        assert waiting.returncode == BUSY and b"goes on" in err, (waiting.returncode, err)
        d.process.wait(20 * SLOW)
        assert time.monotonic() - begun < 10 * SLOW
        assert not os.path.exists(f"/proc/{pid}"), "a worker outlived its daemon"
        d.start()
        os.kill(stopped(d), signal.SIGCONT)
        row, = d.json("job", "ls")
        assert d.json("job", "wait", row["id"])["state"] == "done"


def test_owners():
    if os.getuid() != 0:
        raise Skip("needs root")
    with daemon() as d:
        expect(d.ctl("import", d.model, "--name", "all", "--shared"), OK)
        d.invite()
        mine = start(d)
        d.json("job", "wait", mine)
        theirs = json.loads(expect(d.ctl_as(4001, "verify", "all", "--no-block", "--json"), OK).out)["job"]
        expect(d.ctl_as(4001, "job", "wait", theirs), OK)
        rows = json.loads(d.ctl_as(4001, "job", "ls", "--json").out)
        assert [r["id"] for r in rows] == [theirs], rows
        assert json.loads(d.ctl_as(4002, "job", "ls", "--json").out) == []
        for verb in "show wait pause resume cancel log".split():
            expect(d.ctl_as(4001, "job", verb, mine), UNKNOWN)
            expect(d.ctl_as(4002, "job", verb, theirs), UNKNOWN)
        expect(d.ctl_as(4001, "verify", "tiny"), UNKNOWN)
        assert d.json("job", "show", theirs)["uid"] == 4001
        assert [r["id"] for r in d.json("job", "ls")] == [mine, theirs]


def test_turns():
    """Who has queued many does not hold up who has queued one."""
    if os.getuid() != 0:
        raise Skip("needs root")
    with daemon(script(HELD)) as d:
        expect(d.ctl("import", d.model, "--name", "all", "--shared"), OK)
        d.invite()
        greedy = [json.loads(d.ctl_as(4001, "verify", "all", "--no-block", "--json").out)["job"] for _ in range(3)]
        polite = json.loads(d.ctl_as(4002, "verify", "all", "--no-block", "--json").out)["job"]
        order = []
        for _ in range(4):
            pid = stopped(d)
            running, = (j["id"] for j in d.json("job", "ls") if j["state"] == "running")
            order.append(running)
            os.kill(pid, signal.SIGCONT)
            expect(d.ctl("job", "wait", running), OK)
        assert order == [greedy[0], polite, greedy[1], greedy[2]], (order, greedy, polite)


def test_limits():
    with daemon(script(HELD), "kept_per_uid = 3\n[limits]\njobs_per_uid = 3\n") as d:
        jobs = [start(d) for _ in range(3)]
        r = expect(d.ctl("verify", "tiny"), BUSY)
        assert b"jobs_per_uid" in r.err, r
        expect(d.ctl("job", "pause", jobs[2]), OK)
        expect(d.ctl("verify", "tiny", "--no-block"), BUSY)
        for job in jobs:
            expect(d.ctl("job", "cancel", job), OK)
        for _ in range(4):
            jobs.append(start(d))
            expect(d.ctl("job", "cancel", jobs[-1]), OK)
        start(d)
        kept = [j["id"] for j in d.json("job", "ls")]
        assert len(kept) == 4 and kept[:3] == jobs[-3:], kept
        until("forgotten jobs leave no file", lambda: len(os.listdir(os.path.join(d.state, "jobs"))) == 4)
        # a finished one counts again when it is resumed
        expect(d.ctl("job", "resume", kept[0]), OK)
        expect(d.ctl("job", "resume", kept[1]), OK)
        expect(d.ctl("job", "resume", kept[2]), BUSY)


def serve_socket(listener):
    """What systemd does for one connection of qllm-worker.socket."""
    conn, _ = listener.accept()
    argv = ["sh", "-c", 'LISTEN_FDS=1 LISTEN_PID=$$ exec "$0" serve', WORKER]
    pid = os.fork()
    if pid == 0:
        os.dup2(conn.fileno(), 3)
        os.set_inheritable(3, True)
        os.execvp("sh", argv)
    conn.close()
    return pid


def test_worker_socket():
    with tempfile.TemporaryDirectory() as t:
        path = os.path.join(t, "worker.sock")
        with daemon(more=f"worker_socket = {path}\nretry_seconds = 1\n") as d:
            job = start(d)
            time.sleep(0.3)
            row = d.json("job", "show", job)
            assert row["state"] == "queued" and path in row["error"], row
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
                listener.bind(path)
                listener.listen()
                listener.settimeout(20 * SLOW)
                pid = serve_socket(listener)
                assert d.json("job", "wait", job)["state"] == "done"
                assert os.waitpid(pid, 0)[1] == 0
                # it is there, but its workers end at once
                job = start(d)
                for _ in range(3):
                    listener.accept()[0].close()
                r = expect(d.ctl("job", "wait", job), FAILED)
                assert b"connection ended" in r.err, r
            assert not children(d)


def test_no_worker_program():
    with daemon("/nonexistent/worker") as d:
        r = expect(d.ctl("verify", "tiny", "--timeout", "20"), FAILED)
        assert b"/nonexistent/worker" in r.err and b"worker_path" in r.err, r
        r = expect(d.ctl("job", "wait", start(d)), FAILED)
        assert b"/nonexistent/worker" in r.err, r


# --- the worker by itself ---------------------------------------------------------------------------------------------

def by_hand(*args):
    return subprocess.run([WORKER, *args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          env=environment(), timeout=120 * SLOW)


def test_by_hand():
    r = by_hand("verify", model_file("smollm2"), "--json", "--progress")
    got = json.loads(r.stdout)
    assert r.returncode == OK and got["ok"] is True and got["checksum"].startswith("xxh3-128:"), r
    assert b"100%" in r.stderr, r.stderr
    assert by_hand("--version").stdout.startswith(b"qllm-worker ")
    assert b"verify" in by_hand("--help").stdout
    for args in ([], ["nope"], ["verify"], ["verify", "a", "b"], ["verify", "--nope", "a"]):
        r = by_hand(*args)
        assert r.returncode == USAGE and not r.stdout and r.stderr, (args, r)
    with tempfile.TemporaryDirectory() as t:
        with open(t + "/bad", "wb") as f:
            f.write(b"GGUF" + bytes(100))
        for path in (t + "/bad", t + "/absent", t, "/dev/null"):
            r = by_hand("verify", path)
            assert r.returncode == FAILED and r.stderr.startswith(b"qllm-worker: ") and r.stderr.count(b"\n") == 1, r
        f = tiny()
        with open(t + "/cut", "wb") as out:
            out.write(f.bytes()[:-100])
        assert by_hand("verify", t + "/cut").returncode == FAILED


def varint(n):
    out = b""
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])


def work_job(kind=0, name=b"m", checksum=None):
    m = b"\x08\x05\x10" + varint(kind) + b"\x1a" + varint(len(name)) + name
    if checksum is not None:
        m += b"\x22" + varint(len(checksum)) + checksum
    return varint(90 << 3 | 2) + varint(len(m)) + m


def serve(datagram, fds=()):
    """A worker that gets one datagram, or with None a hang-up: exit code, answers, stdout, stderr."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    p = subprocess.Popen([WORKER, "serve"], stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                         env=environment())
    theirs.close()
    answers = []
    with ours:
        if datagram is not None:
            ours.sendmsg([datagram], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else [])
            ours.settimeout(20 * SLOW)
            # a worker that ends with bytes unread resets the connection
            with contextlib.suppress(ConnectionResetError):
                while got := ours.recv(65536):
                    answers.append(got)
    out, err = p.communicate(timeout=20 * SLOW)
    return p.returncode, answers, out, err


def test_hostile_socket():
    with tempfile.TemporaryDirectory() as t:
        good, r_w = os.path.join(t, "good"), os.path.join(t, "w")
        for path in (good, r_w):
            with open(path, "wb") as f:
                f.write(tiny().bytes())
        with contextlib.ExitStack() as stack:
            def fd(path, flags=os.O_RDONLY):
                n = os.open(path, flags)
                stack.callback(os.close, n)
                return n
            pipe = os.pipe()
            for end in pipe:
                stack.callback(os.close, end)
            ok = fd(good)
            # breaches of the protocol: one sentence, exit code 1, no answer
            for datagram, fds in ((b"\0" * 100, ()), (os.urandom(500), ()), (b"\xff" * 70000, ()), (work_job(), ()),
                                  (work_job(), (ok, ok)), (work_job(name=b"x" * 9000), (ok,)), (b"\x12\x00", ()),
                                  (b"\x52\x00", (ok,)), (None, ())):
                code, answers, out, err = serve(datagram, fds)
                assert code == FAILED and not out and not answers, (datagram and datagram[:20], code, answers, err)
                assert err.startswith(b"qllm-worker: ") and err.count(b"\n") == 1, err
            # jobs that cannot be done: that is the answer
            for datagram, one in ((work_job(), pipe[0]), (work_job(), fd(t)), (work_job(), fd(r_w, os.O_WRONLY)),
                                  (work_job(), fd(good, os.O_PATH)), (work_job(), fd("/dev/zero")),
                                  (work_job(kind=77), ok), (work_job(name=b"../x"), ok), (work_job(name=b""), ok),
                                  (work_job(checksum=b"y" * 500), ok), (work_job(checksum=b"xxh3-128:0"), ok)):
                code, answers, out, err = serve(datagram, (one,))
                assert code == OK and answers and not out, (datagram, code, answers, err)
                assert answers[-1].startswith(varint(94 << 3 | 2)), answers[-1]
            code, answers, out, err = serve(work_job(), (ok,))
            assert code == OK and answers[-1].startswith(varint(93 << 3 | 2)), (code, answers, err)


def test_hang_up_stops_the_worker():
    path = model_file("smollm2")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    p = subprocess.Popen([WORKER, "serve"], stdin=theirs, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                         env=environment())
    theirs.close()
    with open(path, "rb") as f:
        ours.sendmsg([work_job()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [f.fileno()]))])
    ours.recv(65536)                    # it has begun
    begun = time.monotonic()
    ours.close()
    _, err = p.communicate(timeout=20 * SLOW)
    assert p.returncode == FAILED and err.count(b"\n") == 1, (p.returncode, err)
    assert time.monotonic() - begun < 5 * SLOW


def test_start_timeout():
    if MODE != "long":
        raise Skip("30 s: --long")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        begun = time.monotonic()
        r = subprocess.run([WORKER, "serve"], stdin=theirs, stderr=subprocess.PIPE, env=environment(), timeout=60 * SLOW)
        assert r.returncode == FAILED and b"no job came" in r.stderr and 29 < time.monotonic() - begun, r


def test_worker_steps_back():
    """A child of the daemon runs at idle priority under its own name."""
    with daemon() as d:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        p = subprocess.Popen([WORKER, "serve"], stdin=theirs, stderr=subprocess.DEVNULL, env=environment())
        try:
            theirs.close()
            until("SCHED_IDLE", lambda: os.sched_getscheduler(p.pid) == os.SCHED_IDLE)
            with open(f"/proc/{p.pid}/comm") as f:
                assert f.read() == "qllm-worker\n"
        finally:
            ours.close()
            assert p.wait(20 * SLOW) == FAILED

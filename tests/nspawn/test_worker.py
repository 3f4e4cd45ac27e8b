"""Jobs in units of their own, sources that never answer, and the daemon of one user."""

import glob
import os
import select
import signal
import time

from harness import FAILED, OK, SLOW, Skip, expect
from machine import CGROUPS, wait

V1_MEMORY = os.path.join(CGROUPS, "memory")


def workers(m):
    """Processes of worker instances as the host numbers them: {pid: group}."""
    found = {}
    for top in m.group_dirs:
        for path in glob.glob(top + "/**/qllm-worker@*.service", recursive=True):
            try:
                with open(os.path.join(path, "cgroup.procs")) as f:
                    found.update({int(pid): path for pid in f.read().split() if pid != "0"})
            except OSError:
                continue
    return found


def comm(pid):
    try:
        with open(f"/proc/{pid}/comm") as f:
            return f.read().strip()
    except OSError:
        return ""


def catch(m):
    """The next worker, stopped before it has read much; its pid and its group."""
    def look():
        for pid, path in workers(m).items():
            if comm(pid) == "qllm-worker":
                os.kill(pid, signal.SIGSTOP)
                return pid, path
        return None
    return wait("a worker", 20, look, 0.0005)


def squeeze(m, pid, group):
    """Takes a process's memory away: with a group of the host, or with the limit of its own."""
    if os.path.exists(os.path.join(V1_MEMORY, "cgroup.procs")):
        path = os.path.join(V1_MEMORY, m.name)
        os.makedirs(path, exist_ok=True)
        if path not in m.group_dirs:
            m.group_dirs.append(path)
        with open(os.path.join(path, "memory.limit_in_bytes"), "w") as f:
            f.write("16384")
        with open(os.path.join(path, "cgroup.procs"), "w") as f:
            f.write(str(pid))
        return
    limit = os.path.join(group, "memory.max")
    if not os.path.exists(limit):
        raise Skip(f"{group} has no memory controller")
    with open(limit, "w") as f:
        f.write("16384")


def test_worker(m):
    """A job is an instance with a group of its own; memory taken from it is no harm to others, and the job says so."""
    model, expected = m.model(), m.complete("alice")
    m.complete("carol")
    pid = m.main_pid()
    r = expect(m.ctl("alice", "--json", "verify", model, "--no-block"), OK)
    number = str(r.json["job"])
    worker, group = catch(m)
    try:
        unit = os.path.basename(group)
        assert unit in m.do("systemctl", "list-units", "--plain", "--no-legend", "qllm-worker@*")
        with open(f"/proc/{worker}/cgroup") as f:
            assert f"/{unit}\n" in f.read()
        with open(f"/proc/{pid}/cgroup") as f:
            assert unit not in f.read()
        with open(f"/proc/{worker}/status") as f:
            status = dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line)
        assert "0" not in status["Uid"].split() and status["Seccomp"] == "2" and status["NoNewPrivs"] == "1", status
        with open(f"/proc/{pid}/status") as f:
            assert f"Uid:\t{status['Uid']}\n" not in f.read(), "worker and daemon are one user"
        with open(f"/proc/{worker}/oom_score_adj") as f:
            assert f.read().strip() == "800"
        client = m.popen("qllmctl", "run", m.model("carol"), "Once upon a time", "--temp", "0", "--ignore-eos", "-n", "60",
                         user="carol")
        squeeze(m, worker, group)
    finally:
        os.kill(worker, signal.SIGCONT)
    wait("the worker's end", 20, lambda: comm(worker) != "qllm-worker")
    out, err = client.communicate(timeout=60 * SLOW)
    assert client.returncode == OK and len(out) > 50, (client.returncode, err)
    expect(m.ctl("alice", "job", "wait", number, timeout=90), OK)
    shown = job(m, number)
    assert shown["state"] == "done" and shown["failures"] == 1, shown
    assert "worker 1 of" in m.do("qllmctl", "job", "log", number, user="alice")
    assert m.main_pid() == pid and m.complete("alice") == expected
    died = m.do("journalctl", "--output=cat", f"--unit={unit}")
    assert "killed" in died or "oom" in died.lower(), died
    return f"{unit} killed for memory, the next one finished the job"


def job(m, number):
    shown = expect(m.ctl("alice", "--json", "job", "show", number), OK).json
    return shown[0] if isinstance(shown, list) else shown


def test_ends(m):
    """A worker that dies each time fails its job, not the daemon; one whose daemon dies goes, and the job is done again."""
    model, pid = m.model(), m.main_pid()
    number = str(expect(m.ctl("alice", "--json", "verify", model, "--no-block"), OK).json["job"])
    seen = set()
    for _ in range(3):
        worker, group = catch(m)
        assert worker not in seen
        seen.add(worker)
        os.kill(worker, signal.SIGKILL)
        wait("the instance's end", 20, lambda: not os.path.exists(group))
    assert m.ctl("alice", "job", "wait", number, timeout=30).code == FAILED
    shown = job(m, number)
    assert shown["state"] == "failed" and shown["failures"] == 3 and len(shown["error"]) > 20, shown
    reason = shown["error"]
    assert m.main_pid() == pid
    said = m.do("journalctl", "--unit=qllmd.service", "--output=json", f"QLLM_JOB={number}")
    assert said.count('"MESSAGE_ID"') >= 2, said
    # no unit stays behind, failed or not
    assert not m.do("systemctl", "list-units", "--all", "--plain", "--no-legend", "qllm-worker@*").strip()

    number = str(expect(m.ctl("alice", "--json", "verify", model, "--no-block"), OK).json["job"])
    worker, group = catch(m)
    os.kill(pid, signal.SIGKILL)
    os.kill(worker, signal.SIGCONT)
    wait("the end of a worker without a daemon", 20, lambda: not os.path.exists(group))
    expect(m.ctl("alice", "job", "wait", number, timeout=60), OK)
    assert job(m, number)["state"] == "done", job(m, number)
    return reason


# A file system of one file, whose reads are never answered. Without libfuse: the tests' image has none.
SILENT = """
import ctypes, os, struct, sys, threading
where = sys.argv[1]
os.makedirs(where, exist_ok=True)
fd = os.open("/dev/fuse", os.O_RDWR)
libc = ctypes.CDLL(None, use_errno=True)
options = f"fd={fd},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
if libc.mount(b"silent", where.encode(), b"fuse", 6, options) != 0:
    sys.exit("mount: " + os.strerror(ctypes.get_errno()))
SIZE = 1 << 30
def attr(node):
    mode = 0o040755 if node == 1 else 0o100644
    return struct.pack("<6Q10I", node, SIZE, SIZE >> 9, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)
def reply(unique, data=b"", error=0):
    os.write(fd, struct.pack("<IiQ", 16 + len(data), -error, unique) + data)
print("mounted", flush=True)
while True:
    try:
        request = os.read(fd, 1 << 17)
    except OSError as e:
        sys.exit(str(e))
    _, op, unique, node = struct.unpack_from("<IIQQ", request)
    if op == 26:                    # INIT
        reply(unique, struct.pack("<4I2H2I2H8I", 7, 31, 0, 0, 1, 1, 4096, 1, 1, 0, *[0] * 8)[:64])
    elif op == 1:                   # LOOKUP
        reply(unique, struct.pack("<4Q2I", 2, 0, 60, 60, 0, 0) + attr(2))
    elif op == 3:                   # GETATTR
        reply(unique, struct.pack("<Q2I", 60, 0, 0) + attr(node))
    elif op in (14, 27):            # OPEN, OPENDIR
        reply(unique, struct.pack("<QII", 7, 0, 0))
    elif op == 15:                  # READ
        print("read", flush=True)
    elif op in (25, 18, 29):        # FLUSH, RELEASE, RELEASEDIR: not answered either
        print("end", flush=True)
    elif op not in (2, 36, 42):     # FORGET, INTERRUPT, BATCH_FORGET want no answer
        reply(unique, error=38)     # ENOSYS
"""


def hear(stream, line, seconds=20):
    """Reads what a process prints until this line comes; whether it came. Lines of others may come before it."""
    text, deadline = b"", time.monotonic() + seconds * SLOW
    while line not in text.split(b"\n")[:-1]:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([stream], [], [], left)[0]:
            return False
        got = os.read(stream.fileno(), 4096)
        if not got:
            return False
        text += got
    return True


def test_silent_source(m):
    """An import from a FUSE file that never answers: others import and generate; it costs what its user may hold."""
    if not os.path.exists("/dev/fuse"):
        raise Skip("no /dev/fuse on this host")
    m.restart()
    expected = m.complete("alice")
    m.put("/usr/lib/qllmd-silent.py", SILENT)
    server = m.popen("python3", "/usr/lib/qllmd-silent.py", "/mnt/silent")
    importers = []
    try:
        assert hear(server.stdout, b"mounted"), server.communicate(timeout=5)
        # more than one user's files may hang at once (limits.intake_per_uid)
        for i in range(6):
            importers.append(m.popen("qllmctl", "import", "/mnt/silent/m.gguf", "--name", f"silent{i}", user="carol"))
        # importers over the limit are refused and close the file before the daemon reads it
        assert hear(server.stdout, b"read"), "the daemon reads nothing"
        time.sleep(1)
        start = time.monotonic()
        for i in range(2):
            expect(m.ctl("alice", "import", "/home/alice/m.gguf", "--name", f"beside{i}"), OK)
        assert m.complete("alice") == expected
        took = time.monotonic() - start
        assert took < 20 * SLOW, f"{took:.1f} s beside a source that hangs"
        assert any(p.poll() is None for p in importers), [p.communicate() for p in importers]
        # those who asked for it go; the daemon's threads still hang, and others still do not notice
        for p in importers:
            m.signal(p, signal.SIGKILL)
        expect(m.ctl("alice", "rm", "beside0"), OK)
        assert m.complete("alice") == expected
    finally:
        # the server's end breaks the mount: every call that hangs returns
        m.signal(server, signal.SIGKILL)
        server.communicate(timeout=10 * SLOW)
        m.run("umount", "--lazy", "/mnt/silent")
        for p in importers:
            p.communicate(timeout=20 * SLOW)
    wait("carol's imports to be let go", 20, lambda: m.ctl("carol", "import", "/home/carol/m.gguf", "--name", "after").code == OK,
         0.5)
    listed = m.do("qllmctl", "ls", user="carol")
    assert "silent" not in listed and "after" in listed, listed
    left = [f for f in m.do("find", "/var/lib/private/qllmd", "-type", "f").split() if "silent" in f]
    assert not left, left
    for name, user in (("after", "carol"), ("beside1", "alice")):
        expect(m.ctl(user, "rm", name), OK)
    return f"two imports and an answer beside it in {took:.1f} s"


def test_user_instance(m):
    """A user outside of the group has a daemon of their own, by that user's manager."""
    uid = m.do("id", "-u", "bob").strip()
    m.put("/var/lib/systemd/linger/bob", "")
    m.do("systemctl", "start", f"user@{uid}.service")

    def own(*args, **more):
        return m.run("env", f"XDG_RUNTIME_DIR=/run/user/{uid}", *args, user="bob", **more)
    try:
        r = own("systemctl", "--user", "enable", "--now", "qllmd.socket")
        assert r.code == 0, r
        assert own("systemctl", "--user", "is-active", "qllmd.service").text.strip() == "inactive"
        mode = own("stat", "-c", "%a %U", f"/run/user/{uid}/qllmd", f"/run/user/{uid}/qllmd/qllmd.sock").text.split()
        assert mode == ["700", "bob", "600", "bob"], mode
        expect(own("qllmctl", "import", "/home/bob/m.gguf", "--name", "m"), OK)
        first = expect(own("qllmctl", "run", "m", "Once upon a time", "--temp", "0", "-n", "6"), OK)
        assert first.text.strip(), first
        expect(own("qllmctl", "verify", "m"), OK)
        assert own("systemctl", "--user", "is-active", "qllmd.service").text.strip() == "active"
        status = expect(own("qllmctl", "--json", "status"), OK).json
        assert status["socket"] == f"/run/user/{uid}/qllmd/qllmd.sock", status
        assert status["state_dir"].startswith("/home/bob/"), status
        # nobody else's business, and still no part of the system's
        assert m.ctl("alice", "--socket", f"/run/user/{uid}/qllmd/qllmd.sock", "ls").code not in (OK, 1)
        r = own("systemctl", "--user", "disable", "--now", "qllmd.socket", "qllmd.service")
        assert r.code == 0, r
    finally:
        m.remove("/var/lib/systemd/linger/bob")
        m.run("systemctl", "stop", f"user@{uid}.service")
    return status["state_dir"]

"""Packed models: import packs by a worker, export gives the GGUF back, answers are those of the GGUF in place, old files are
packed after a start, and damage is refused by name."""

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
import time

from gguf_file import tiny
from harness import (FAILED, OK, SLOW, UNKNOWN, USAGE, Daemon, Skip, environment, expect, model_file, program)
from test_jobs import HELD, WORKER, script, stopped, until

PACK = "[models]\npack = 1\n"
PLAIN = "[models]\npack = 0\n"


def digest(path):
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else \
            hashlib.sha256(f.read()).hexdigest()


@contextlib.contextmanager
def daemon(config=PACK, state=None, more=""):
    with Daemon(config=config + more, state=state) as d:
        d.model = os.path.join(d.dir, "tiny.gguf")
        with open(d.model, "wb") as f:
            f.write(tiny().bytes())
        yield d
        d.alive()


def row(d, name):
    return next((r for r in d.json("ls") if r["name"] == name), None)


def stored(d):
    """Names of the files of the store, but for the .json."""
    found = []
    for _, _, files in os.walk(os.path.join(d.state, "models")):
        found += [f for f in files if f != ".lock" and not f.endswith(".json")]
    return sorted(found)


def answer(d, name, *more):
    return d.json("run", name, "The sea is", "--raw", "-n", "24", "--temp", "0.8", "--seed", "5", "--ignore-eos", *more)


def worker(*args):
    return subprocess.run([WORKER, *args], capture_output=True, text=True, env=environment(), timeout=120 * SLOW)


def test_by_hand():
    with daemon() as d:
        packed, back = os.path.join(d.dir, "p"), os.path.join(d.dir, "b.gguf")
        for more in ([], ["--plain"]):
            r = worker("pack", d.model, packed, *more)
            assert r.returncode == OK and "packed" in r.stdout, r
            r = worker("verify", packed)
            assert r.returncode == OK and r.stdout.startswith("extents"), r
            assert r.stdout.split("; ")[1] == worker("verify", d.model).stdout.split("; ")[1]
            r = worker("export", packed, back, *more)
            assert r.returncode == OK, r
            assert digest(back) == digest(d.model)
        r = worker("pack", packed, os.path.join(d.dir, "twice"))
        assert r.returncode == FAILED and "packed already" in r.stderr, r
        assert worker("pack", d.model).returncode == USAGE
        r = worker("pack", os.path.join(d.dir, "none"), packed + "2")
        assert r.returncode == FAILED and "none" in r.stderr and not os.path.exists(packed + "2.part"), r


def test_import_packs_and_export_gives_it_back():
    with daemon() as d:
        for name, path in (("tiny", d.model), ("smollm2", model_file("smollm2"))):
            expect(d.ctl("import", path, "--name", name), OK)
            there = row(d, name)
            assert there["packed"] and not there["in_place"], there
            assert d.json("show", name)["packed"]
            out = os.path.join(d.dir, name + ".out")
            expect(d.ctl("export", name, out), OK)
            assert digest(out) == digest(path)
            assert "is that of the import" in d.ctl("verify", name).text
        assert stored(d) == ["smollm2.pack", "tiny.pack"]
        assert [j["kind"] for j in d.json("job", "ls")] == ["pack", "export", "verify"] * 2
        r = expect(d.ctl("export", "tiny", out), FAILED)
        assert b"is there already" in r.err
        expect(d.ctl("export", "nobody", out + "2"), UNKNOWN)
        expect(d.ctl("export", "tiny", out + "3", "--format", "gptq"), USAGE)
        assert not [f for f in os.listdir(d.dir) if "-" in f or f.endswith(("2", "3"))], os.listdir(d.dir)
        expect(d.ctl("rm", "tiny"), OK)
        assert stored(d) == ["smollm2.pack"]


def test_same_answers():
    with daemon() as d:
        for name, path in (("tiny", d.model), ("smollm2", model_file("smollm2"))):
            expect(d.ctl("import", path, "--name", name), OK)
            expect(d.ctl("import", path, "--name", name + "-in", "--in-place"), OK)
            a, b = answer(d, name, "--logprobs", "5"), answer(d, name + "-in", "--logprobs", "5")
            assert row(d, name)["packed"] and not row(d, name + "-in")["packed"]
            assert a["text"] == b["text"] and a["tokens"] == b["tokens"]
            assert a.get("logprobs") == b.get("logprobs")


def test_without_a_worker_the_gguf_is_kept():
    with daemon(more="[jobs]\nworker_path = /nonexistent/qllm-worker\n") as d:
        r = expect(d.ctl("import", d.model), OK)
        assert b"stored as GGUF, not packed" in r.err, r
        assert not row(d, "tiny")["packed"] and stored(d) == ["tiny.gguf"]
        answer(d, "tiny")


@contextlib.contextmanager
def small_disk(size):
    if os.geteuid() != 0:
        raise Skip("a small disk needs root")
    path = tempfile.mkdtemp(prefix="qllm-disk-")
    try:
        if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", path], capture_output=True).returncode:
            raise Skip("this container mounts nothing")
        try:
            yield path
        finally:
            subprocess.run(["umount", "-l", path], check=True)
    finally:
        os.rmdir(path)


def test_full_disk():
    """The GGUF fits, its packed form beside it does not: one sentence, and the GGUF serves on."""
    gguf = tiny().bytes()
    with small_disk(len(gguf) + (1 << 20)) as disk:
        with daemon(state=os.path.join(disk, "state")) as d:
            r = expect(d.ctl("import", d.model), OK)
            assert r.err.count(b"\n") == 1 and b"stored as GGUF, not packed: job 1 failed: its new file needs" in r.err, r
            assert b"make room and try again" in r.err, r
            assert not row(d, "tiny")["packed"] and stored(d) == ["tiny.gguf"]
            job = d.json("job", "ls")[0]
            assert job["state"] == "failed", job
            with open(os.path.join(d.state, "models", str(os.getuid()), "tiny.gguf"), "rb") as f:
                assert f.read() == gguf
            before = answer(d, "tiny")
            # what is exported to it by hand leaves nothing either
            r = worker("pack", d.model, os.path.join(disk, "p"))
            assert r.returncode == FAILED and r.stderr.count("\n") == 1 and "its new file needs" in r.stderr, r
            assert sorted(os.listdir(disk)) == ["state"]
            subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
            expect(d.ctl("job", "resume", str(job["id"])), OK)
            until("the model is packed", lambda: row(d, "tiny")["packed"])
            assert stored(d) == ["tiny.pack"] and answer(d, "tiny")["tokens"] == before["tokens"]


def test_old_files_are_packed_after_a_start():
    state = tempfile.mkdtemp(prefix="qllm-state-")
    try:
        with daemon(config=PLAIN, state=state) as d:
            expect(d.ctl("import", d.model), OK)
            assert stored(d) == ["tiny.gguf"]
            before = answer(d, "tiny")
        with daemon(state=state) as d:
            until("the model is packed", lambda: row(d, "tiny")["packed"])
            assert stored(d) == ["tiny.pack"]
            assert answer(d, "tiny")["tokens"] == before["tokens"]
    finally:
        shutil.rmtree(state)


def test_in_use_while_it_is_packed():
    """The file changes when nobody uses the model; who has it loaded reads on."""
    with daemon(more=f"[jobs]\nworker_path = {script(HELD)}\n") as d:
        expect(d.ctl("import", d.model, "--no-block"), OK)
        pid = stopped(d)
        before = answer(d, "tiny")
        assert not row(d, "tiny")["packed"] and row(d, "tiny")["loaded"]
        os.kill(pid, signal.SIGCONT)
        until("the model is packed", lambda: row(d, "tiny")["packed"])
        assert row(d, "tiny")["fault"] is None
        assert answer(d, "tiny")["tokens"] == before["tokens"]
        # to remove a model ends what packs it
        expect(d.ctl("import", d.model, "--name", "again", "--no-block"), OK)
        stopped(d)
        expect(d.ctl("rm", "again"), OK)
        until("the job is cancelled", lambda: d.json("job", "ls")[-1]["state"] == "cancelled")
        assert stored(d) == ["tiny.pack"]


def test_background_packing_gives_way():
    """While somebody waits for tokens nothing is packed, unless somebody waits for that too."""
    with daemon() as d:
        expect(d.ctl("import", model_file("smollm2"), "--name", "big", "--in-place"), OK)
        talk = d.popen("run", "big", "The sea is", "--raw", "-n", "8000", "--ignore-eos")
        try:
            assert talk.stdout.read(1)
            expect(d.ctl("import", d.model, "--no-block"), OK)
            job = until("the job is queued", lambda: d.json("job", "ls"))[0]["id"]
            until("it waits", lambda: "until no request runs" in d.ctl("job", "log", job).text)
            expect(d.ctl("import", d.model, "--name", "soon"), OK)
            assert row(d, "soon")["packed"] and not row(d, "tiny")["packed"] and talk.poll() is None
            time.sleep(1.2)
            assert not row(d, "tiny")["packed"] and d.json("job", "ls")[0]["state"] == "queued"
        finally:
            talk.kill()
            talk.communicate()
        until("the model is packed", lambda: row(d, "tiny")["packed"])


def test_outdated_files_are_packed_anew():
    """A packed file of an older version serves at once, and when nobody waits a better one takes its place."""
    with daemon() as d:
        new, old = os.path.join(d.dir, "new"), os.path.join(d.dir, "old")
        assert worker("pack", d.model, new).returncode == OK
        subprocess.run([program("tests/lib/packold"), new, old], check=True)
        assert digest(old) != digest(new)
        expect(d.ctl("import", d.model, "--name", "right"), OK)
        expect(d.ctl("import", old, "--name", "tiny"), OK)
        path = os.path.join(d.state, "models", str(os.getuid()), "tiny.pack")
        assert row(d, "tiny")["packed"] and digest(path) == digest(old)
        assert answer(d, "tiny")["tokens"] == answer(d, "right")["tokens"]
        until("it is packed anew", lambda: digest(path) == digest(new))
        until("the job has ended", lambda: d.json("job", "ls")[-1]["state"] == "done")
        assert stored(d) == ["right.pack", "tiny.pack"]
        assert answer(d, "tiny")["tokens"] == answer(d, "right")["tokens"]
        expect(d.ctl("unload", "tiny"), OK)
        expect(d.ctl("load", "tiny"), OK)
        kinds = [(j["kind"], j["state"]) for j in d.json("job", "ls")]
        assert kinds == [("pack", "done")] * 2, kinds
        # one that this version cannot read says so
        expect(d.ctl("unload", "tiny"), OK)
        os.chmod(path, 0o600)
        with open(path, "r+b") as f:
            f.seek(12)
            f.write(b"\x63")
        r = expect(d.ctl("run", "tiny", "x", "-n", "1"), FAILED)
        assert b"packed by a newer qllmd" in r.err and b"layout 99" in r.err and b"import the model again" in r.err, r


def test_damage_is_refused():
    with daemon() as d:
        expect(d.ctl("import", d.model), OK)
        path = os.path.join(d.state, "models", str(os.getuid()), "tiny.pack")
        os.chmod(path, 0o600)
        size = os.path.getsize(path)
        for at, says in ((3, "not a GGUF"), (200, "checksum of its metadata"), (100, "checksum of its header")):
            with open(path, "r+b") as f:
                f.seek(at)
                byte = f.read(1)
                f.seek(at)
                f.write(bytes([byte[0] ^ 0x40]))
            r = expect(d.ctl("run", "tiny", "x", "-n", "1"), FAILED)
            assert says.encode() in r.err, r
            with open(path, "r+b") as f:
                f.seek(at)
                f.write(byte)
        os.truncate(path, size - 64)
        r = expect(d.ctl("run", "tiny", "x", "-n", "1"), FAILED)
        assert b"its header says" in r.err, r
        os.truncate(path, size)
        r = expect(d.ctl("verify", "tiny"), FAILED)
        assert b"changed" in r.err or b"NaN" in r.err or b"checksum" in r.err, r


def test_killed_workers():
    """Each death leaves the model as it was, and the last one says so."""
    with daemon(more=f"[jobs]\nworker_path = {script(HELD)}\n") as d:
        expect(d.ctl("import", d.model, "--no-block"), OK)
        for _ in range(3):
            os.kill(stopped(d), signal.SIGKILL)
            time.sleep(0.05)
        until("the job has failed", lambda: d.json("job", "ls")[0]["state"] == "failed")
        assert stored(d) == ["tiny.gguf"] and not row(d, "tiny")["packed"]
        answer(d, "tiny")

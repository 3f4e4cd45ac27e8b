"""The Debian packages on a machine of their own: installed, upgraded under load, removed, purged."""

import glob
import json
import os
import re
import shutil
import signal
import subprocess

from harness import BUILD, OK, SLOW, SRC, UNREACHABLE, Skip, expect, program
from machine import Machine, possible, wait

NAMES = ("libqllm0", "qllmctl", "qllmd")


def built():
    """The packages of this tree; ./check has built them before."""
    where = os.path.join(BUILD, "packages")
    if not glob.glob(where + "/*.deb"):
        r = subprocess.run([os.path.join(SRC, "tests", "packaging", "build"), where], stdin=subprocess.DEVNULL,
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=900 * SLOW,
                           env=dict(os.environ, QLLM_BUILDDIR=BUILD, QLLM_SRCDIR=SRC))
        if r.returncode == 77:
            raise Skip(r.stdout.decode().strip().splitlines()[-1])
        assert r.returncode == 0, r.stdout.decode("utf-8", "replace")[-2000:]
    return {name: glob.glob(f"{where}/{name}_*.deb")[0] for name in NAMES}


def next_version(m, deb):
    """The same package, one version later: what a rebuild after a new entry in the changelog gives."""
    tree = os.path.join(m.dir, "deb")
    shutil.rmtree(tree, ignore_errors=True)
    m.host("dpkg-deb", "--raw-extract", deb, tree)
    control = os.path.join(tree, "DEBIAN", "control")
    with open(control) as f:
        text = f.read()
    with open(control, "w") as f:
        f.write(re.sub(r"^(Version: .*)$", r"\1+next1", text, flags=re.M))
    to = os.path.join(m.root, "srv", "next-" + os.path.basename(deb))
    m.host("dpkg-deb", "--root-owner-group", "--build", tree, to)
    return "/srv/" + os.path.basename(to)


def dpkg(m, *args):
    return m.do("env", "DEBIAN_FRONTEND=noninteractive", "dpkg", *args, timeout=120)


def version(m, name):
    return m.do("dpkg-query", "-W", "-f", "${Version}", name)


def test_life():
    possible()
    debs = built()
    m = Machine("packages")
    try:
        m.files()
        for deb in debs.values():
            shutil.copy(deb, os.path.join(m.root, "srv"))
        m.boot()
        return life(m, debs)
    finally:
        m.close()


def life(m, debs):
    # installed: the sockets listen at once, the daemon waits for its first client
    dpkg(m, "--install", *("/srv/" + os.path.basename(d) for d in debs.values()))
    assert m.state("qllmd.socket") == m.state("qllm-worker.socket") == "active"
    assert m.state("qllmd.service") == "inactive"
    assert m.do("systemctl", "is-enabled", "qllmd.socket", "qllm-worker.socket").split() == ["enabled"] * 2
    m.do("usermod", "--append", "--groups", "qllm", "alice")
    first = m.complete()
    expect(m.ctl("alice", "verify", "alice-m"), OK)
    assert m.ctl("bob", "ls").code == UNREACHABLE
    assert "Subject: " in m.do("journalctl", "--catalog", "--unit=qllmd.service"), "the catalog is not there"

    # upgraded under load: the socket stays, a running daemon is replaced, its clients come back, models are kept
    shutil.copy(program("tests/hostile/good"), os.path.join(m.root, "usr/bin/good"))
    client = m.popen("good", "--model", "alice-m", "--prompt", "Name three colours.", "-n", "8", "--seconds", "1000",
                     "--keep-going", user="alice")
    wait("load", 30, lambda: m.ctl("alice", "--json", "status").json["connections"] > 1)
    inode, pid = m.do("stat", "-c", "%i", "/run/qllmd/qllmd.sock"), m.main_pid()
    was = version(m, "qllmd")
    dpkg(m, "--install", *[next_version(m, d) for d in debs.values()])
    assert version(m, "qllmd") == was + "+next1"
    assert m.main_pid() != pid, "the old daemon still runs"
    assert m.do("stat", "-c", "%i", "/run/qllmd/qllmd.sock") == inode, "the upgrade made another socket"
    wait("the client", 30, lambda: m.ctl("alice", "--json", "status").json["decode_tokens"] > 8)
    m.signal(client, signal.SIGINT)
    score = json.loads(client.communicate(timeout=30 * SLOW)[0])
    assert score["ok"] > 0 and len(score["texts"]) == 1, score
    assert all(e.startswith(f"{UNREACHABLE}: ") for e in score["errors"]), score
    assert m.complete() == first

    # removed: nothing runs or listens; models are kept
    dpkg(m, "--remove", "qllmd")
    assert m.state("qllmd.socket") == m.state("qllmd.service") == m.state("qllm-worker.socket") == "inactive"
    assert m.run("pgrep", "-x", "qllmd").code == 1
    assert m.run("test", "-e", "/run/qllmd/qllmd.sock").code == 1
    assert m.run("test", "-e", "/usr/sbin/qllmd").code == 1
    assert m.ctl("alice", "ls").code == UNREACHABLE
    kept = m.do("find", "/var/lib/private/qllmd", "-name", "alice-m.pack", "-o", "-name", "alice-m.gguf").split()
    assert kept, "models do not outlive the removal"

    # installed again: everything is as before
    dpkg(m, "--install", "/srv/next-" + os.path.basename(debs["qllmd"]))
    assert m.complete() == first

    # purged: no trace but what no package may delete, groups
    dpkg(m, "--purge", *NAMES)
    assert m.run("dpkg-query", "-W", "qllmd").code != 0 or "installed" not in m.run("dpkg-query", "-W", "-f",
                                                                                  "${db:Status-Status}", "qllmd").text
    left = m.do("find", "/etc", "/usr", "/lib", "/var/lib", "/var/cache", "/run", "-xdev", "-name", "*qllm*", "-not", "-path",
                "/var/lib/dpkg/*").split()
    left = [f for f in left if not f.startswith("/usr/bin/good")]
    assert not left, f"purge has left {left}"
    return f"{was} -> {was}+next1, {score['ok']} answers over the upgrade, {sum(score['errors'].values())} lost"

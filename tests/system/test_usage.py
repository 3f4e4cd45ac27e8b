"""What needs no daemon: usage, help, the manual, the library's symbols."""

import os
import re
import subprocess
import tempfile

from harness import BUILD, OK, SRC, UNREACHABLE, USAGE, Result, environment, expect, program


def ctl(*args, env=None):
    p = subprocess.run([program("qllmctl"), *args], stdin=subprocess.DEVNULL, capture_output=True, env=env or environment())
    return Result(args, p.returncode, p.stdout, p.stderr)


def test_wrong_usage():
    for args in (["nope"], ["run"], ["ls", "more"], ["rm"], ["run", "m", "x", "--temp", "hot"], ["ls", "--bad"],
                 ["import", "/etc/hostname", "--name", "bad/name"], ["logits", "m"], ["template", "m"], ["eval", "m"],
                 ["bench", "m", "-c", "0"], ["load", "m", "--kv", "none"], ["run", "m", "x", "--logit-bias", "x=1"]):
        r = ctl(*args, "--socket", "/nonexistent/s")
        # options are checked first; some commands look at theirs only when they run
        assert r.code in (USAGE, UNREACHABLE), r
        assert r.err.startswith(b"qllmctl: "), r
    expect(ctl("nope"), USAGE)
    expect(ctl("run", "m", "x", "--temp", "hot"), USAGE)
    assert b"did you mean tokenize?" in expect(ctl("tokenise", "m"), USAGE).err
    assert b"did you mean --json?" in expect(ctl("ls", "--jsn"), USAGE).err
    assert ctl().code == USAGE


def test_not_built_yet():
    for name in ("embed score rerank stats quantize calibrate advise lora session").split():
        assert b"not built yet" in expect(ctl(name, "a", "--some", "thing"), USAGE).err


def test_help():
    r = ctl("help")
    assert r.code == OK and not r.err, r
    names = ("status is-ready is-loaded ls import rm show verify estimate load unload ps run chat tokenize detokenize template "
             "logits eval bench job version").split()
    for name in names:
        assert re.search(rf"^  {name} ", r.text, re.M), name
        for args in (["help", name], [name, "--help"], ["--help", name], [name, "-h"]):
            h = ctl(*args)
            assert h.code == OK and h.text.startswith(f"usage: qllmctl {name}"), h
    # no escape sequences in a pipe, even where colour is the default
    assert b"\033" not in r.out


def test_manual_agrees():
    with open(os.path.join(SRC, "man", "qllmctl.1")) as f:
        page = f.read()
    made = ctl("help", "--roff").text
    assert made in page, "man/qllmctl.1 is not what `qllmctl help --roff` prints: replace OPTIONS and COMMANDS by it"


def test_no_daemon():
    with tempfile.TemporaryDirectory() as d:
        env = environment(XDG_RUNTIME_DIR=d)
        for args in (["ls"], ["status"], ["is-ready"], ["run", "m", "hi"], ["ps"], ["rm", "m"]):
            r = ctl("--socket", d + "/s", *args)
            assert d.encode() in expect(r, UNREACHABLE).err, r
        r = ctl("ls", env=dict(env, QLLM_SOCKET=d + "/other"))
        assert (d + "/other").encode() in expect(r, UNREACHABLE).err
        assert ctl("version", "--socket", d + "/s").code == OK
    long = "/tmp/" + "x" * 120
    assert ctl("ls", "--socket", long).code == UNREACHABLE


def test_colour():
    for env, args, colour in ((environment(), ["--color=always"], True), (environment(NO_COLOR="1"), [], False),
                              (environment(), [], False), (environment(NO_COLOR="1"), ["--color=always"], True)):
        assert (b"\033" in ctl("--socket", "/nonexistent/s", "ls", *args, env=env).err) == colour


def test_symbols():
    lib = os.path.join(BUILD, ".libs", "libqllm.so")
    out = subprocess.run(["nm", "-D", "--defined-only", lib], capture_output=True, text=True, check=True).stdout
    names = {line.split()[2].split("@")[0] for line in out.splitlines()} - {"QLLM_0.1"}
    odd = [n for n in names if not re.fullmatch(r"qllm_[a-z_]+", n)]
    assert names and not odd, f"libqllm.so exports {odd}"
    with open(os.path.join(SRC, "client", "qllm.h")) as f:
        declared = set(re.findall(r"QLLM_API [^;(]*?\b(qllm_\w+)\(", f.read()))
    assert declared == names, declared ^ names

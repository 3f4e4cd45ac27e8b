"""A real qllmd on a private socket, qllmctl as users call it, and what tests ask of both. Standard library only."""

import collections
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import traceback

SRC = os.environ.get("QLLM_SRCDIR") or os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
BUILD = os.environ.get("QLLM_BUILDDIR") or os.path.join(SRC, "build", "check")
MODE = os.environ.get("QLLM_CHECK", "full")
CACHE = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.environ.get("HOME", "/root"), ".cache")
MODELS = os.environ.get("QLLM_MODELS") or os.path.join(CACHE, "qllmd", "models")
# Sanitizers and valgrind-like slowness stretch every bound on time.
SLOW = float(os.environ.get("QLLM_SLOW", "1"))

OK, FAILED, USAGE, STATE, UNKNOWN, REFUSED, UNREACHABLE, BUSY, TIMEOUT, INTERRUPTED = 0, 1, 2, 3, 4, 5, 6, 75, 124, 130


# SmolLM2's vocabulary has no token for these bytes, so no tokenizer can keep them.
NO_TOKEN = bytes([0x04, 0x06, 0x13, 0x14, 0x16, 0x1d, 0xc0, 0xc1, 0xf1, 0xf2, *range(0xf5, 0x100)])

# What a sanitizer says on stderr. Reports of daemons are collected here; run_tests fails the test that they came up in.
SANITIZERS = (b"ERROR: AddressSanitizer", b"ERROR: LeakSanitizer", b"runtime error:", b"WARNING: ThreadSanitizer",
              b"ThreadSanitizer:DEADLYSIGNAL")
_reports = []
_daemons = []


class Skip(Exception):
    pass


def take_reports():
    """Sanitizer reports since the last call, of daemons that run and of those that have ended."""
    for d in _daemons:
        d.examine()
    found = list(_reports)
    _reports.clear()
    return found


def sane():
    reports = take_reports()
    if reports:
        raise AssertionError("a sanitizer reports:\n" + "\n".join(reports))


def run_tests(tests, end):
    """Runs (label, function) pairs, then end(), which stops daemons. A line for each, then the sum; the exit code."""
    passed, failed, skipped = 0, [], 0
    try:
        for label, test in tests:
            start = time.monotonic()
            try:
                try:
                    note = test()
                finally:
                    sane()
                passed += 1
                print(f"ok   {label} ({time.monotonic() - start:.1f} s){': ' + note if note else ''}", flush=True)
            except Skip as why:
                skipped += 1
                print(f"skip {label}: {why}", flush=True)
            except Exception:
                failed.append(label)
                print(f"FAIL {label}\n{traceback.format_exc()}", flush=True)
    finally:
        end()
        try:
            sane()
        except AssertionError as why:
            failed.append("the daemon's end")
            print(f"FAIL the daemon's end\n{why}", flush=True)
    for label in failed:
        print(f"failed: {label}")
    print(f"{passed} passed, {len(failed)} failed, {skipped} skipped")
    return 1 if failed else 0


def program(name):
    """The program itself rather than libtool's wrapper: its pid and its start are what tests look at."""
    real = os.path.join(BUILD, os.path.dirname(name), ".libs", os.path.basename(name))
    return real if os.path.exists(real) else os.path.join(BUILD, name)


def model_file(name):
    path = os.path.join(MODELS, name + ".gguf")
    if not os.path.exists(path):
        raise AssertionError(f"{path} is missing: tests/lib/fetch-models.sh {name}")
    return path


def environment(**more):
    env = dict(os.environ, LD_LIBRARY_PATH=os.path.join(BUILD, ".libs"), LC_ALL="C.UTF-8", PAGER="cat")
    for key in ("QLLM_SOCKET", "NO_COLOR", "LD_PRELOAD"):
        env.pop(key, None)
    env.update(more)
    return env


class Result:
    def __init__(self, args, code, out, err):
        self.args, self.code, self.out, self.err = args, code, out, err

    @property
    def json(self):
        return json.loads(self.out)

    @property
    def text(self):
        return self.out.decode("utf-8", "replace")

    def __repr__(self):
        return f"{self.args} -> {self.code}\nstdout: {self.out[:400]!r}\nstderr: {self.err[:400]!r}"


class Daemon:
    """`with Daemon() as d`: started and ready; its directory goes when it does."""

    def __init__(self, *options, state=None, config=None, env=None, wrap=()):
        """env: more of the environment. wrap: a command that starts the daemon, its own arguments come after."""
        self.dir = tempfile.mkdtemp(prefix="qllm-")
        self.state = state or os.path.join(self.dir, "state")
        self.socket = os.path.join(self.dir, "s")
        self.log = os.path.join(self.dir, "log")
        self.options = list(options)
        # A worker for each import would be in the way of tests of other things: test_pack asks for it.
        if config is not None and "pack =" not in config or config is None and "--config" not in self.options:
            config = (config or "") + "\n[models]\npack = 0\n"
        if config:
            path = os.path.join(self.dir, "qllmd.conf")
            with open(path, "w") as f:
                f.write(config)
            self.options += ["--config", path]
        self.env, self.wrap = env or {}, list(wrap)
        self.process = None
        self.examined = 0

    def examine(self):
        """Collects what a sanitizer has written to the log since the last look."""
        with open(self.log, "rb") as f:
            f.seek(self.examined)
            new = f.read()
        first = min((at for at in map(new.find, SANITIZERS) if at >= 0), default=-1)
        if first >= 0:
            _reports.append(new[max(first - 200, 0):][:8000].decode("utf-8", "replace"))
        self.examined += len(new)

    def start(self, wait=True):
        assert not self.process or self.process.poll() is not None, "it runs already"
        if self not in _daemons:
            _daemons.append(self)
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [*self.wrap, program("qllmd"), "--socket", self.socket, "--state-dir", self.state, "--cache-dir",
                 os.path.join(self.dir, "cache"), *self.options],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment(**self.env))
        until = time.monotonic() + 20 * SLOW
        while wait:
            if self.process.poll() is not None:
                raise AssertionError(f"qllmd ended with {self.process.returncode}: {self.tail()}")
            if self.ctl("is-ready").code == OK:
                break
            if time.monotonic() > until:
                raise AssertionError(f"qllmd is not ready: {self.tail()}")
            time.sleep(0.05)
        return self

    def tail(self):
        with open(self.log, errors="replace") as f:
            return f.read()[-1500:]

    def argv(self, args):
        return [program("qllmctl"), "--socket", self.socket, *map(os.fsencode, map(str_or_bytes, args))]

    def ctl(self, *args, stdin=None, timeout=120, env=None):
        p = subprocess.run(self.argv(args), input=stdin, stdin=None if stdin is not None else subprocess.DEVNULL,
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=timeout * SLOW,
                           env=env or environment())
        assert not any(s in p.stderr for s in SANITIZERS), p.stderr.decode("utf-8", "replace")
        return Result(args, p.returncode, p.stdout, p.stderr)

    def json(self, *args, **more):
        r = self.ctl("--json", *args, **more)
        assert r.code == OK, r
        return r.json

    def popen(self, *args, **more):
        more.setdefault("stdin", subprocess.DEVNULL)
        more.setdefault("stdout", subprocess.PIPE)
        more.setdefault("stderr", subprocess.PIPE)
        return subprocess.Popen(self.argv(args), env=environment(), **more)

    def invite(self):
        """Lets any uid in: the socket is open, the programs lie where all can read them."""
        os.chmod(self.dir, 0o755)
        os.chmod(self.socket, 0o666)
        self.public = os.path.join(self.dir, "public")
        os.mkdir(self.public)
        shutil.copy(program("qllmctl"), self.public)
        libs = os.path.join(BUILD, ".libs")
        for name in os.listdir(libs):
            if name.startswith("libqllm.so"):
                shutil.copy(os.path.join(libs, name), self.public)

    def as_user(self, uid, *args):
        """argv and environment of qllmctl run by that uid (root may do this)."""
        argv = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", os.path.join(self.public, "qllmctl"),
                "--socket", self.socket, *map(os.fsencode, map(str_or_bytes, args))]
        return argv, environment(LD_LIBRARY_PATH=self.public, HOME="/nonexistent")

    def ctl_as(self, uid, *args, stdin=None, timeout=120):
        argv, env = self.as_user(uid, *args)
        p = subprocess.run(argv, input=stdin, stdin=None if stdin is not None else subprocess.DEVNULL, cwd="/",
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=timeout * SLOW, env=env)
        assert not any(s in p.stderr for s in SANITIZERS), p.stderr.decode("utf-8", "replace")
        return Result(args, p.returncode, p.stdout, p.stderr)

    def popen_as(self, uid, *args, **more):
        argv, env = self.as_user(uid, *args)
        more.setdefault("stdin", subprocess.DEVNULL)
        more.setdefault("stdout", subprocess.PIPE)
        more.setdefault("stderr", subprocess.PIPE)
        return subprocess.Popen(argv, env=env, cwd="/", **more)

    def alive(self):
        assert self.process.poll() is None, f"qllmd has ended with {self.process.returncode}: {self.tail()}"

    def stop(self, signo=signal.SIGTERM, timeout=45):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signo)
            self.process.wait(timeout * SLOW)
        return self.process.returncode if self.process else None

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        try:
            if self.process and self.process.poll() is None:
                self.process.send_signal(signal.SIGTERM)
                try:
                    self.process.wait(10 * SLOW)
                except subprocess.TimeoutExpired:
                    self.process.kill()
                    self.process.wait()
        finally:
            if self in _daemons:
                self.examine()
                _daemons.remove(self)
            shutil.rmtree(self.dir, ignore_errors=True)


class Manager:
    """Stands for the service manager: what the daemon tells it with sd_notify. It reads all the time, as that does: a
    full queue would hold up the daemon."""

    def __init__(self, watchdog_s=0):
        self.dir = tempfile.mkdtemp(prefix="qllm-")
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        path = os.path.join(self.dir, "notify")
        self.sock.bind(path)
        self.heard = collections.deque()
        self.env = {"NOTIFY_SOCKET": path}
        if watchdog_s:
            self.env["WATCHDOG_USEC"] = str(int(watchdog_s * 1e6))
        self.thread = threading.Thread(target=self._read)
        self.thread.start()

    def _read(self):
        while message := self.sock.recv(65536):
            self.heard.append(message.decode())

    def take(self):
        """The messages that have come since the last call."""
        return [self.heard.popleft() for _ in range(len(self.heard))]

    def wait(self, text, seconds=10):
        """Until a message holds the text; returns it. Those after it stay for the next call."""
        until = time.monotonic() + seconds * SLOW
        while time.monotonic() < until:
            while self.heard:
                message = self.heard.popleft()
                if text in message:
                    return message
            time.sleep(0.02)
        raise AssertionError(f"the manager has not heard {text!r} in {seconds} s")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"", self.env["NOTIFY_SOCKET"])
        self.thread.join()
        self.sock.close()
        shutil.rmtree(self.dir, ignore_errors=True)


def str_or_bytes(x):
    return x if isinstance(x, (str, bytes)) else str(x)


_shared = None


def shared():
    """One daemon with smollm2 in its store, for tests that leave it as it is."""
    global _shared
    if _shared is None or _shared.process.poll() is not None:
        if _shared is not None:
            _shared.__exit__()
        _shared = Daemon().start()
        r = _shared.ctl("import", model_file("smollm2"), "--name", "smollm2")
        assert r.code == OK, r
    return _shared


def shared_stop():
    global _shared
    if _shared is not None:
        _shared.__exit__()
        _shared = None


# Bad content - ids, messages, a text too short - is failed or wrong usage, as whoever finds it sees it.
BAD = (FAILED, USAGE)


def expect(result, code):
    """The exit code, or one of several; a failure is one sentence on stderr and nothing on stdout."""
    codes = code if isinstance(code, tuple) else (code,)
    assert result.code in codes, f"wanted exit code {code}: {result}"
    if result.code not in (OK, STATE, INTERRUPTED):
        assert result.err.startswith(b"qllmctl: ") and len(result.err) > 20, f"no sentence on stderr: {result}"
        assert not result.out, f"an error wrote to stdout: {result}"
    return result


def same_keys(value, *names):
    missing = [n for n in names if n not in value]
    assert not missing, f"{missing} missing in {value}"

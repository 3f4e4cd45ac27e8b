"""A machine of its own: Debian 12 with systemd as its first process in a container, the package tree installed.

systemd-nspawn boots it without a service manager on the host. All its processes are in control groups of its own
(group_dirs), so that nothing survives close(); its files are a copy that goes as well. The host sees its processes and
may stop, trace and limit them, which a hostile or unlucky machine would do."""

import os
import shutil
import signal
import subprocess
import tempfile
import time

import harness
import image
from harness import BUILD, SLOW, Result, Skip

CGROUPS = "/sys/fs/cgroup"
PREFIX = "/usr"
# alice and carol are in the group, bob is not
USERS = ("alice", "carol", "bob")


def children(pid):
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as f:
            return [int(x) for x in f.read().split()]
    except OSError:
        return []


def is_first(pid):
    """Whether it is the first process of a pid namespace: systemd-nspawn has helpers that go again."""
    try:
        with open(f"/proc/{pid}/status") as f:
            numbers = next(line for line in f if line.startswith("NSpid:")).split()[1:]
    except (OSError, StopIteration):
        return False
    return len(numbers) > 1 and numbers[-1] == "1"


def wait(what, seconds, test, pause=0.05):
    """Until test() gives something true, which is returned."""
    until = time.monotonic() + seconds * SLOW
    while True:
        value = test()
        if value:
            return value
        assert time.monotonic() < until, f"{what}: not in {seconds} s"
        time.sleep(pause)


def possible():
    """Raises Skip where no container can be booted at all."""
    if os.geteuid() != 0:
        raise Skip("only root can boot a container")
    for name in ("systemd-nspawn", "debootstrap", "nsenter", "setpriv"):
        if not shutil.which(name):
            raise Skip(f"no {name}: ./check --deps installs it")
    if image.release() != image.SUITE:
        raise Skip(f"programs built here do not run in Debian's {image.SUITE}")
    if not os.access(CGROUPS, os.W_OK):
        raise Skip(f"{CGROUPS} is not writable")
    if subprocess.run(["unshare", "--mount", "--pid", "--net", "--uts", "--ipc", "--fork", "true"],
                      stderr=subprocess.DEVNULL).returncode != 0:
        raise Skip("no namespaces can be made here")


class Machine:
    def __init__(self, name="units"):
        self.name = f"qllm-{name}-{os.getpid()}"
        self.dir = tempfile.mkdtemp(prefix="qllm-nspawn-", dir="/var/tmp")
        self.root = os.path.join(self.dir, "root")
        self.log = os.path.join(self.dir, "console")
        self.process = self.leader = None
        self.group_dirs = []
        self.clients = []

    # --- making and booting ------------------------------------------------------------------------------------------

    def host(self, *argv, **more):
        """A command on the host that must work."""
        r = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300,
                           **more)
        assert r.returncode == 0, f"{argv} -> {r.returncode}\n{r.stdout.decode('utf-8', 'replace')[-2000:]}"
        return r.stdout.decode("utf-8", "replace")

    def chroot(self, *argv):
        return self.host("chroot", self.root, *argv)

    def make(self):
        """Files: the image, with what `make install` gives."""
        self.files()
        with open(os.path.join(BUILD, "Makefile")) as f:
            if f"\nprefix = {PREFIX}\n" not in f.read():
                raise AssertionError(f"{BUILD} is not configured with --prefix={PREFIX} --sysconfdir=/etc")
        self.host("make", "-s", "-C", BUILD, "install", f"DESTDIR={self.root}")
        shutil.copy(harness.program("tests/hostile/good"), os.path.join(self.root, "usr/bin/good"))
        self.host("ldconfig", "-r", self.root)
        # what a package does when it is installed
        self.chroot("systemd-sysusers")
        self.chroot("journalctl", "--update-catalog")
        self.chroot("systemctl", "preset", "qllmd.service", "qllmd.socket", "qllm-worker.socket")
        for user in ("alice", "carol"):
            self.chroot("usermod", "--append", "--groups", "qllm", user)

    def files(self):
        """The image, users who have a model each, and groups of the host for the processes."""
        self.host("cp", "-a", "--reflink=auto", image.directory(), self.root)
        for user in USERS:
            self.chroot("useradd", "--create-home", user)
            home = os.path.join(self.root, "home", user)
            model = os.path.join(home, "m.gguf")
            shutil.copyfile(harness.model_file("smollm2"), model)
            self.chroot("chown", f"{user}:{user}", f"/home/{user}/m.gguf")
            os.chmod(model, 0o600)
            os.chmod(home, 0o700)
        # names of its own: what others on the host boot is not touched
        for at in ("systemd", "unified", ""):
            if os.path.exists(os.path.join(CGROUPS, at, "cgroup.procs")):
                self.group_dirs.append(os.path.join(CGROUPS, at, self.name))
                os.makedirs(self.group_dirs[-1], exist_ok=True)

    def _join_groups(self):
        for path in self.group_dirs:
            with open(os.path.join(path, "cgroup.procs"), "w") as f:
                f.write("0")

    def boot(self):
        argv = ["systemd-nspawn", "--quiet", "--boot", "--register=no", "--keep-unit", "--private-network",
                "--machine=" + self.name, "--directory=" + self.root, "--console=pipe", "--link-journal=no",
                "--kill-signal=SIGRTMIN+3"]
        if os.path.exists("/dev/fuse"):
            argv.append("--bind=/dev/fuse")
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            start_new_session=True, preexec_fn=self._join_groups)

        said = []

        def up():
            assert self.process.poll() is None, f"systemd-nspawn ended: {self.console()}"
            self.leader = next(filter(is_first, children(self.process.pid)), None)
            if self.leader:
                r = self.run("systemctl", "is-system-running")
                said[:] = [r]
            return said and said[0].text.strip() in ("running", "degraded")
        try:
            wait("booting", 60, up, 0.2)
        except AssertionError as why:
            jobs = self.run("systemctl", "list-jobs") if self.leader else None
            raise AssertionError(f"{why}\n{said}\n{jobs}\n{self.console()}")

    def console(self):
        with open(self.log, errors="replace") as f:
            return f.read()[-2000:]

    def close(self):
        """Everything goes: processes, groups, files."""
        if self.process and self.process.poll() is None:
            for signo, patience in ((signal.SIGTERM, 10), (signal.SIGKILL, 10)):
                self.process.send_signal(signo)
                try:
                    self.process.wait(patience)
                    break
                except subprocess.TimeoutExpired:
                    pass
        for path in self.group_dirs:
            for _ in range(100):
                left = self._empty(path)
                if not left:
                    break
                time.sleep(0.05)
        for p in self.clients:
            if p.poll() is None:
                p.kill()
            p.communicate()
        for place in (f"/run/systemd/nspawn/propagate/{self.name}", f"/run/systemd/nspawn/unix-export/{self.name}"):
            try:
                os.rmdir(place)
            except OSError:
                pass
        shutil.rmtree(self.dir, ignore_errors=True)

    @staticmethod
    def _empty(path):
        """Kills what is in the group and removes it, from the leaves up; whether something is left."""
        for at, _, _ in os.walk(path, topdown=False):
            try:
                with open(os.path.join(at, "cgroup.procs")) as f:
                    for pid in f.read().split():
                        if pid != "0":
                            os.kill(int(pid), signal.SIGKILL)
                os.rmdir(at)
            except OSError:
                pass
        return os.path.exists(path)

    # --- commands inside ---------------------------------------------------------------------------------------------

    def argv(self, args, user=None):
        enter = ["nsenter", "--target", str(self.leader), "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup",
                 "--root", "--wd", "--"]
        if user:
            enter += ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--"]
        env = ["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "PAGER=cat",
               f"HOME=/home/{user}" if user else "HOME=/root"]
        if user:
            env.append(f"USER={user}")
        return [*enter, *env, *args]

    def run(self, *args, user=None, stdin=None, timeout=60):
        """A command inside, as root or a user; a Result, whatever came of it."""
        try:
            p = subprocess.run(self.argv(args, user), input=stdin, stdin=None if stdin is not None else subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=timeout * SLOW)
        except subprocess.TimeoutExpired as late:
            raise AssertionError(f"{args} by {user or 'root'}: not done in {timeout} s: {late.stderr!r}\n{self.journal()}")
        return Result(args, p.returncode, p.stdout, p.stderr)

    def do(self, *args, **more):
        """A command that must work; its stdout."""
        r = self.run(*args, **more)
        assert r.code == 0, f"{r}\n{self.journal()}"
        return r.text

    def ctl(self, user, *args, **more):
        return self.run("qllmctl", *args, user=user, **more)

    def popen(self, *args, user=None, **more):
        """A command that runs on; interrupt() and kill() of this class reach it, signals to the process do not."""
        more.setdefault("stdin", subprocess.DEVNULL)
        p = subprocess.Popen(self.argv(args, user), stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more)
        self.clients.append(p)
        return p

    @staticmethod
    def signal(p, signo):
        """nsenter waits for the program: that is its child."""
        for pid in children(p.pid):
            os.kill(pid, signo)

    def put(self, path, text):
        """A file inside, from the host: the directories are made."""
        full = self.root + path
        os.makedirs(os.path.dirname(full), exist_ok=True)
        with open(full, "w") as f:
            f.write(text)

    def remove(self, path):
        if os.path.exists(self.root + path):
            os.unlink(self.root + path)

    # --- units -------------------------------------------------------------------------------------------------------

    def show(self, unit, name):
        return self.do("systemctl", "show", "--property", name, "--value", unit).strip()

    def state(self, unit):
        return self.show(unit, "ActiveState")

    def main_pid(self, unit="qllmd.service"):
        """As the host numbers it."""
        inside = int(self.show(unit, "MainPID"))
        assert inside > 0, f"{unit} has no process:\n{self.journal()}"
        return self.host_pid(inside)

    def host_pid(self, inside):
        space = os.readlink(f"/proc/{self.leader}/ns/pid")
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                if os.readlink(f"/proc/{pid}/ns/pid") != space:
                    continue
                with open(f"/proc/{pid}/status") as f:
                    for line in f:
                        if line.startswith("NSpid:") and int(line.split()[-1]) == inside:
                            return int(pid)
            except OSError:
                continue
        raise AssertionError(f"process {inside} of the machine is not there")

    def drop_in(self, unit, text):
        """A drop-in until undrop(); the manager knows it."""
        self.put(f"/etc/systemd/system/{unit}.d/50-test.conf", text)
        self.do("systemctl", "daemon-reload")

    def undrop(self, unit):
        self.remove(f"/etc/systemd/system/{unit}.d/50-test.conf")
        self.do("systemctl", "daemon-reload")

    def journal(self, *args):
        r = subprocess.run(self.argv(["journalctl", "--no-pager", "--lines=25", "--unit=qllmd.service", *args]),
                           stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=60)
        return r.stdout.decode("utf-8", "replace")

    def restart(self):
        self.do("systemctl", "restart", "qllmd.service")

    def model(self, user="alice"):
        """The user's own model, imported from a home that nobody else may enter; its name."""
        name = f"{user}-m"
        if self.ctl(user, "show", name).code != harness.OK:
            r = self.ctl(user, "import", f"/home/{user}/m.gguf", "--name", name)
            assert r.code == harness.OK, f"{r}\n{self.journal()}"
        return name

    def complete(self, user="alice", prompt="The capital of France is", n=6):
        r = self.ctl(user, "run", self.model(user), prompt, "--temp", "0", "-n", str(n))
        assert r.code == harness.OK, f"{r}\n{self.journal()}"
        return r.text


_shared = None
_trouble = None


def shared():
    """One machine for all tests: each leaves it with sockets listening and without drop-ins. Tried once."""
    global _shared, _trouble
    if _trouble:
        raise AssertionError("there is no machine, as the first test says")
    if _shared is None:
        possible()
        _trouble, _shared = True, Machine()
        try:
            _shared.make()
            _shared.boot()
        except BaseException:
            shared_stop()
            raise
        _trouble = None
    return _shared


def shared_stop():
    global _shared
    if _shared is not None:
        machine, _shared = _shared, None
        machine.close()

"""An idle daemon sleeps: no thread of it runs, whatever is loaded, but for the watchdog's own timer."""

import os
import time

import harness
from harness import Daemon, MODE, OK, Skip, model_file

WATCH_S = 10


def switches(pid, kinds=("voluntary", "nonvoluntary")):
    """Context switches of every thread so far, by thread: a thread that woke up has one more. Where some do run, the
    voluntary ones are how often they went to sleep again; the others tell how busy the machine is."""
    found = {}
    for tid in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{tid}/status") as f:
            fields = dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line)
        found[tid, fields["Name"]] = sum(int(fields[kind + "_ctxt_switches"]) for kind in kinds)
    return found


def woken(pid, seconds, *kinds):
    before = switches(pid, *kinds)
    time.sleep(seconds)
    after = switches(pid, *kinds)
    return {name: after[name] - before.get(name, 0) for name in after if after[name] != before.get(name, 0)}


def used(d):
    """Everything that starts threads and timers has been done once; what was in flight has ended."""
    assert d.ctl("import", model_file("smollm2"), "--name", "m").code == OK
    assert d.ctl("load", "m").code == OK
    assert d.ctl("run", "m", "One two three", "--max-tokens", "8").code == OK
    assert d.ctl("status").code == OK
    time.sleep(3)
    assert [m["state"] for m in d.json("ps")] == ["loaded"]
    time.sleep(3)


def test_no_wakeup_with_a_loaded_model():
    with Daemon() as d:
        used(d)
        assert woken(d.process.pid, WATCH_S) == {}, "threads of an idle daemon ran"
        d.alive()


def test_only_the_watchdog_wakes():
    with harness.Manager(watchdog_s=8) as manager, Daemon(env=manager.env) as d:
        used(d)
        manager.take()
        runs = woken(d.process.pid, WATCH_S, ("voluntary",))
        pings = sum("WATCHDOG=1" in m for m in manager.take())
        assert 3 <= pings <= 7, f"{pings} pings in {WATCH_S} s, one is due every 2 s"
        assert all(name == "qllmd" for _, name in runs) and sum(runs.values()) <= pings + 2, \
            f"{pings} pings, and these threads ran: {runs}"


def test_idle_model_is_unloaded_on_time():
    """The one timer of an idle daemon is exact, and follows a reload."""
    if MODE == "quick":
        raise Skip("takes 15 s")
    with Daemon(config="[models]\nidle_seconds = 300\n") as d:
        used(d)
        with open(os.path.join(d.dir, "qllmd.conf"), "w") as f:
            f.write("[models]\nidle_seconds = 9\n")
        d.process.send_signal(harness.signal.SIGHUP)
        until = time.monotonic() + 12 * harness.SLOW
        while d.json("ps"):
            assert time.monotonic() < until, "idle for 12 s with a limit of 9 s, and still loaded"
            time.sleep(0.5)

"""Prompts that begin like earlier ones: the same bytes, sooner, and nobody else's."""

import json
import os
import signal
import time

from harness import OK, SLOW, Daemon, Skip, expect, model_file

ONE, OTHER = 12001, 12002

SAME = " ".join(f"Rule {i}: the {w} must not be moved before the {v} is closed." for i, (w, v) in enumerate(
    zip("box lamp door chair stone wheel glass spoon".split(), "gate lid book window drawer valve bag tap".split())))


def ask(d, model, text, *options, uid=None):
    """The answer and its usage."""
    args = ("--json", "run", model, text, "--raw", "--temp", "0", "-n", "8", "--ignore-eos", *options)
    r = expect(d.ctl(*args) if uid is None else d.ctl_as(uid, *args), OK).json
    return r["text"], r["usage"]


def found(usage):
    return usage["cached_tokens"]


def most(usage):
    """All full pages before the last 16 tokens, which take another path."""
    return (usage["prompt_tokens"] - 16) // 32 * 32


def computed(d):
    return d.json("status")["prompt_tokens"]


def hit_and_miss(model):
    """One thread and two, without and with the cache, cold and hot, and after the pages were given to others."""
    texts = set()
    for threads in "1", "2":
        with Daemon("--threads", threads) as d:
            expect(d.ctl("import", model_file(model), "--name", "m", "--in-place"), OK)
            plain, usage = ask(d, "m", SAME, "--no-cache")
            assert found(usage) == 0, usage
            cold, usage = ask(d, "m", SAME)
            assert found(usage) == 0, usage
            before = computed(d)
            hot, usage = ask(d, "m", SAME)
            assert found(usage) == most(usage) > 64, usage
            assert computed(d) - before == usage["prompt_tokens"] - found(usage)
            texts |= {plain, cold, hot}
            longer, usage = ask(d, "m", SAME + " And then")
            assert found(usage) > 64, usage
            texts |= {"+" + longer, "+" + ask(d, "m", SAME + " And then", "--no-cache")[0]}
            ps = d.json("ps")[0]
            status = d.json("status")
            assert ps["kv_pages"] == 0 and ps["kv_pages_cached"] > 2, ps
            assert status["cached_bytes"] > 0 and status["cache_hits"] == 2 and status["cached_tokens"] > 128, status
            assert status["used_bytes"] + status["free_bytes"] == status["budget_bytes"]
            metrics = d.json("metrics")["metrics"]
            assert f"qllmd_cached_tokens_total {status['cached_tokens']}\n" in metrics, metrics
            assert f"qllmd_cache_hits_total {status['cache_hits']}\n" in metrics, metrics
            page = status["cached_bytes"] // ps["kv_pages_cached"]
            memory = status["used_bytes"] + 10 * page
        if threads == "1":
            continue
        with Daemon("--threads", threads, config=f"[engine]\nmemory = {memory}\n") as d:
            expect(d.ctl("import", model_file(model), "--name", "m", "--in-place"), OK)
            assert found(ask(d, "m", SAME)[1]) == 0
            for other in "first", "second":
                assert found(ask(d, "m", f"The {other} of them: {SAME}")[1]) == 0
            again, usage = ask(d, "m", SAME)
            assert found(usage) < most(usage), usage
            texts.add(again)
            status = d.json("status")
            assert status["preemptions"] == 0 and status["used_bytes"] + status["cached_bytes"] <= memory, status
            d.ctl("unload", "m")
            end = time.monotonic() + 10 * SLOW
            while d.json("status")["cached_bytes"] > 0:
                assert time.monotonic() < end, "the pages of an unloaded model are kept"
    assert len(texts) == 2, texts


def test_hit_and_miss_smollm2():
    hit_and_miss("smollm2")


def test_hit_and_miss_gemma3():
    hit_and_miss("gemma3")


def test_together():
    """Four that come at once compute what they have in common once."""
    with Daemon() as d:
        expect(d.ctl("import", model_file("smollm2"), "--name", "m", "--in-place"), OK)
        expect(d.ctl("load", "m"), OK)
        ends = [f" {n}: and so" for n in ("One", "Two", "Three", "Four")]
        want = [ask(d, "m", SAME + e, "--no-cache") for e in ends]
        before = computed(d)
        clients = [d.popen("--json", "run", "m", SAME + e, "--raw", "--temp", "0", "-n", "8", "--ignore-eos") for e in ends]
        got = [json.loads(c.communicate(timeout=120)[0]) for c in clients]
        assert [g["text"] for g in got] == [w[0] for w in want]
        more = computed(d) - before
        assert more == sum(g["usage"]["prompt_tokens"] - g["usage"]["cached_tokens"] for g in got)
        assert more <= want[0][1]["prompt_tokens"] + 3 * 64, (more, want)


def test_uids_are_apart():
    """What one has asked another computes in full, which is what its time would tell; unless the configuration says so."""
    if os.geteuid() != 0:
        raise Skip("only root can be several users")
    with Daemon(config="[models]\nshare_prompts = other* [xyz]\n") as d:
        d.invite()
        expect(d.ctl("import", model_file("smollm2"), "--name", "m", "--shared"), OK)

        def turn(uid):
            before = computed(d)
            usage = ask(d, "m", SAME, uid=uid)[1]
            assert computed(d) - before == usage["prompt_tokens"] - found(usage)
            return found(usage)

        assert turn(ONE) == 0
        assert turn(ONE) > 64
        assert turn(OTHER) == 0
        assert turn(OTHER) > 64
        with open(os.path.join(d.dir, "qllmd.conf"), "w") as f:
            f.write("[models]\nshare_prompts = other* m\n")
        d.process.send_signal(signal.SIGHUP)
        while "other* m" not in d.ctl("config", "show").text:
            pass
        assert turn(ONE) == 0           # what it asked before is its own
        assert turn(OTHER) > 64
        assert turn(OTHER) > 64

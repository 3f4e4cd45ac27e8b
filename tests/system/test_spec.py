"""Guessing ahead: by lookup and by a draft model, as users ask for it; the answer is the same with and without."""

from harness import OK, USAGE, Daemon, model_file, shared

QUOTE = ("Repeat the following text word for word:\n\nThe mill at the lower bridge had not turned for nine years when the "
         "new owner came to look at it. He walked once around the wheel and counted the missing paddles.")


def answer(d, *options):
    r = d.json("run", "smollm2", QUOTE, "-n", "32", *options)
    assert r["usage"]["draft_accepted"] <= r["usage"]["draft_tokens"], r
    return (r["text"], r["tokens"], r["finish_reason"], r.get("logprobs")), r["usage"]


def test_same_answer():
    with Daemon(config="[engine]\nspeculation = always\n") as d:
        assert d.ctl("import", model_file("smollm2"), "--name", "smollm2", "--in-place").code == OK
        held = 0
        for how in (["--temp", "0", "--logprobs", "2"], ["--temp", "0.7", "--seed", "5", "--repeat-penalty", "1.05"]):
            plain, usage = answer(d, *how, "--no-lookup")
            assert usage["draft_tokens"] == 0, usage
            looked, usage = answer(d, *how, "--lookup")
            assert looked == plain, (how, looked, plain)
            held += usage["draft_accepted"]
            drafted, usage = answer(d, *how, "--no-lookup", "--draft", "smollm2")
            assert drafted == plain, (how, drafted, plain)
            assert usage["draft_accepted"] > 0, usage
        assert held > 8, held
        m = d.ctl("metrics").text
        n = {line.split()[0]: float(line.split()[1]) for line in m.splitlines() if line.startswith("qllmd_draft_")}
        assert n["qllmd_draft_tokens_total"] >= n["qllmd_draft_accepted_total"] > held, n
        return f"{held} guesses by lookup held"


def test_modes():
    d = shared()
    both, _ = answer(d, "--temp", "0")
    for mode in ("off", "ask", "auto"):
        with Daemon(config=f"[engine]\nspeculation = {mode}\n") as e:
            assert e.ctl("import", model_file("smollm2"), "--name", "smollm2", "--in-place").code == OK
            got, usage = answer(e, "--temp", "0")
            assert got == both, (mode, got, both)
            assert usage["draft_tokens"] == 0 or mode == "auto", usage


def test_refusals():
    d = shared()
    assert d.ctl("import", model_file("gemma3"), "--name", "gemma3", "--in-place").code == OK
    r = d.ctl("run", "smollm2", "hello", "--draft", "gemma3")
    assert r.code == USAGE and b"vocabular" in r.err and b"gemma" in r.err.lower(), r
    r = d.ctl("run", "smollm2", "hello", "--draft", "nosuch")
    assert r.code != OK and b"nosuch" in r.err, r
    d.ctl("rm", "gemma3")

"""Results of compare.py as text, JSON and SVG. A result is a dict:

    {"measure", "title", "model", "unit", "better": "higher" | "lower", "date", "commit", "rounds",
     "arms": {arm: {"median", "low", "high", "values"}}, "settings": {peer: its best setting},
     "ratios": {peer: {"median", "low", "high", ...}},     how many times better qllmd is
     "figures": {what: number}, "notes": [sentence], "others": [[program, share of a processor]]}
or {"measure", "title", "model", "date", "missing": why}."""

import html
import json
import math
import os
import re

COLORS = ("#1b6ca8", "#c8553d", "#8a6fa8", "#6b8e4e", "#999999")


def number(x):
    return f"{x:.0f}" if x >= 1000 else f"{x:.1f}" if x >= 10 else f"{x:.3f}"


def text_of(r):
    head = f"{r['model']} {r['measure']}: {r['title']}"
    if "missing" in r:
        return f"{head}\n    not measured: {r['missing']}"
    lines = [f"{head}, {r['unit']} ({r['better']} is better)"]
    for arm, a in r["arms"].items():
        setting = f"  ({r['settings'][arm]})" if arm in r["settings"] else ""
        lines.append(f"    {arm:<16} {number(a['median']):>9}  [{number(a['low'])}-{number(a['high'])}]{setting}")
    for peer, a in r["ratios"].items():
        lines.append(f"    {a['median']:.2f} times {peer} [{a['low']:.2f}-{a['high']:.2f}]")
    lines += [f"    {what}: {number(x)}" for what, x in r["figures"].items()]
    lines += [f"    {note}" for note in r["notes"]]
    if r["others"]:
        lines.append("    not alone on the machine: " + ", ".join(f"{n} {x:.2f} CPU" for n, x in r["others"]))
    return "\n".join(lines)


def svg_of(head, results):
    """One panel a result, a bar an arm, its spread as a line."""
    left, width, bar, y, body = 150, 420, 15, 46, []

    def say(x, at, what, more=""):
        body.append(f'<text x="{x:.1f}" y="{at:.1f}" {more}>{html.escape(what)}</text>')

    say(10, 20, head, 'font-weight="bold"')
    for r in results:
        if "missing" in r:
            continue
        say(10, y, f"{r['model']} {r['measure']}: {r['title']}, {r['unit']} ({r['better']} is better)")
        y += 8
        top = max(a["high"] for a in r["arms"].values()) or 1
        if not math.isfinite(top):
            continue
        for i, (arm, a) in enumerate(r["arms"].items()):
            scale = width / top
            middle = y + bar / 2
            say(left - 8, middle + 4, arm, 'text-anchor="end"')
            body.append(f'<rect x="{left}" y="{y}" width="{a["median"] * scale:.1f}" height="{bar - 3}" '
                        f'fill="{COLORS[min(i, len(COLORS) - 1)]}"/>')
            body.append(f'<path d="M{left + a["low"] * scale:.1f} {middle - 1.5}H{left + a["high"] * scale:.1f}" '
                        'stroke="#000" stroke-width="1.5"/>')
            ratio = f"  ({r['ratios'][arm]['median']:.2f}x)" if arm in r["ratios"] else ""
            say(left + a["high"] * scale + 6, middle + 4, number(a["median"]) + ratio)
            y += bar
        y += 22
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="720" height="{y}" font-family="sans-serif" font-size="11">\n'
            f'<rect width="720" height="{y}" fill="#fff"/>\n' + "\n".join(body) + "\n</svg>\n")


class Report:
    """A file of results per machine and level: measures that are run again replace themselves, others stay."""

    def __init__(self, folder, machine):
        """machine: {"cpu", "kernels", "threads", ...}"""
        name = re.sub(r"[^a-z0-9]+", "-", f"{machine['cpu']} {machine['kernels']} {machine['threads']} threads".lower())
        self.base = os.path.join(folder, name.strip("-"))
        self.machine, self.results = machine, []
        os.makedirs(folder, exist_ok=True)
        if os.path.exists(self.base + ".json"):
            with open(self.base + ".json") as f:
                self.results = json.load(f)["results"]

    def add(self, result):
        key = (result["model"], result["measure"])
        self.results = [r for r in self.results if (r["model"], r["measure"]) != key] + [result]
        head = ", ".join(f"{k} {v}" if k == "kernels" else f"{v} threads" if k == "threads" else str(v)
                         for k, v in self.machine.items())
        with open(self.base + ".json", "w") as f:
            json.dump({"machine": self.machine, "results": self.results}, f, indent=1)
            f.write("\n")
        with open(self.base + ".txt", "w") as f:
            f.write(head + "\n\n" + "\n\n".join(
                f"{text_of(r)}\n    {r['date']}, qllmd at {r['commit']}, {r['rounds']} rounds"
                if "arms" in r else text_of(r) for r in self.results) + "\n")
        with open(self.base + ".svg", "w") as f:
            f.write(svg_of(head, self.results))

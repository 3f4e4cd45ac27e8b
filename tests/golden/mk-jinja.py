#!/usr/bin/env python3
"""Make tests/golden/jinja/cases.json: templates, variables and what jinja2 makes of them.

usage: mk-jinja.py [TEMPLATE_DIR [OUTPUT]]

The environment is the one transformers builds for chat templates: immutable sandbox, trim_blocks, lstrip_blocks, loop
controls, tags that mark generated text, tojson as plain json.dumps, raise_exception. Every template of the folder is
rendered with every conversation below; a render that jinja2 refuses is recorded as an error. SNIPPETS pin the language.
"""
import json, os, sys
import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

HERE = os.path.dirname(os.path.abspath(__file__))

TOOLS = [
    {"type": "function", "function": {"name": "get_weather", "description": "Weather of a place, \"now\" or later", "parameters": {
        "type": "object", "properties": {"city": {"type": "string", "description": "City & country"}, "days": {"type": "integer", "enum": [1, 3, 7]},
                                         "units": {"type": ["string", "null"], "default": "°C"}}, "required": ["city"]},
        "return": {"type": "string"}}},
    {"type": "function", "function": {"name": "add", "description": "Add two numbers.", "parameters": {
        "type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "number"}, "more": {"type": "array", "items": {"type": "object", "properties": {"x": {"type": "boolean"}}}}}, "required": ["a", "b"]}}},
]
CALL = {"role": "assistant", "content": "", "tool_calls": [{"id": "abcdef123", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "Köln", "days": 3}}}]}
RESULT = {"role": "tool", "tool_call_id": "abcdef123", "name": "get_weather", "content": "{\"temp\": 12.5}"}
TALKS = {
    "one": [{"role": "user", "content": "What is the capital of France?"}],
    "system": [{"role": "system", "content": "  You are terse. \n"}, {"role": "user", "content": "Hi <|im_start|> 'there' \"you\" \\ \t ü 😀\n"}],
    "turns": [{"role": "user", "content": " first "}, {"role": "assistant", "content": " <think>\nhm\n</think>\n\nanswer "}, {"role": "user", "content": "second\n\nline"}],
    "long": [{"role": "system", "content": "S"}] + [{"role": "user" if i % 2 == 0 else "assistant", "content": "m%d" % i} for i in range(7)],
    "odd": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}],
    "empty": [],
    "parts": [{"role": "user", "content": [{"type": "text", "text": "look"}, {"type": "text", "text": " here "}]}],
    "tools": [{"role": "system", "content": "Use tools."}, {"role": "user", "content": "Weather in Köln?"}],
    "called": [{"role": "user", "content": "Weather in Köln?"}, CALL, RESULT, {"role": "assistant", "content": "12.5 °C"}, {"role": "user", "content": "Thanks"}],
    "result": [{"role": "user", "content": "Weather in Köln?"}, CALL, RESULT],
}

SNIPPETS = [
    # output and literals
    "", "plain", "{{ 1 }}{{ 1.0 }}{{ 1e20 }}{{ 1.5e-7 }}{{ 0.1 + 0.2 }}{{ 1_000 }}{{ 'a' 'b' }}{{ \"q'q\" }}", "{{ none }}{{ true }}{{ False }}{{ undefined_name }}",
    "{{ [1, 'a', 2.5, none, true, [1], {'k': 'v'}] }}{{ (1,) }}{{ (1, 2) }}{{ () }}{{ {} }}{{ {'a': {'b': \"it's\"}} }}", "{{ 'tab\\there\\n\\u00e9\\x41\\\\' }}|{{ '\\q' }}",
    "{{ ['a\\nb', \"x'y\", 'x\\'y\"z', '\\u00e9'] }}", "{{ 1, 2 }}", "{{ -3 }}{{ +3 }}{{ - -3 }}{{ -2 ** 2 }}", "{{ 100000000000000000 }}{{ 1e16 }}{{ 123456789.123 }}{{ 1e15 }}",
    # arithmetic
    "{{ 7 // 2 }} {{ -7 // 2 }} {{ 7 % 3 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ 7 / 2 }} {{ 6 / 2 }} {{ 2 ** 10 }} {{ 2 ** -1 }} {{ 7.5 // 2 }} {{ -7.5 % 2 }}",
    "{{ 1 + 2 * 3 - 4 / 2 }} {{ (1 + 2) * 3 }} {{ 2 ** 3 ** 2 }} {{ 10 - 3 - 2 }} {{ 'a' ~ 1 ~ none ~ true }}", "{{ 'ab' * 3 }}{{ 2 * 'x' }}{{ [1] * 2 }}{{ [1] + [2] }}{{ 'a' + 'b' + 'c' }}{{ 'x' * -1 }}",
    "{{ 1 / 0 }}", "{{ 1 % 0 }}", "{{ 'a' + 1 }}", "{{ none + 'a' }}", "{{ undefined_name + 'a' }}", "{{ true + 1 }}",
    # comparison and logic
    "{{ 1 == 1.0 }}{{ 1 == true }}{{ '1' == 1 }}{{ [1, 2] == [1, 2] }}{{ (1, 2) == [1, 2] }}{{ {'a': 1, 'b': 2} == {'b': 2, 'a': 1} }}{{ none == none }}", "{{ 1 < 2 < 3 }}{{ 1 < 3 < 2 }}{{ 3 > 2 >= 2 != 1 }}",
    "{{ 'a' < 'b' }}{{ 'Z' < 'a' }}{{ [1, 2] < [1, 3] }}{{ 1 < 'a' }}", "{{ 'a' in 'cat' }}{{ 'x' not in 'cat' }}{{ 1 in [1, 2] }}{{ 'k' in {'k': 1} }}{{ '' in 'a' }}{{ not 1 in [2] }}",
    "{{ 1 and 0 or 'x' }}{{ '' or 'y' }}{{ 'a' and 'b' }}{{ not '' }}{{ not not 1 }}{{ none or false }}", "{{ 'yes' if 1 else 'no' }}{{ 'yes' if 0 }}{{ 'a' if 0 else 'b' if 0 else 'c' }}",
    "{{ x is defined }}{{ messages is defined }}{{ messages is not defined }}{{ none is none }}{{ x is none }}{{ x is undefined }}", "{{ 'a' is string }}{{ {} is mapping }}{{ [] is iterable }}{{ 'a' is iterable }}{{ 1 is iterable }}{{ [] is sequence }}{{ {} is sequence }}{{ 'a' is sequence }}",
    "{{ 1 is number }}{{ true is number }}{{ 1.0 is number }}{{ 1 is integer }}{{ true is integer }}{{ 1.0 is float }}{{ true is boolean }}{{ 1 is boolean }}{{ true is true }}{{ 1 is true }}{{ false is false }}",
    "{{ 3 is odd }}{{ 4 is even }}{{ 9 is divisibleby 3 }}{{ 9 is divisibleby(2) }}{{ 1 is eq 1 }}{{ 1 is equalto(2) }}{{ 1 is ne 2 }}{{ 2 is in [1, 2] }}{{ 'a' is lower }}{{ 'A' is upper }}{{ 1 is sameas 1 }}{{ 1 is lt 2 }}{{ range is callable }}",
    "{{ 'a' is not string and true }}{{ 1 is not none or false }}", "{{ 5 is gt 3 and 2 is le 2 }}", "{{ 'trim' is filter }}",
    # access
    "{{ d.a }}{{ d['a'] }}{{ d.nope }}{{ d['no pe'] }}{{ l[0] }}{{ l[-1] }}{{ l[9] }}{{ s[0] }}{{ s[-1] }}",
    "{{ x.y }}", "{{ d.nope.deeper }}", "{{ d.nope is defined }}", "{{ x[0] }}", "{{ l.0 }}{{ d.list.1 }}", "{{ none.x }}", "{{ 'abc'.nope is defined }}",
    "{{ l[1:] }}{{ l[:1] }}{{ l[::-1] }}{{ l[-2:] }}{{ l[1:3:2] }}{{ l[5:] }}{{ l[:-1] }}{{ l[::2] }}{{ l[-1:-3:-1] }}{{ (1, 2, 3)[1:] }}", "{{ s[1:] }}{{ s[:-1] }}{{ s[::-1] }}{{ s[1:3] }}{{ s[::2] }}{{ s[-2:] }}{{ s[9:] }}|{{ 'aébc'[1:2] }}{{ 'é😀x'[::-1] }}",
    # strings
    "[{{ '  a b '.strip() }}][{{ '  a '.lstrip() }}][{{ ' a  '.rstrip() }}][{{ 'xxaxx'.strip('x') }}][{{ 'abcba'.strip('ab') }}][{{ '\\n\\ta\\u00a0\\u2003'.strip() }}]", "{{ 'a,b,,c'.split(',') }}{{ ' a  b '.split() }}{{ 'a,b,c'.split(',', 1) }}{{ 'a,b,c'.rsplit(',', 1) }}{{ ''.split(',') }}{{ ''.split() }}{{ 'a b c'.split(none, 1) }}",
    "{{ 'a</think>b</think>c'.split('</think>')[-1] }}|{{ 'abc'.split('</think>')[0].rstrip('\\n') }}|{{ 'a\\nb\\r\\nc'.splitlines() if false }}", "{{ 'hello'.startswith('he') }}{{ 'hello'.endswith(('x', 'lo')) }}{{ 'hello'.startswith('') }}{{ 'h'.startswith('hello') }}",
    "{{ 'Hello World'.upper() }}{{ 'ÄÖ'.lower() }}{{ \"they're bill's friends\".title() }}{{ 'hELLO wORLD'.capitalize() }}{{ 'élan vital'.title() }}", "{{ 'aXbXc'.replace('X', '-') }}{{ 'aXbXc'.replace('X', '', 1) }}{{ 'abc'.find('c') }}{{ 'abc'.find('z') }}{{ 'éa'.find('a') }}{{ 'abab'.rfind('ab') }}{{ 'aXbX'.count('X') }}",
    "{{ '-'.join(['a', 'b']) }}{{ ','.join([]) }}{{ '12'.isdigit() }}{{ 'ab'.isalpha() }}{{ 'a1'.isalnum() }}{{ ' '.isspace() }}{{ 'xab'.removeprefix('x') }}{{ 'abx'.removesuffix('x') }}", "{{ 'abc'.nope() }}",
    # dictionaries
    "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}{{ d.keys() | list }}{{ d.values() | list }}{{ d.get('a') }}{{ d.get('zz') }}{{ d.get('zz', 5) }}", "{% for k in d %}{{ k }}{% endfor %}{% for k, v in d | dictsort %}{{ k }}{% endfor %}{% for k, v in d | items %}{{ k }}{% endfor %}{{ {'B': 1, 'a': 2} | dictsort }}{{ {'a': 2, 'b': 1} | dictsort(by='value') }}",
    "{{ {'a': 1, 'a': 2} }}{{ {1: 'x', none: 'y'} }}{{ {'a': 1}.a }}{{ dict(a=1, b='x') }}", "{{ d.update({'z': 1}) }}", "{{ l.append(1) }}",
    # filters
    "{{ ' a ' | trim }}{{ 'xax' | trim('x') }}{{ 'a' | upper }}{{ 'A' | lower }}{{ 'aB cD' | capitalize }}{{ 'aB cD-ef' | title }}{{ 3 | string }}{{ 'abc' | length }}{{ l | count }}{{ d | length }}{{ 'é😀' | length }}",
    "{{ l | join(', ') }}{{ l | join }}{{ [{'n': 1}, {'n': 2}] | join('-', attribute='n') }}{{ l | first }}{{ l | last }}{{ [] | first }}{{ 'abc' | first }}{{ 'abc' | last }}{{ 'abc' | list }}{{ 'abc' | reverse }}{{ l | reverse | list }}",
    "{{ x | default('d') }}{{ '' | default('d') }}{{ '' | default('d', true) }}{{ none | default('d') }}{{ x | d('e') }}{{ none | default('n', boolean=true) }}{{ x | default }}", "{{ '12' | int }}{{ 'x' | int }}{{ 'x' | int(7) }}{{ 3.9 | int }}{{ '3.9' | int }}{{ '2.5' | float }}{{ 'z' | float }}{{ true | int }}{{ -5 | abs }}{{ (-5) | abs }}{{ 2.567 | round(2) }}{{ 2.5 | round }}{{ 3.5 | round }}{{ 2.1 | round(0, 'ceil') }}{{ 2.9 | round(method='floor') }}",
    "{{ [{'a': 1}, {'a': 2}] | map(attribute='a') | list }}{{ ['a', 'b'] | map('upper') | join }}{{ [' a '] | map('trim') | list }}{{ ['ab', 'c'] | map('length') | list }}{{ ['a'] | map('replace', 'a', 'b') | list }}{{ [{'x': 1}, {}] | map(attribute='x', default=0) | list }}",
    "{{ [1, 2, 3, 4] | select('odd') | list }}{{ [1, 2] | reject('odd') | list }}{{ [0, 1, ''] | select | list }}{{ [{'r': 'u'}, {'r': 's'}] | selectattr('r', 'equalto', 'u') | list }}{{ [{'r': 'u'}, {}] | selectattr('r') | list }}{{ [{'r': 'u'}, {'r': 's'}] | rejectattr('r', '==', 'u') | list | length }}{{ [{'r': 1}, {}] | selectattr('r', 'defined') | list }}",
    "{{ [3, 1, 2] | sort }}{{ ['b', 'A', 'c'] | sort }}{{ ['b', 'A', 'c'] | sort(case_sensitive=true) }}{{ [3, 1] | sort(reverse=true) }}{{ [{'n': 2}, {'n': 1}] | sort(attribute='n') }}{{ [1, 2, 1, 3] | unique | list }}{{ [1, 2] | sum }}{{ [1.5, 2] | sum }}{{ [3, 1] | min }}{{ [3, 1] | max }}",
    "{{ '<a href=\"x\">&\\'' | e }}{{ '<' | escape }}{{ '<' | safe }}{{ 'a\\nb\\n\\nc' | indent }}|{{ 'a\\nb' | indent(2, true) }}|{{ 'a\\n\\nb' | indent(width=1, blank=true) }}", "{{ 'aXb' | replace('X', 'y') }}{{ 'aaa' | replace('a', 'b', 2) }}{{ 12 | replace('1', '3') }}",
    "{{ d | tojson }}{{ l | tojson }}{{ 'é\\n\"\\\\/<>&\\u0001😀' | tojson }}{{ none | tojson }}{{ true | tojson }}{{ 1.0 | tojson }}{{ 1e100 | tojson }}{{ [] | tojson }}{{ {} | tojson }}", "{{ d | tojson(indent=2) }}\n{{ [1, [2, []], {}] | tojson(indent=4) }}{{ [1] | tojson(indent=0) }}", "{{ {'b': 1, 'a': [{'d': 1, 'c': 2}]} | tojson(sort_keys=true) }}{{ 'é😀' | tojson(ensure_ascii=true) }}",
    "{{ d | tojson | length }}{{ 'a' | upper | lower | trim ~ 'b' }}{{ (l | length) > 2 }}{{ l | length > 2 }}", "{{ 1 | nosuchfilter }}", "{{ 1 is nosuchtest }}", "{{ [1,'a'] | sort }}",
    # loops
    "{% for i in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.revindex }}{{ loop.revindex0 }}{{ i }},{% endfor %}", "{% for i in [] %}x{% else %}none{% endfor %}{% for i in l if i > 10 %}x{% else %}none{% endfor %}",
    "{% for i in l if i is odd %}{{ loop.index }}/{{ loop.length }}:{{ i }} {% endfor %}", "{% for i in l %}{{ loop.previtem }}<{{ i }}>{{ loop.nextitem }};{% endfor %}{% for i in l %}{% if loop.previtem is defined %}p{% endif %}{% if loop.nextitem is undefined %}n{% endif %}{% endfor %}",
    "{% for a, b in [(1, 2), [3, 4]] %}{{ a }}{{ b }}{% endfor %}{% for (a, b) in [(1, 2)] %}{{ a + b }}{% endfor %}{% for c in 'aé' %}{{ c }}.{% endfor %}", "{% for i in range(3) %}{{ i }}{% endfor %}{% for i in range(2, 8, 3) %}{{ i }}{% endfor %}{% for i in range(3, 0, -1) %}{{ i }}{% endfor %}{{ range(3) | list }}",
    "{% for i in l %}{% if i == 2 %}{% continue %}{% endif %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}", "{% for i in l %}{% for j in l %}{% if j == 2 %}{% break %}{% endif %}{{ i }}{{ j }} {% endfor %}{{ loop.index }}{% endfor %}", "{% for i in l %}{{ loop.cycle('a', 'b') }}{% endfor %}",
    "{% for i in x %}a{% endfor %}", "{% for i in none %}a{% endfor %}", "{% for i in 5 %}a{% endfor %}", "{% for a, b in [1] %}{% endfor %}", "{% for a, b in [[1]] %}{% endfor %}",
    # scopes
    "{% set a = 1 %}{% for i in l %}{% set a = i %}{{ a }}{% endfor %}{{ a }}", "{% set ns = namespace(a=1, b='x') %}{% for i in l %}{% set ns.a = ns.a + i %}{% endfor %}{{ ns.a }}{{ ns.b }}{{ ns.c }}", "{% if true %}{% set q = 5 %}{% endif %}{{ q }}", "{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set (c, d2) = [3, 4] %}{{ c }}{{ d2 }}{% set t = 1, 2 %}{{ t }}",
    "{% for i in l %}{{ a is defined }}{% set a = i %}{% endfor %}", "{% set d.z = 1 %}", "{% set ns = namespace() %}{% set ns.l = [1] %}{% set ns.l = ns.l + [2] %}{{ ns.l }}", "{% set b %}cap{{ 1 }}{% endset %}[{{ b }}]{% set c | upper | trim %} abc {% endset %}[{{ c }}]", "{% with a = 1, b = a %}{{ a }}{{ b }}{% endwith %}{{ a }}", "{% for i in [1] %}{% with i = 2 %}{{ i }}{% endwith %}{{ i }}{% endfor %}",
    # macros
    "{% macro f(a, b=2) %}<{{ a }}{{ b }}>{% endmacro %}{{ f(1) }}{{ f(1, 3) }}{{ f(b=5, a=4) }}{{ f() }}", "{% macro f(n) %}{% if n > 0 %}{{ n }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(5) }}", "{% set g = 'G' %}{% macro f(a, b=a) %}{{ g }}{{ a }}{{ b }}{% endmacro %}{{ f('x') | lower }}", "{% macro f(a) %}{% endmacro %}{{ f(1, 2) }}",
    "{% macro wrap() %}[{{ caller() }}]{% endmacro %}{% call wrap() %}in{% endcall %}", "{% macro wrap(l) %}{% for i in l %}[{{ caller(i) }}]{% endfor %}{% endmacro %}{% call(x) wrap([1, 2]) %}{{ x }}!{% endcall %}", "{% macro f(s) %}{%- if s is mapping -%}{%- for k, v in s.items() -%}{{ k }}:{{ f(v) }}{{ ',' if not loop.last }}{%- endfor -%}{%- else -%}{{ s }}{%- endif -%}{% endmacro %}{{ f({'a': {'b': 1, 'c': 2}, 'd': 3}) }}",
    "{% macro f() %}{% set z = 1 %}{{ z }}{% endmacro %}{{ f() }}{{ z }}", "{% filter upper %}a{{ 'b' }}{% endfilter %}{% filter replace('a', 'b') | upper %}aa{% endfilter %}", "{{ nosuch() }}", "{{ 'a'() }}",
    # white space
    "a\n  {% if true %}\n  b\n  {% endif %}\nc\n", "a  {%- if true -%}  b  {%- endif -%}  c", "a\n{%- if true %}\n b\n{%- endif %}\n", "  {{ 1 }}  \n  {{- 2 -}}  \n 3", "{% if true +%}\nx{% endif %}", "  {%+ if true %}x{% endif %}", "x {# c #}\ny\n  {# c2 #}\nz{#- c3 -#}  w", "a\n\n\n{% set x = 1 %}\n\n\nb\n\n", "line\r\nnext\rlast\r\n", "\n{% if true %}\n\n{% endif %}\n\n", "{% raw %}{{ x }}{% endraw %}\ny", "a {%- raw -%}  {{ x }}  {%- endraw -%} b", "\t{% for i in l %}\n\t\t{{ i }}\n\t{% endfor %}\n",
    "{{ {'a': {'b': 1}}}}", "{{ '}}' }}{{ '%}' }}{# {{ #}", "a{% if 1 %} {% endif %}b", "   {% set a = 1 %}   x", "{% set a = 1 -%}\n\n  x", "x{# a #}{# b #}\n\ny", "{%if 1%}a{%elif 2%}b{%else%}c{%endif%}", "  a {% if 1 %} b {% endif %}",
    "{% generation %}gen{{ 1 }}{% endgeneration %}x", "é{{ 'ü' }}😀\n  {% if 1 %}ß{% endif %}",
    # errors
    "{{ raise_exception('no: ' ~ 5) }}", "{% if %}{% endif %}", "{% if 1 %}", "{% for i in l %}", "{{ 1", "{{ 'abc }}", "{% endif %}", "{% nosuch %}", "{# open", "{% raw %}x", "{{ }}", "{{ 1 + }}", "{{ (1 }}", "{{ a b }}", "{{ f(a=1, 2) }}", "{% macro %}{% endmacro %}", "{% break %}", "{{ 1 ? 2 }}", "{% set %}", "{{ [1,2 }}", "{{ {'a' 1} }}", "{% include 'x' %}",
    "{{ ''.__class__ }}", "{{ messages.__class__.__mro__ }}", "{{ 5 if 6 else 7 if 8 }}",
]
VARS = {"d": {"a": 1, "b": [True, None, "x"], "list": [7, 8]}, "l": [1, 2, 3], "s": "abcd", "messages": []}


class Generation(Extension):
    tags = {"generation"}

    def parse(self, parser):
        lineno = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.Scope(body, lineno=lineno)


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def environment():
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda form: "NOW(%s)" % form
    return env


def render(env, text, variables):
    try:
        return {"output": env.from_string(text).render(**json.loads(json.dumps(variables)))}
    except Exception as e:
        return {"error": "%s: %s" % (type(e).__name__, str(e)[:100])}


def main():
    folder = sys.argv[1] if len(sys.argv) > 1 else os.path.join(HERE, "jinja")
    output = sys.argv[2] if len(sys.argv) > 2 else os.path.join(HERE, "jinja", "cases.json")
    env, cases = environment(), []
    for text in SNIPPETS:
        cases.append({"text": text, "vars": VARS, **render(env, text, VARS)})
    for name in sorted(os.listdir(folder)):
        if not name.endswith(".jinja"):
            continue
        text = open(os.path.join(folder, name), encoding="utf-8", newline="").read()
        for talk, messages in TALKS.items():
            tools = TOOLS if talk in ("tools", "called", "result") else None
            variables = {"messages": messages, "tools": tools, "documents": None, "add_generation_prompt": talk != "long", "bos_token": "<s>",
                         "eos_token": "</s>", "date_string": "26 Jul 2026"}
            case = {"template": name, "talk": talk, "vars": variables, **render(env, text, variables)}
            if "NOW(" not in case.get("output", ""):         # depends on the date
                cases.append(case)
    with open(output, "w", encoding="utf-8") as f:
        f.write("[\n" + ",\n".join(json.dumps(c, ensure_ascii=False, separators=(",", ":")) for c in cases) + "\n]\n")
    print(len(cases), "cases,", sum("error" in c for c in cases), "of them errors")


main()

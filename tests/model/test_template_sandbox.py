"""Good templates render as in plain Jinja; hostile ones end soon and take little memory."""

from __future__ import annotations

import tracemalloc

import pytest
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from halo_edge.model import template_sandbox
from halo_edge.model.template_sandbox import MAX_SOURCE, BoundedTemplate

MESSAGES = [
    {"role": "system", "content": "Be <brief> & kind.\n"},
    {"role": "user", "content": "  hello\nthere  "},
    {"role": "assistant", "content": "Hi! <think>x</think> 'yes'"},
    {"role": "user", "content": "\u00e9\U0001f600"},
]

GOOD = [
    "",
    "plain text\n",
    "{% for m in messages %}\n  {{ m.role }}: {{ m['content'] | trim }}\n{% endfor %}\n",
    "{% for m in messages if m.role != 'system' %}{{ loop.index0 }}/{{ loop.length }}"
    "{% if loop.last %}.{% endif %}{% else %}none{% endfor %}",
    "{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}"
    "{{ m.content.split('</think>')[-1] }}{% break %}{% endfor %}",
    "{% set ns = namespace(n=0, s='') %}{% for m in messages[::-1] %}{% set ns.n = ns.n + 1 %}"
    "{% set ns.s = ns.s ~ m.role[0] ~ ns.n %}{% endfor %}{{ ns.s }} {{ ns.n * 2 - 1 }}",
    "{% macro turn(role, text='-') %}<{{ role }}>{{ text }}{% endmacro %}"
    "{{ turn('a') }}{{ turn('b', text='c' * 3) }}",
    "{% macro wrap() %}<{{ caller('x') }}>{% endmacro %}{% call(y) wrap() %}{{ y }}e{% endcall %}",
    "{% set text %}{{ messages[0].content }}!{% endset %}{{ text | upper | replace('E', 'e') }}",
    "{{ messages | map(attribute='role') | unique | join(', ') }} {{ [1, 2] | join('-') }}",
    "{{ messages | selectattr('role', 'equalto', 'user') | list | length }}",
    "{{ messages[1:] | map(attribute='content') | map('trim') | join('|') | indent(2) }}",
    "{{ 'a,b'.replace(',', ';') }} {{ ','.join(['x', 'y']) }} {{ 'aaa'.replace('a', 'b', 2) }}",
    "{{ (1, 2)[0] + [3, 4][1] }} {{ {'a': 1}.items() | list }} {{ 2 ** 10 // 3 % 4 }}",
    "{{ 'Paris' if 'x' in 'xyz' and messages is not string else 'Rome' }} {{ nothing }}",
    "{% filter upper %}low{% endfilter %}{% block b %}in{% endblock %}",
    "{% for k, v in {'b': 1, 'a': [2]} | dictsort %}{{ k }}={{ v }};{% endfor %}",
    "{{ messages[0] | string | length }}{{ range(3) | list }}{{ '%s' | default('d') }}",
]  # fmt: skip


@pytest.mark.parametrize("source", GOOD)
def test_renders_as_plain_jinja(source: str) -> None:
    plain = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    variables = {"messages": MESSAGES}
    expected = plain.from_string(source).render(variables)
    template = BoundedTemplate(source, {})
    assert template.render(variables) == expected
    assert template.render(variables) == expected  # a second time, with a new budget


def test_json_escapes_nothing_for_html() -> None:
    template = BoundedTemplate("{{ messages[0] | tojson }}{{ [1] | tojson(indent=1) }}", {})
    text = template.render({"messages": MESSAGES})
    assert text == '{"role": "system", "content": "Be <brief> & kind.\\n"}[\n 1\n]'


TWICE = "{% set ns = namespace(x='abcdefgh') %}{% for i in range(90) %}"
LONG = "{% set x = 'x' * 100000 %}"

HOSTILE = [
    "{% for i in range(10**9) %}x{% endfor %}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% for i in range(99999) %}" + "y" * 60000 + "{% endfor %}",
    "{% set x %}{% for i in range(99999) %}" + "y" * 60000 + "{% endfor %}{% endset %}",
    "{% for i in range(99999) recursive %}{{ loop(range(99999)) }}{% endfor %}",
    "{% macro a(n) %}{% if n %}{{ a(n - 1) }}{{ a(n - 1) }}{% endif %}{% endmacro %}{{ a(60) }}",
    "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
    "{% block a %}{{ self.a() }}{% endblock %}",
    TWICE + "{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    TWICE + "{% set ns.x = ns.x + ns.x %}{% endfor %}",
    TWICE + "{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
    TWICE + "{% set ns.x = {1: ns.x, 2: ns.x} %}{% endfor %}{{ ns.x }}",
    TWICE + "{% set ns.x = (ns.x, ns.x) %}{% endfor %}{{ ns.x }}",
    "{{ 'x' * 10 ** 10 }}",
    "{{ 10 ** 10 * 'x' }}",
    "{{ [1] * 10 ** 10 }}",
    "{{ 10 ** (10 ** 10) }}",
    "{{ (10 ** 300) ** 100 }}",
    "{% set n = ('f' * 20000) | int(0, 16) %}{{ n * n }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '{:1000000000}'.format(1) }}",
    "{{ 'x'.ljust(10 ** 10) }}",
    "{{ 'x'['ljust'](10 ** 10) }}",
    "{{ 'x' | center(10 ** 10) }}",
    "{{ 'x\n' | indent(10 ** 10) }}",
    "{{ [1] | tojson(indent=10 ** 10) }}",
    "{{ lipsum(n=10 ** 9) }}",
    LONG + "{{ x.replace('x', x) }}",
    LONG + "{{ x | replace('x', x) }}",
    LONG + "{{ x.join(x) }}",
    LONG + "{{ range(99999) | join(x) }}",
    LONG + "{{ ([0] * 99999) | map('default', x, true) | map('upper') | list }}",
    LONG + "".join(f"{{% set a{i} = x | upper %}}" for i in range(999)),
    LONG + "{{ " + "~".join("x" * 999) + " }}",
    LONG + "{{ x }}" * 999,
    "x" * (MAX_SOURCE + 1),
    "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
    "{{ ''.__class__.__mro__ }}",
    "{{ messages.append(1) }}",
    "{% include 'other' %}",
    "{% import 'other' as x %}",
    "{% if %}",
]


@pytest.mark.parametrize("source", HOSTILE, ids=lambda source: source[:60])
def test_hostile_templates_fail_soon(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Lower bounds than the real ones, for the sake of time; but none that the deadline could hide.
    monkeypatch.setattr(template_sandbox, "MAX_VALUE", 1 << 18)
    monkeypatch.setattr(template_sandbox, "MAX_WORK", 1 << 20)
    monkeypatch.setattr(template_sandbox, "DEADLINE_S", 60.0)
    tracemalloc.start()
    try:
        with pytest.raises(Exception):  # noqa: B017  whatever Jinja or the sandbox makes of it
            BoundedTemplate(source, {}).render({"messages": list(MESSAGES)})
        assert tracemalloc.get_traced_memory()[1] < 32e6
    finally:
        tracemalloc.stop()


def test_what_is_not_charged_meets_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_sandbox, "DEADLINE_S", 0.1)
    idle = "{% for i in range(99999) %}{% for j in range(99999) if false %}{% endfor %}{% endfor %}"
    with pytest.raises(Exception, match="too much"):
        BoundedTemplate(idle, {}).render({})


def test_namespaces_that_hold_one_another_print_short() -> None:
    source = "{% set a = namespace() %}{% set a.a = a %}{{ a }}"
    assert BoundedTemplate(source, {}).render({}) == "<namespace>"


def test_a_long_chat_is_not_too_much() -> None:
    source = (
        "{% for m in messages %}{% if m.role in ['user', 'assistant'] %}"
        "{{ '<|' + m.role + '|>' ~ m.content | trim | replace('\\r', '') ~ '<|end|>\n' }}"
        "{% endif %}{% endfor %}"
    )
    messages = [{"role": "user", "content": "word " * 200}] * 1000
    assert len(BoundedTemplate(source, {}).render({"messages": messages})) > 1_000_000

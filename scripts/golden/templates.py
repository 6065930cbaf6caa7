"""Makes runtime/tests/fixtures/templates.json: chat templates in the styles of published families, written here, and
what Hugging Face transformers renders with them.

    golden/bin/python scripts/golden/templates.py        # the environment of make.py
"""

import json
from pathlib import Path

from jinja2.exceptions import TemplateError
from transformers.utils.chat_template_utils import render_jinja_template

OUT = Path(__file__).resolve().parents[2] / "runtime" / "tests" / "fixtures" / "templates.json"
TOKENS = {"bos_token": "<bos>", "eos_token": "<eos>"}

CHATML = """{% for message in messages %}
{% if loop.first and message['role'] != 'system' %}{{ '<|im_start|>system\\nBe brief.<|im_end|>\\n' }}{% endif %}
{% generation %}
{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}
{%- endgeneration -%}
{% endfor %}
{% if add_generation_prompt %}
{{ '<|im_start|>assistant\\n' }}
{% endif %}
"""

# As Llama 3 does: headers around roles, a date, tools as indented JSON in front of the first question.
HEADERS = """{{- bos_token -}}
{%- set date = day if day is defined else strftime_now("all %% of it") -%}
{%- set rules = messages[0].content | trim if messages[0].role == 'system' else 'No rules.' -%}
{%- set talk = messages[1:] if messages[0].role == 'system' else messages -%}
<|head|>system<|/head|>

Day: {{ date }}
{{ rules }}<|end|>
{%- for turn in talk %}
    {%- set body = turn['content'] | trim -%}
    {%- if loop.first and tools is not none -%}
        {%- set functions -%}
            {%- for tool in tools %}{{ tool | tojson(indent=4) }}{% if not loop.last %}, {% endif %}{% endfor -%}
        {%- endset -%}
        {%- set body = 'You may call ' ~ functions ~ '\\n\\n' ~ body -%}
    {%- endif -%}
    {%- if turn.role in ['tool', 'ipython'] -%}
        {%- set body = turn.content if turn.content is string else turn.content | tojson -%}
    {%- endif -%}
    {{- '<|head|>' + {'tool': 'result'}.get(turn.role, turn.role) + '<|/head|>\\n\\n' + body + '<|end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|head|>assistant<|/head|>\\n\\n' }}{% endif -%}
"""

# As Qwen 3 does: thoughts before the last question are dropped, tool results are gathered in one turn, and an empty
# thought switches thinking off.
THINKING = """{%- set last = namespace(question=-1) -%}
{%- for m in messages | reverse -%}
    {%- if last.question < 0 and m['role'] == 'user' -%}
        {%- set last.question = loop.revindex0 -%}
    {%- endif -%}
{%- endfor -%}
{%- if tools %}
<|im_start|>system
{% for tool in tools %}
{{ loop.index }}. {{ tool | tojson }}
{% endfor %}
<|im_end|>
{% endif %}
{%- for m in messages -%}
    {%- set is_result = m.role == 'tool' -%}
    {%- if not is_result -%}
        {%- set said = m.content -%}
        {%- if m.role == 'assistant' and '</think>' in said -%}
            {%- set halves = said.split('</think>') -%}
            {%- set said = halves[-1].lstrip('\\n') -%}
            {%- if loop.index0 > last.question -%}
                {%- set said = '<think>' + halves[0].split('<think>')[-1].strip() + '</think>' + said.rstrip() -%}
            {%- endif -%}
        {%- endif -%}
        {{- '<|im_start|>{}\\n{}<|im_end|>\\n'.format(m.role, said) -}}
    {%- else -%}
        {%- if loop.previtem is not defined or loop.previtem.role != 'tool' -%}{{ '<|im_start|>user\\n' }}{%- endif -%}
        <result>{{ m.content }}</result>
        {%- if loop.last or loop.nextitem.role != 'tool' -%}{{ '<|im_end|>\\n' }}{%- endif -%}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' -}}
    {%- if enable_thinking is defined and not enable_thinking -%}<think></think>{%- endif -%}
    {{- '(' + reasoning_strength | upper + ')' if reasoning_strength is defined -}}
{%- endif -%}
"""

# As Gemma 3 does: order is checked, the system message goes in front of the first one, a content may be a list.
TURNS = """{{ bos_token }}
{%- set ns = namespace(expected='user', preface='') -%}
{%- for m in messages -%}
    {%- if m.role == 'system' and loop.first -%}
        {%- set ns.preface = m.content | trim ~ '\\n\\n' -%}
        {%- continue -%}
    {%- endif -%}
    {%- if m.role != ns.expected -%}
        {{ raise_exception('expected ' ~ ns.expected ~ ', found ' ~ m.role) }}
    {%- endif -%}
    <turn>{{ 'model' if m.role == 'assistant' else m.role }}
{{ ns.preface }}
    {%- if m.content is string -%}
        {{ m.content | trim }}
    {%- else -%}
        {%- for part in m.content if part.type == 'text' -%}{{ part.text | trim }}{%- endfor -%}
    {%- endif -%}
    {{ '</turn>\\n' }}
    {%- set ns.preface = '' -%}
    {%- set ns.expected = {'user': 'assistant', 'assistant': 'user'}[m.role] -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<turn>model\\n' }}{%- endif -%}
"""

# What else templates use: loop controls, macros, Python's methods and filters.
ODDS = """{%- macro show(name, value) -%}{{ name }}={{ value }};{%- endmacro -%}
{%- for message in messages -%}
    {%- if message.role == 'system' -%}{%- continue -%}{%- endif -%}
    {%- if loop.index > 2 -%}{%- break -%}{%- endif -%}
    {{ show(message.role | title, message.content | replace('e', '3')) }}
    {{ message.get('missing', 'none') }} {{ message.items() | length }} {{ message['content'].split(' ')[0] | length }}
{%- endfor -%}
{{ [1, 2.5, none, true, 'x'] | tojson }} {{ {'b': 1, 'a': ['é', '<&>']} | tojson }} {{ messages | map(attribute='role') | join(',') }}
{{ 'yes' if undefined_name is not defined else 'no' }} {{ undefined_name }}{{ 7 // 2 }} {{ 'a' ~ 1 }} {{ 'abc'[::-1] }} {{ messages[-1]['role'] }}
{%- set ns = namespace(found=false, names=[]) -%}
{%- for message in messages -%}
    {%- set ns.names = ns.names + [message.role] -%}
    {%- if 'é' in message.content %}{% set ns.found = true %}{% endif -%}
{%- endfor %}
{{ ns.names }} {{ ns.found }} {{ eos_token }} {{ 'A'.lower() }}{{ ' x '.strip() }}{{ 'x,y'.split(',') | last }}
"""

CHAT = [
    {"role": "system", "content": " Answer in one word. "},
    {"role": "user", "content": "  Is the café open?\n"},
    {"role": "assistant", "content": "<think>\nIt is noon.\n</think>\n\nYes"},
    {"role": "user", "content": 'And 北京 🙂 <b>&</b> "q"?'},
]
TOOL_RUN = CHAT + [
    {"role": "assistant", "content": "<think>\nAsk.\n</think>\nCall"},
    {"role": "tool", "content": '{"t": 21}'},
    {"role": "tool", "content": "ok"},
]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Says how it is: <hot> & 'dry'\n",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": [], "x": {}},
        },
    }
]

MODES = {
    None: {},
    "instant": {"enable_thinking": False, "reasoning_strength": "low"},
    "thinking": {"enable_thinking": True, "reasoning_strength": "high"},
    "contemplating": {"enable_thinking": True, "reasoning_strength": "xhigh"},
}
CASES = [
    ("chatml", CHATML, CHAT, None, None),
    ("chatml without system", CHATML, CHAT[1:2], None, None),
    ("headers", HEADERS, CHAT, None, None),
    ("headers with tools", HEADERS, TOOL_RUN, TOOLS, None),
    ("thinking", THINKING, CHAT, None, None),
    ("thinking off", THINKING, CHAT, None, "instant"),
    ("thinking on", THINKING, CHAT[1:], None, "thinking"),
    ("thinking with tools", THINKING, TOOL_RUN, TOOLS, "contemplating"),
    ("turns", TURNS, CHAT, None, None),
    ("turns out of order", TURNS, CHAT[2:], None, None),
    ("odds", ODDS, CHAT, None, None),
]


def render(template: str, messages: list, tools: list | None, mode: str | None) -> dict:
    try:
        rendered, _ = render_jinja_template(
            [messages], tools=tools, chat_template=template, add_generation_prompt=True, **TOKENS, **MODES[mode]
        )
    except TemplateError as error:
        return {"error": str(error)}
    return {"rendered": rendered[0]}


def main() -> None:
    cases = [
        {"name": name, "template": template, "messages": messages, "tools": tools, "mode": mode}
        | render(template, messages, tools, mode)
        for name, template, messages, tools, mode in CASES
    ]
    OUT.parent.mkdir(parents=True, exist_ok=True)
    record = {"tokens": TOKENS, "cases": cases}
    OUT.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{len(cases)} cases, {sum('error' in case for case in cases)} of them an error")


if __name__ == "__main__":
    main()

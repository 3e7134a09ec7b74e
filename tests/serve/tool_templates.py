"""What tests of tools ask, and chat templates that tell of tools and calls as models' do.

The templates were written for these tests: they do what those models' own do, in fewer words.
"""

from __future__ import annotations

from typing import Any

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Paris", "Rome"]}, "days": {"enum": [1, 2]}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
TIME = {"type": "function", "function": {"name": "time"}}
HELLO = [{"role": "user", "content": "hello"}]
CALL = {"id": "c", "type": "function", "function": {"name": "time", "arguments": "{}"}}
ASKED_AND_TOLD: list[dict[str, Any]] = [
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c", "content": "noon"},
]

HERMES = (
    "{% if tools %}Tools:{% for tool in tools %} {{ tool | tojson }}{% endfor %} "
    "Call one as <tool_call>...</tool_call>\n{% endif %}"
    "{% for message in messages %}{{ message.role }}: {{ message.content }}"
    "{% for call in message.tool_calls or [] %}<tool_call>{{ call.function | tojson }}</tool_call>"
    "{% endfor %}\n{% endfor %}"
)

# Results come as a user's, several of them in one turn.
QWEN = """\
{%- if tools %}
    {{- 'system\\n' }}
    {%- for tool in tools %}{{- '\\n' + (tool | tojson) }}{%- endfor %}
    {{- '\\n<tool_call>\\n{"name": <name>, "arguments": <object>}\\n</tool_call>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'assistant' and message.tool_calls %}
        {{- 'assistant' }}
        {%- if message.content %}{{- '\\n' + message.content }}{%- endif %}
        {%- for call in message.tool_calls %}
            {%- if call.function %}{%- set call = call.function %}{%- endif %}
            {{- '\\n<tool_call>\\n{"name": "' + call.name + '", "arguments": ' }}
            {{- (call.arguments | tojson) + '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '\\n' }}
    {%- elif message.role == 'tool' %}
        {%- if loop.index0 == 0 or messages[loop.index0 - 1].role != 'tool' %}
            {{- 'user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}
        {%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{- '\\n' }}{%- endif %}
    {%- else %}
        {{- message.role + '\\n' + message.content + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- 'assistant\\n' }}{%- endif %}
"""

# One call an answer. Tools are told of in the first turn.
LLAMA = """\
{%- if tools is defined and tools is not none %}
    {%- set first = messages[0].content | trim %}
    {%- set messages = messages[1:] %}
    {{- 'user\\n\\nRespond as {"name": function name, "parameters": dictionary}.\\n\\n' }}
    {%- for tool in tools %}{{- (tool | tojson(indent=4)) + '\\n\\n' }}{%- endfor %}
    {{- first + '\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if 'tool_calls' in message %}
        {%- if message.tool_calls | length != 1 %}
            {{- raise_exception('one call at once') }}
        {%- endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- 'assistant\\n\\n' + '{"name": "' + call.name + '", "parameters": ' }}
        {{- (call.arguments | tojson) + '}\\n' }}
    {%- elif message.role == 'tool' or message.role == 'ipython' %}
        {{- 'ipython\\n\\n' + (message.content | tojson) + '\\n' }}
    {%- else %}
        {{- message.role + '\\n\\n' + (message.content | trim) + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- 'assistant\\n\\n' }}{%- endif %}
"""

# Ids of nine characters, and a list of calls behind a control token.
MISTRAL = """\
{%- for message in messages %}
    {%- if message.role == 'user' %}
        {%- if tools is not none and loop.last %}
            {{- '[AVAILABLE_TOOLS]' + (tools | tojson) + '[/AVAILABLE_TOOLS]' }}
        {%- endif %}
        {{- '[INST]' + message.content + '[/INST]' }}
    {%- elif message.tool_calls is defined and message.tool_calls is not none %}
        {{- '[TOOL_CALLS][' }}
        {%- for call in message.tool_calls %}
            {%- if call.id | length != 9 %}
                {{- raise_exception('ids have nine characters') }}
            {%- endif %}
            {{- (call.function | tojson)[:-1] + ', "id": "' + call.id + '"}' }}
        {%- endfor %}
        {{- ']' }}
    {%- elif message.role == 'tool' %}
        {{- '[TOOL_RESULTS]' + message.content + '[/TOOL_RESULTS]' }}
    {%- else %}
        {{- message.content }}
    {%- endif %}
{%- endfor %}
"""

"""Chat templates in the manner of today's models, written for the tests, each with a tokenizer that has its tokens."""

from dataclasses import dataclass, field
from typing import Any

from tests.tiny import make_tokenizer

THINK = "<think>\nhm\n</think>\n\n"


@dataclass(frozen=True)
class Fixture:
    """`special` and `added` are tokens beside the tiny tokenizer's four; `eos` is its end; `kwargs` go into the template.

    `refused` are the words of the refusal of each kind of answer that the template cannot be learned with.
    """

    template: str
    special: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    eos: str = "<|im_end|>"
    kwargs: dict[str, Any] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    end: str = "<|im_end|>"
    """The token that ends an answer."""


OTHERWISE, TWO_BLOCKS = "so the model would learn what it is never asked for", "a block of thoughts of its own"
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "{{- bos_token }}"
    "{%- if date_string is not defined %}{%- if strftime_now is defined %}"
    "{%- set date_string = strftime_now('%d %b %Y') %}{%- endif %}{%- endif %}"
    "{{- '<|head|>system<|tail|>\n\nToday Date: ' + date_string + '\n\n<|eot|>' }}"
    "{%- for m in messages %}{{- '<|head|>' + m['role'] + '<|tail|>\n\n' + m['content'] | trim + '<|eot|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|head|>assistant<|tail|>\n\n' }}{%- endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate') }}{% endif %}"
    "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' + m['content'] | trim"
    " + '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if m.role == 'user' %}[INST] {{ m.content }}[/INST]{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
QWEN3 = """{%- set ns = namespace(last=-1) %}
{%- for m in messages %}{%- if m.role == 'user' %}{%- set ns.last = loop.index0 %}{%- endif %}{%- endfor %}
{%- for m in messages %}
    {%- if m.role != 'assistant' %}
        {{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>' + '\\n' }}
    {%- else %}
        {%- set content = m.content %}
        {%- set thoughts = '' %}
        {%- if m.reasoning_content is string %}
            {%- set thoughts = m.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set thoughts = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last and (loop.last or thoughts) %}
            {{- '<|im_start|>assistant\\n<think>\\n' + thoughts.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}
            {{- '<|im_start|>assistant\\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}"""
QWEN3_THINKS = QWEN3.replace("enable_thinking is defined and enable_thinking is false", "true").replace(
    "<think>\\n\\n</think>\\n\\n' }}\n    {%- endif", "<think>\\n' }}\n    {%- endif"
)
"""The prompt ends inside a block, and the rendering of the turn has one too."""
R1 = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}<|assistant|>"
    "{{ m.content.split('</think>')[-1] }}{{ eos_token }}{% else %}<|user|>{{ m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}"
)
"""The prompt ends inside a block, and thoughts are dropped, those of the last turn too."""
EMPTY_BLOCK = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
DROPS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and not loop.last %}{{ m.content.split('</think>')[-1].lstrip('\n') }}"
    "{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CHANNELS = (
    "<|start|>system<|message|>Reasoning: {{ reasoning_effort | default('medium') }}, {{ strftime_now('%Y-%m-%d') }}<|end|>"
    "{%- for m in messages %}{% if m.role == 'assistant' %}"
    "{% if m.thinking and loop.last %}<|start|>assistant<|channel|>analysis<|message|>{{ m.thinking }}<|end|>{% endif %}"
    "<|start|>assistant<|channel|>final<|message|>{{ m.content }}"
    "{% if loop.last %}<|return|>{% else %}<|end|>{% endif %}"
    "{% else %}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
PHI = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}</turn><|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
)
EFFORT = (
    "{% if reasoning_effort is not defined %}{% set reasoning_effort = 'medium' %}{% endif %}"
    "<|im_start|>system\neffort: {{ reasoning_effort }}<|im_end|>\n" + CHATML
)
TRIMS = CHATML.replace("{{ m.content }}", "{{ m.content | trim }}")
CHATML_TOOLS = """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}
    {{- 'You may call these functions:\\n<tools>' }}
    {%- for tool in tools %}{{- '\\n' }}{{- tool | tojson }}{%- endfor %}
    {{- '\\n</tools><|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- for m in messages %}
    {%- if m.role == 'user' or (m.role == 'system' and not loop.first) or (m.role == 'assistant' and not m.tool_calls) %}
        {{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}
    {%- elif m.role == 'assistant' %}
        {{- '<|im_start|>assistant' }}
        {%- if m.content %}{{- '\\n' + m.content }}{%- endif %}
        {%- for call in m.tool_calls %}
            {{- '\\n<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
            {{- call.function.arguments | tojson }}{{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif m.role == 'tool' %}
        {%- if messages[loop.index0 - 1].role != 'tool' %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\\n<tool_response>\\n' + m.content + '\\n</tool_response>' }}
        {%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{- '<|im_end|>\\n' }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""
"""Knows no developer and leaves him out."""
LLAMA3_TOOLS = """{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] | trim %}{%- set messages = messages[1:] %}
{%- else %}{%- set system = '' %}{%- endif %}
{{- '<|head|>system<|tail|>\\n\\n' }}{%- if tools %}{{- 'Environment: ipython\\n' }}{%- endif %}{{- system + '<|eot|>' }}
{%- if tools %}
    {{- '<|head|>user<|tail|>\\n\\nAnswer with a function call in JSON.\\n\\n' }}
    {%- for tool in tools %}{{- tool | tojson(indent=4) + '\\n\\n' }}{%- endfor %}
    {{- messages[0]['content'] | trim + '<|eot|>' }}{%- set messages = messages[1:] %}
{%- endif %}
{%- for m in messages %}
    {%- if 'tool_calls' in m %}
        {%- if m.tool_calls | length != 1 %}{{- raise_exception('only single tool calls') }}{%- endif %}
        {%- set call = m.tool_calls[0].function %}
        {{- '<|head|>assistant<|tail|>\\n\\n{"name": "' + call.name + '", "parameters": ' }}
        {{- call.arguments | tojson + '}' + ('<|eom|>' if tools else '<|eot|>') }}
    {%- elif m.role == 'tool' %}
        {{- '<|head|>ipython<|tail|>\\n\\n' }}
        {{- (m.content | tojson if m.content is mapping or m.content is iterable else m.content) + '<|eot|>' }}
    {%- else %}
        {{- '<|head|>' + m['role'] + '<|tail|>\\n\\n' + m['content'] | trim + '<|eot|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|head|>assistant<|tail|>\\n\\n' }}{%- endif %}"""
"""Ends a turn that calls with a token of its own, writes no text beside a call, and results as JSON."""
MISTRAL_TOOLS = """{{- bos_token }}
{%- if messages[0].role == 'system' %}{%- set system = messages[0].content %}{%- set messages = messages[1:] %}
{%- else %}{%- set system = '' %}{%- endif %}
{%- set ns = namespace(last=-1, turns=0) %}
{%- for m in messages %}
    {%- if m.role == 'user' %}{%- set ns.last = loop.index0 %}{%- endif %}
    {%- if m.role == 'user' or (m.role == 'assistant' and m.tool_calls is not defined) %}
        {%- if (m.role == 'user') != (ns.turns % 2 == 0) %}{{- raise_exception('roles must alternate') }}{%- endif %}
        {%- set ns.turns = ns.turns + 1 %}
    {%- elif m.role not in ['assistant', 'tool'] %}{{- raise_exception('only user, assistant and tool') }}
    {%- endif %}
{%- endfor %}
{%- for m in messages %}
    {%- if m.role == 'user' %}
        {%- if tools and loop.index0 == ns.last %}{{- '[AVAILABLE_TOOLS] ' + tools | tojson + '[/AVAILABLE_TOOLS]' }}{%- endif %}
        {{- '[INST] ' }}{%- if system and loop.index0 == ns.last %}{{- system + '\\n\\n' }}{%- endif %}{{- m.content + '[/INST]' }}
    {%- elif m.tool_calls is defined %}
        {{- '[TOOL_CALLS] [' }}
        {%- for call in m.tool_calls %}
            {%- if call.id is not defined or call.id | length != 9 %}{{- raise_exception('ids have nine characters') }}{%- endif %}
            {{- '{"name": ' + call.function.name | tojson + ', "arguments": ' + call.function.arguments | tojson }}
            {{- ', "id": "' + call.id + '"}' + ('' if loop.last else ', ') }}
        {%- endfor %}
        {{- ']' + eos_token }}
    {%- elif m.role == 'tool' %}
        {{- '[TOOL_RESULTS] {"content": ' + m.content | string + ', "call_id": "' + m.tool_call_id + '"}[/TOOL_RESULTS]' }}
    {%- else %}{{- ' ' + m.content + eos_token }}
    {%- endif %}
{%- endfor %}"""
"""Writes the tools before the last question, and no text beside a call."""
XML_TOOLS = """{%- if tools %}
    {{- '<|im_start|>system\\n<tools>' }}
    {%- for tool in tools %}
        {%- set f = tool.function if tool.function is defined else tool %}
        {{- '\\n<function>\\n<name>' + f.name + '</name>' }}
        {%- for name, about in f.parameters.properties | items %}
            {{- '\\n<parameter>\\n<name>' + name + '</name>\\n<type>' + about.type | string + '</type>\\n</parameter>' }}
        {%- endfor %}
        {{- '\\n</function>' }}
    {%- endfor %}
    {{- '\\n</tools><|im_end|>\\n' }}
{%- endif %}
{%- for m in messages %}
    {%- if m.role == 'tool' %}
        {{- '<|im_start|>user\\n<tool_response>\\n' + m.content + '\\n</tool_response><|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>' + m.role + '\\n' }}
        {%- if m.reasoning_content %}{{- '<think>\\n' + m.reasoning_content + '\\n</think>\\n\\n' }}{%- endif %}
        {{- m.content | default('', true) }}
        {%- for call in m.tool_calls or [] %}
            {{- '\\n<tool_call>\\n<function=' + call.function.name + '>' }}
            {%- for name, value in call.function.arguments | items %}
                {{- '\\n<parameter=' + name + '>\\n' }}
                {{- value if value is string else value | tojson }}{{- '\\n</parameter>' }}
            {%- endfor %}
            {{- '\\n</function>\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""
PLAIN_TURNS = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
BROKEN = "{% for m in messages %}\n{{ m.content }}\n{% if %}{% endfor %}"

_TAGS = ("<think>", "</think>")
_OPENED = {"plain": OTHERWISE, "thoughts": OTHERWISE}
TOOL_FIXTURES = {
    "chatml with tools": Fixture(
        CHATML_TOOLS, added=("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
    ),
    "llama 3 with tools": Fixture(
        LLAMA3_TOOLS, special=("<|bos|>", "<|head|>", "<|tail|>", "<|eot|>", "<|eom|>"), eos="<|eot|>", end="<|eot|>"
    ),
    "mistral with tools": Fixture(
        MISTRAL_TOOLS,
        special=(
            "<|bos|>",
            "[INST]",
            "[/INST]",
            "[AVAILABLE_TOOLS]",
            "[/AVAILABLE_TOOLS]",
            "[TOOL_CALLS]",
            "[TOOL_RESULTS]",
            "[/TOOL_RESULTS]",
            "</s>",
        ),
        eos="</s>",
        end="</s>",
    ),
    "xml calls": Fixture(XML_TOOLS, added=(*_TAGS, "<tool_call>", "</tool_call>")),
}
"""Families that write calls of tools."""
FIXTURES = {
    "chatml": Fixture(CHATML),
    "llama 3 with a date": Fixture(LLAMA3, special=("<|bos|>", "<|head|>", "<|tail|>", "<|eot|>"), eos="<|eot|>", end="<|eot|>"),
    "gemma, no system": Fixture(GEMMA, special=("<|bos|>", "<start_of_turn>", "<end_of_turn>"), end="<end_of_turn>"),
    "mistral, alternation": Fixture(MISTRAL, special=("<|bos|>", "[INST]", "[/INST]", "</s>"), eos="</s>", end="</s>"),
    "qwen3": Fixture(QWEN3, added=_TAGS),
    "qwen3, no thoughts": Fixture(QWEN3, added=_TAGS, kwargs={"enable_thinking": False}, refused={"thoughts": OTHERWISE}),
    "prompt ends in a block": Fixture(QWEN3_THINKS, added=_TAGS),
    "an open block that the turn lacks": Fixture(
        R1, special=("<|bos|>", "<|user|>", "<|assistant|>"), added=_TAGS, refused=_OPENED
    ),
    "writes an empty block": Fixture(EMPTY_BLOCK, added=_TAGS, refused={"thoughts": TWO_BLOCKS}),
    "drops earlier thoughts": Fixture(DROPS, added=_TAGS),
    "special think tokens": Fixture(QWEN3, special=_TAGS),
    "channels": Fixture(
        CHANNELS, special=("<|start|>", "<|message|>", "<|channel|>", "<|end|>", "<|return|>"), eos="<|return|>",
        end="<|return|>", kwargs={"reasoning_effort": "low"},
    ),
    "several closing tokens": Fixture(PHI, special=("<|end|>",), added=("</turn>",), eos="<|endoftext|>", end="<|end|>"),
    "reasoning effort": Fixture(EFFORT, kwargs={"reasoning_effort": "high"}),
    "trims": Fixture(TRIMS),
    **TOOL_FIXTURES,
    "turns without tokens": Fixture(PLAIN_TURNS, added=("\n",)),
}  # fmt: skip


def tokenizer_of(fixture: Fixture) -> Any:
    """The tiny byte-level tokenizer with the fixture's tokens and template."""
    tokenizer = make_tokenizer(["order", "sorry"], chat_template=fixture.template)
    tokenizer.add_tokens(list(fixture.special), special_tokens=True)
    tokenizer.add_tokens(list(fixture.added))
    if "<|bos|>" in fixture.special:
        tokenizer.bos_token = "<|bos|>"
    tokenizer.eos_token = fixture.eos
    return tokenizer


def saved_tokenizer(fixture: Fixture, folder: Any) -> Any:
    tokenizer_of(fixture).save_pretrained(folder)
    return folder


def make_spaced_tokenizer(template: str) -> Any:
    """A tokenizer that writes spaces as `▁` and puts one in front of each text, as sentencepiece's do."""
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    special = ["<|pad|>", "<|im_start|>", "<|im_end|>", "<unk>"]
    letters = [chr(n) for n in range(33, 127)] + ["▁", "▁P", "▁Pa", "▁Par", "▁Pari", "▁Paris"]
    vocabulary = {token: n for n, token in enumerate([*special, *letters])}
    merges = [("▁", "P"), ("▁P", "a"), ("▁Pa", "r"), ("▁Par", "i"), ("▁Pari", "s")]
    core = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>"))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token=special[0], eos_token=special[2], unk_token=special[3],
        additional_special_tokens=[special[1]],
        chat_template=template, clean_up_tokenization_spaces=False,
    )  # fmt: skip

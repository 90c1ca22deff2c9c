"""Which tokens of conversations `{% generation %}` marks: transformers' assistant masks (`return_assistant_tokens_mask`).

Run in this folder, with requirements.txt installed:  python make_generation_masks.py
`generation-masks.json` holds templates and conversations, and for each pair the ids and the mask that transformers gives, with
the tokenizer of assets/quickstart/model.
"""

import json
import pathlib

import jinja2
import transformers
from transformers import PreTrainedTokenizerFast

assert transformers.__version__.startswith("5.18") and jinja2.__version__ == "3.1.6", (transformers.__version__, jinja2.__version__)
here = pathlib.Path(__file__).parent
model = here.parent.parent / "assets" / "quickstart" / "model"

EOS = "{{ eos_token }}"
TEMPLATES = {
    "the answer and its end": "{% for m in messages %}{% if m.role == 'assistant' %}assistant:{% generation %} {{ m.content }}"
    + EOS + "{% endgeneration %}\n{% else %}{{ m.role }}: {{ m.content }}\n{% endif %}{% endfor %}",
    "the answer without its end": "{% for m in messages %}{{ m.role }}: {% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
    "{% endgeneration %}" + EOS + "{% else %}{{ m.content }}{% endif %}\n{% endfor %}",
    "marks that trim": "{%- for m in messages %}{{- m.role }}:\n{%- if m.role == 'assistant' %}  {%- generation -%}  {{ m.content }}  "
    "{%- endgeneration -%}  {%- else %} {{ m.content }}{% endif %}\n{% endfor %}",
    "marks on lines of their own": "{% for m in messages %}\n{{ m.role }}\n{% if m.role == 'assistant' %}\n{% generation %}\n{{ m.content }}\n"
    "{% endgeneration %}\n{% else %}\n{{ m.content }}\n{% endif %}\n{% endfor %}",
    "reasoning left out of the marks": "{% for m in messages %}{{ m.role }}: {% if m.role == 'assistant' %}{% set parts = m.content.split('</t>') %}"
    "{% if parts | length > 1 %}{{ parts[0] }}</t>{% endif %}{% generation %}{{ parts[-1] }}" + EOS + "{% endgeneration %}"
    "{% else %}{{ m.content }}{% endif %}\n{% endfor %}",
    "the last answer alone": "{% for m in messages %}{{ m.role }}: {% if m.role == 'assistant' and loop.last %}{% generation %}{{ m.content }}"
    + EOS + "{% endgeneration %}{% else %}{{ m.content }}{% endif %}\n{% endfor %}",
    "words before the answer": "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}assistant: {{ m.content }}"
    "{% endgeneration %}{% else %}{{ m.role }}: {{ m.content }}{% endif %}{% endfor %}",
}


def turns(*texts):
    return [{"role": "assistant" if i % 2 else "user", "content": text} for i, text in enumerate(texts)]


CONVERSATIONS = [
    turns("what is the sky", "the sky is blue"),
    turns("set an alarm", "done, at 7", "and one more", "done as well, at 8"),
    turns("naïve café — 😀", "ça va 😀😀 é", "x", "日本語 and more"),
    turns("think", "<t>no, yes</t>the answer", "again", "  with spaces  "),
    [{"role": "system", "content": "be brief"}, *turns("a", "b", "c", "d", "e", "f")],
    turns("the same the same", "the same the same", "the same", "the same"),
]


def main():
    tokenizer = PreTrainedTokenizerFast.from_pretrained(model)
    rows = []
    for name, template in TEMPLATES.items():
        for i, messages in enumerate(CONVERSATIONS):
            got = tokenizer.apply_chat_template(
                messages, chat_template=template, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
            rows.append({"template": name, "conversation": i, "ids": got["input_ids"], "mask": got["assistant_masks"]})
    content = {"templates": TEMPLATES, "conversations": CONVERSATIONS, "rows": rows}
    (here / "generation-masks.json").write_text(json.dumps(content, ensure_ascii=False, separators=(",", ":")) + "\n")


main()

"""A small world of customers, replies and a hidden taste, made by code: nothing to download, and you can judge it all.

Customers write about an order that went wrong; replies of mixed quality answer them. `utility` is the hidden taste:
it reads the customer's words and the reply's words and nothing else. Simulated annotators and the evaluation see it;
the policy never does.

    python recipes/support-desk/world.py          # writes data/ beside this file

    prompts.jsonl          {"messages": [user]}              for rollouts and evaluation
    demonstrations.jsonl   {"messages": [user, assistant]}   for SFT; shares no prompt with prompts.jsonl
    model/                 a random Llama of under a million parameters, with its own tokenizer and chat template

The same seed writes the same bytes.
"""

import argparse
import itertools
import json
import random
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

Message = Mapping[str, str]

# fmt: off
ITEMS = (
    "kettle", "lamp", "chair", "clock", "radio", "toaster", "bicycle", "camera", "suitcase", "ladder", "guitar", "telescope",
    "scooter", "blender", "tent", "stove", "printer", "keyboard", "speaker", "heater", "drill", "shelf", "drone", "grill",
)
COLOURS = ("red", "blue", "green", "black", "white", "grey", "yellow", "orange", "purple", "pink")
NAMES = (
    "Anna", "Ben", "Carla", "David", "Elif", "Farid", "Grace", "Hugo", "Ines", "Jonas", "Kemal", "Lena",
    "Maria", "Nils", "Olga", "Pavel", "Rosa", "Samir", "Tess", "Umar", "Vera", "Wim", "Yuki", "Zoe",
)
PEOPLE = ("mother", "father", "sister", "brother", "friend", "neighbour")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
# fmt: on


class Problem(NamedTuple):
    """What went wrong, what puts it right, and how to recognise either in a text."""

    complaints: Sequence[str]
    complaint_cue: str
    remedies: Sequence[str]
    remedy_cue: str


# In every complaint the thing that was ordered is the first item named, and its colour the first colour.
PROBLEMS: dict[str, Problem] = {
    "broken": Problem(
        ("The {thing} arrived broken.", "My {thing} has a big crack in it.", "The new {thing} came in pieces."),
        r"\b(broken|crack|in pieces)\b",
        ("We will send you a new one today.", "A new one is on its way to you."),
        r"\bnew one\b",
    ),
    "late": Problem(
        ("My {thing} has still not arrived.", "I am still waiting for my {thing}.", "My {thing} is two weeks late."),
        r"\b(still not arrived|still waiting|late)\b",
        ("We will trace the parcel and call you tomorrow.", "The driver will find the parcel and bring it tomorrow."),
        r"\bthe parcel\b",
    ),
    "colour": Problem(
        (
            "I ordered a {thing}, but it is {other_colour}.",
            "I wanted the {thing}, but the {other_colour} one came.",
            "The {thing} I chose turned out to be {other_colour}.",
        ),
        rf"\b(but it is|turned out to be|but the) ({'|'.join(COLOURS)})\b",
        ("We will swap it for the right colour.", "You will get the right colour this week."),
        r"\bright colour\b",
    ),
    "charged": Problem(
        (
            "I was charged twice for my {thing}.",
            "I see two payments for the {thing}.",
            "You took the money for my {thing} two times.",
        ),
        r"\b(charged twice|two payments|two times)\b",
        ("We will pay the second charge back to your card.", "The second charge goes back to your card today."),
        r"\bsecond charge\b",
    ),
    "missing": Problem(
        (
            "A part of my {thing} is missing.",
            "The {thing} came without its screws.",
            "Some parts were not in the box of the {thing}.",
        ),
        r"\b(missing|without its|not in the box)\b",
        ("We will post the missing part today.", "The missing part will be with you this week."),
        r"\bmissing part\b",
    ),
    "mistaken": Problem(
        ("I ordered a {thing} and got a {other_item}.", "Instead of my {thing} you sent me a {other_item}."),
        r"\b(and got a|instead of)\b",
        ("We will pick up the wrong item and bring yours.", "Keep the wrong item, yours will come this week."),
        r"\bwrong item\b",
    ),
    "unwanted": Problem(
        ("I do not like the {thing} after all.", "I want to give the {thing} back.", "The {thing} is not for me."),
        r"\b(do not like|give the .* back|not for me)\b",
        ("Send it back with our free label for a full refund.", "You get a full refund once it is back with us."),
        r"\bfull refund\b",
    ),
    "worn": Problem(
        (
            "My {thing} fell apart after a month.",
            "After a month of use my {thing} has stopped working.",
            "My {thing} worked well at first and then gave up.",
        ),
        r"\b(fell apart|stopped working|gave up)\b",
        ("We will repair it for free.", "Our workshop will repair it at no cost."),
        r"\brepair\b",
    ),
}

OPENINGS = ("", "", "Hi,", "Hello,", "Good morning,", "Dear team,")
CONTEXTS = (
    "",
    "",
    "It was a present for my {person}.",
    "I need it on {day}.",
    "I placed the order on {day}.",
    "My {person} is not happy.",
    "This is my first order with you.",
)
REQUESTS = ("", "Please help.", "What can you do?", "What happens now?", "Can you sort this out?")
SIGNATURES = ("", "{name}", "Thanks, {name}", "Best wishes, {name}")

GREETINGS = ("Hello!", "Hi there!", "Good day!")
APOLOGIES = ("We are sorry about the {thing}.", "We are so sorry for the trouble with the {thing}.")
NEUTRAL = ("This is about the {thing}.", "We read your message about the {thing}.")
RUDE = ("That is not our fault.", "You should have been more careful.", "Please stop complaining.")
FILLERS = (
    "Our shop has been open for many years.",
    "Many people write to us every day.",
    "We take every order very seriously.",
    "There are many more offers on our page.",
)
VAGUE = ("We will look into it at some point.", "Somebody may think about it.")
CLOSINGS = ("Thank you for your patience.", "Have a nice day.")

LOWEST = -6.0
"""The utility of an empty answer; every other answer scores above it."""


class Complaint(NamedTuple):
    """What a customer's message says, as far as it can be read; None where it cannot."""

    item: str | None
    colour: str | None
    problem: str | None


def _one_of(words: Iterable[str]) -> re.Pattern[str]:
    return re.compile(rf"\b({'|'.join(words)})\b", re.IGNORECASE)


def _sentences(text: str) -> list[str]:
    return re.findall(r"[^.!?]*[a-z0-9][^.!?]*[.!?]?", text.lower())


_ITEM, _COLOUR = _one_of(ITEMS), _one_of(COLOURS)
_PROBLEM = {name: re.compile(problem.complaint_cue, re.IGNORECASE) for name, problem in PROBLEMS.items()}
_REMEDY = {name: re.compile(problem.remedy_cue, re.IGNORECASE) for name, problem in PROBLEMS.items()}
_GREETING = re.compile(r"\s*(hello|hi|good day|good morning|dear)\b", re.IGNORECASE)
_APOLOGY = re.compile(r"\b(sorry|apologi[sz]e|apologies)\b", re.IGNORECASE)
_CLOSING = re.compile(r"\b(thank you|thanks|have a nice day)\b", re.IGNORECASE)
_RUDE = re.compile(r"\b(not our fault|should have been|stop complaining|calm down|stupid|shut up)\b", re.IGNORECASE)
_WORDS = frozenset(
    word
    for text in (*GREETINGS, *APOLOGIES, *NEUTRAL, *RUDE, *FILLERS, *VAGUE, *CLOSINGS, *ITEMS, *COLOURS, "your order")
    + tuple(remedy for problem in PROBLEMS.values() for remedy in problem.remedies)
    for word in re.findall(r"[a-z]+", text.lower())
)


def read_complaint(messages: Sequence[Message]) -> Complaint:
    """What the customer ordered and what is wrong with it, from the words of all user turns."""
    text = " ".join(message["content"] for message in messages if message["role"] == "user")
    item, colour = _ITEM.search(text), _COLOUR.search(text)
    problem = next((name for name, cue in _PROBLEM.items() if cue.search(text)), None)
    return Complaint(item and item[0].lower(), colour and colour[0].lower(), problem)


def explain(messages: Sequence[Message], answer: str) -> dict[str, float]:
    """The parts of `utility`, by name; their sum, kept above `LOWEST`, is the utility of an answer with any words."""
    complaint = read_complaint(messages)
    items = {item.lower() for item in _ITEM.findall(answer)}
    colours = {colour.lower() for colour in _COLOUR.findall(answer)}
    remedies = {name for name, cue in _REMEDY.items() if cue.search(answer)}
    sentences = [sentence.strip() for sentence in _sentences(answer)]
    useful = (_GREETING, _APOLOGY, _CLOSING, _RUDE, _ITEM, *_REMEDY.values())
    words = re.findall(r"\w+", answer.lower())
    foreign = sum(word not in _WORDS for word in words) / max(len(words), 1)
    return {
        "greeting": 0.5 * bool(_GREETING.match(answer)),
        "apology": 0.8 * bool(_APOLOGY.search(answer)),
        "closing": 0.5 * bool(_CLOSING.search(answer)),
        "right item": 1.0 * (complaint.item in items),
        "wrong item": -1.0 * bool(items - {complaint.item}),
        "wrong colour": -0.4 * bool(colours - {complaint.colour}),
        "right remedy": 1.5 * (complaint.problem in remedies),
        "wrong remedy": -0.8 * min(len(remedies - {complaint.problem}), 2),
        "rude": -1.2 * bool(_RUDE.search(answer)),
        "filler": -0.3 * sum(not any(cue.search(sentence) for cue in useful) for sentence in sentences),
        "repeats": -0.3 * (len(sentences) - len(set(sentences))),
        "length": -0.02 * max(len(words) - 30, 0),
        "unfinished": -0.5 * (not answer.rstrip().endswith((".", "!", "?"))),
        "foreign words": -2.0 * foreign,
    }


def utility(messages: Sequence[Message], answer: str) -> float:
    """How good `answer` is as a reply to `messages`: about -4 to 4.3, and never below `LOWEST`.

    Anything may be scored: words of another world score low, and only an answer without a word scores `LOWEST`.
    """
    if not re.search(r"\w", answer):
        return LOWEST
    return max(sum(explain(messages, answer).values()), LOWEST + 0.1)


def write_message(rng: random.Random) -> tuple[str, Complaint]:
    """A customer's message, and what it complains about."""
    item, other_item = rng.sample(ITEMS, 2)
    colour, other_colour = rng.sample(COLOURS, 2)
    problem = rng.choice(list(PROBLEMS))
    body = (rng.choice(PROBLEMS[problem].complaints), rng.choice(CONTEXTS), rng.choice(REQUESTS))
    lines = (rng.choice(OPENINGS), " ".join(part for part in body if part), rng.choice(SIGNATURES))
    text = "\n".join(line for line in lines if line).format(
        thing=f"{colour} {item}",
        other_item=other_item,
        other_colour=other_colour,
        person=rng.choice(PEOPLE),
        day=rng.choice(DAYS),
        name=rng.choice(NAMES),
    )
    return text, Complaint(item, colour, problem)


def write_reply(rng: random.Random, complaint: Complaint) -> str:
    """A reply as a real desk might give it: often right, sometimes about another item, rude, padded or no help."""
    item, colour, problem = complaint
    luck = rng.random()
    if luck < 0.2:
        item, colour = rng.choice(ITEMS), rng.choice(COLOURS)
    thing = "{thing}" if luck > 0.9 else f"{colour} {item}"
    about = rng.choice(APOLOGIES if rng.random() < 0.6 else NEUTRAL)
    about = about.replace("the {thing}", "your order") if thing == "{thing}" else about.format(thing=thing)

    luck = rng.random()
    remedy = rng.choice(PROBLEMS[problem or "late"].remedies)
    if luck < 0.3:
        remedy = rng.choice(PROBLEMS[rng.choice(list(PROBLEMS))].remedies)
    elif luck < 0.4:
        remedy = rng.choice(VAGUE)

    fillers = rng.sample(FILLERS, rng.choices((0, 1, 2), (0.5, 0.35, 0.15))[0])
    parts = [
        rng.choice(GREETINGS) if rng.random() < 0.5 else "",
        about,
        rng.choice(RUDE) if rng.random() < 0.2 else "",
        *fillers[:1],
        remedy,
        *fillers[1:],
        rng.choice(CLOSINGS) if rng.random() < 0.4 else "",
    ]
    return " ".join(part for part in parts if part)


def write_pairs(seed: int) -> Iterator[tuple[str, str]]:
    """Endless (message, reply), no message twice."""
    rng, seen = random.Random(seed), set[str]()
    while True:
        message, complaint = write_message(rng)
        if message not in seen:
            seen.add(message)
            yield message, write_reply(rng, complaint)


CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}<|user|>{{ message['content'] }}"
    "{% elif message['role'] == 'system' %}<|system|>{{ message['content'] }}"
    "{% elif message['role'] == 'assistant' %}<|assistant|>"
    "{% generation %}{{ message['content'] }}{{ eos_token }}{% endgeneration %}"
    "{% else %}{{ raise_exception('unknown role ' + message['role']) }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CONTEXT = 256


def build_tokenizer(texts: Iterable[str]) -> Any:
    """A tokenizer in which every word of `texts` is one token, and any other text is spelled in bytes, without loss."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    split = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words = {word for text in texts for word, _ in split.pre_tokenize_str(text)}
    special = ["<|pad|>", "<|begin|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
    letters = sorted(split.alphabet())
    vocabulary = {token: id for id, token in enumerate([*special, *letters, *sorted(words.difference(letters))])}
    # WordPiece with no prefix takes the longest known piece, and a byte is always known: nothing becomes "unknown".
    pieces = models.WordPiece(
        vocabulary, unk_token="<|pad|>", continuing_subword_prefix="", max_input_chars_per_word=1_000_000
    )
    tokenizer = Tokenizer(pieces)
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        bos_token="<|begin|>",
        eos_token="<|end|>",
        additional_special_tokens=special[3:],
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def build_model(tokenizer: Any, seed: int) -> Any:
    """A random Llama for `tokenizer`: under a million parameters, heads of 32 (vLLM on CPU takes no smaller)."""
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            head_dim=32,
            initializer_range=0.03,
            max_position_embeddings=CONTEXT,
            dtype="float32",
            **ids,
        )
    )
    # Input and output begin as the same vectors (they are not tied): to repeat a customer's word is then easy to learn.
    model.lm_head.weight.data.copy_(model.model.embed_tokens.weight.data)
    model.generation_config = GenerationConfig(do_sample=True, **ids)
    return model


def _write_lines(path: Path, conversations: Iterable[Sequence[Message]]) -> None:
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"messages": messages}, ensure_ascii=False) + "\n" for messages in conversations)
    partial.replace(path)


def write_world(out: Path, demonstrations: int, prompts: int, seed: int) -> None:
    """Write the files named above into `out`, replacing those of an earlier call."""
    out.mkdir(parents=True, exist_ok=True)
    pairs = write_pairs(seed)
    shown = list(itertools.islice(pairs, demonstrations))
    held = list(itertools.islice(pairs, prompts))
    _write_lines(
        out / "demonstrations.jsonl",
        ([{"role": "user", "content": m}, {"role": "assistant", "content": r}] for m, r in shown),
    )
    _write_lines(out / "prompts.jsonl", ([{"role": "user", "content": message}] for message, _ in held))

    # From a corpus of fixed size, so that the tokenizer does not change with the number of demonstrations.
    tokenizer = build_tokenizer(itertools.chain.from_iterable(itertools.islice(write_pairs(seed), 4000)))
    partial, final = out / "model.partial", out / "model"
    for folder in (partial, final):
        shutil.rmtree(folder, ignore_errors=True)
    build_model(tokenizer, seed).save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    partial.rename(final)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the support-desk world: prompts, demonstrations and a model.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "data", help="folder to write to")
    parser.add_argument("--demonstrations", type=int, default=12000, help="conversations for SFT (default 12000)")
    parser.add_argument("--prompts", type=int, default=4000, help="prompts without a reply (default 4000)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if min(options.demonstrations, options.prompts) < 1:
        parser.error("--demonstrations and --prompts must be at least 1")
    write_world(options.out, options.demonstrations, options.prompts, options.seed)
    print(f"{options.out}: {options.demonstrations} demonstrations, {options.prompts} prompts, model/")


if __name__ == "__main__":
    main()

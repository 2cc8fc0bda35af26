// The page of one task. `record` is Argilla's: a plain object with the fields; ours is base64 of ASCII JSON.
const WHO = { user: "User", assistant: "Assistant", system: "Instructions", developer: "Instructions of the developer", tool: "Result", tools: "Tools" };
const HOW_MANY = ["", "The answer", "Two possible answers", "Three possible answers", "Four possible answers"];
const CHOOSE = {
  pair: [["1", "4"], "–", "choose"],
  rank: [["1", "4"], "–", "place of the marked answer"],
  single: [["1", "2"], "–", "choose"],
  rating: [["1", "5"], "–", "rate"],
};
const HINTS = [[["↑", "↓"], "", "other questions"], [["Shift", "Enter"], "+", "write"], [["Esc"], "", "end writing"], [["Enter"], "", "submit"], [["⌫"], "", "skip"]];

const turn = (message) => {
  const known = Object.hasOwn(WHO, message.role);
  const kind = "turn " + (known && message.role !== "developer" ? message.role : "system");
  if (message.role === "tools") {
    const tools = toolsOf(message.content);
    if (tools) return make("div", kind, tools);
  }
  if (message.role === "tool") {
    const [who, result] = resultOf(message.content);
    return make("div", kind, make("span", "who", who), make("div", "bubble text", result));
  }
  const [thoughts, said, calls] = message.role === "assistant" ? apart(message.content) : [[], message.content, []];
  const bubble = make("div", "bubble text", spoken(said, calls));
  const who = make("span", "who", known ? WHO[message.role] : visible(String(message.role)));
  return make("div", kind, who, thoughts, bubble);
};
// What an answer says, with its calls, which are open here: they are what is judged.
const answered = (text) => {
  const [, said, calls] = apart(text);
  for (const call of calls) call.open = true;
  return spoken(said, calls);
};
const card = (text, place, all) => {
  const name = "ABCD"[place];
  const head = all.length > 1 ? make("header", "", make("span", "badge", name), "Answer " + name) : make("header", "", "Answer");
  const [thoughts] = apart(text);
  const node = make("section", "answer " + name.toLowerCase(), head, thoughts, make("div", "text said", answered(text)));
  node.setAttribute("aria-label", "Answer " + name);
  return node;
};

const task = document.getElementById("task");
const shown = JSON.parse(atob(record.fields.comparison.payload));
const chat = make("div", "chat", shown.messages.map(turn));
const cards = shown.answers.map(card);
const answers = make("div", "answers n" + cards.length, cards);
const rule = make("div", "rule", HOW_MANY[cards.length]);
task.append(chat, rule, answers);
const empty = [..."ABCD"].slice(cards.length, shown.places);
if (empty.length) task.append(make("p", "note", "There is no answer " + empty.join(" or ") + " here: rank it last."));
chat.scrollTop = chat.scrollHeight;

// Differences: a button and a key; on for the next task too, once somebody wants them.
const frame = window.frameElement, memory = frame ? window.parent : window;
const button = make("button", "differences", "Differences ", make("kbd", "", "D"));
const showDifferences = (on) => {
  const [first, ...others] = cards.map((node, place) => fill(node.querySelector(".said"), answered(shown.answers[place])));
  if (on) markDifferences(first, others);
  button.setAttribute("aria-pressed", String(on));
  memory.alignDifferences = on;
};
if (cards.length > 1) {
  button.type = "button";
  button.title = cards.length > 2 ? "Mark what differs from answer A" : "Mark what differs";
  button.setAttribute("aria-pressed", "false");
  button.addEventListener("click", () => showDifferences(button.getAttribute("aria-pressed") !== "true"));
  rule.append(button);
  if (memory.alignDifferences === true) showDifferences(true);
}

const keys = ([names, between, what]) => {
  const parts = names.flatMap((name, n) => [n ? between : "", make("kbd", "", name)]);
  return make("span", "", parts, " " + what);
};
task.append(make("p", "hint", [CHOOSE[shown.kind], ...HINTS].map(keys)));

// The frame is as high as its content, also after the window or a font changes.
const fit = () => { if (frame) frame.style.height = Math.ceil(task.getBoundingClientRect().height) + "px"; };
new ResizeObserver(fit).observe(task);
window.addEventListener("load", () => setTimeout(fit));

// The keyboard belongs to the questions beside the frame: keys typed here go to the question that was in use last. The
// key for differences works on both sides. Listeners on Argilla's page end with this one.
if (frame) {
  const outer = window.parent.document, gone = new AbortController();
  const inQuestions = (node) => node?.closest?.("form")?.querySelector("input[type=checkbox], .draggable") ? node : null;
  const writes = (node) => Boolean(node?.closest?.("[contenteditable=true], textarea, input:not([type=checkbox])"));
  let last = inQuestions(outer.activeElement);
  const toggles = (event) => {
    if (event.key.toLowerCase() !== "d" || event.ctrlKey || event.metaKey || event.altKey || writes(event.target)) return;
    event.preventDefault();
    event.stopPropagation();
    if (cards.length > 1 && !event.repeat) button.click();
  };
  outer.addEventListener("focusin", (event) => { last = inQuestions(event.target) ?? last; }, { signal: gone.signal });
  outer.addEventListener("keydown", toggles, { signal: gone.signal, capture: true });
  window.addEventListener("pagehide", () => gone.abort());

  document.addEventListener("keydown", (event) => {
    toggles(event);
    if (event.ctrlKey || event.metaKey || event.altKey || !/^([1-9]|Enter|Backspace|Arrow(Left|Right|Up|Down))$/.test(event.key)) return;
    if (event.target === button && event.key === "Enter") return;
    event.preventDefault();
    const first = outer.querySelector("form input[type=checkbox], form .draggable [tabindex='0']");
    const target = last?.isConnected && !writes(last) ? last : first;
    const { key, code, shiftKey } = event;
    target?.focus({ preventScroll: true });
    (target ?? outer).dispatchEvent(new window.parent.KeyboardEvent("keydown", { key, code, shiftKey, bubbles: true, cancelable: true }));
  });
}

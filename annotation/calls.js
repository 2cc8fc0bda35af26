// What a turn has beside what it says: thoughts before it, calls of tools behind it; and results and lists of tools.
// `align.turns.split_thoughts` and `align.tool_calls` cut at the same places. A text that is not written so is a text.
const THOUGHTS = /^\s*<think>([^]*?)(?:<\/think>\n*([^]*)|$)/;
const CALL = "<tool_call name=\"", CALL_END = "\n</tool_call>", RESULT_END = "\n</tool_result>";
const CALL_HEAD = /<tool_call name=("(?:[^"\\\n]|\\.)*")(?: id="(?:[^"\\\n]|\\.)*")?>\n/y;
const RESULT_HEAD = /^<tool_result(?: name=("(?:[^"\\\n]|\\.)*"))?(?: id=("(?:[^"\\\n]|\\.)*"))?>\n/;
const parsed = (text) => {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
};
const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

// The calls that a text consists of from a place on; none where it goes on with something else.
const callsFrom = (text, from) => {
  const calls = [];
  for (let place = from; ; place++) {
    CALL_HEAD.lastIndex = place;
    const head = CALL_HEAD.exec(text);
    if (!head) return [];
    const begin = place + head[0].length, end = text.indexOf("\n<", begin);
    const name = parsed(head[1]), given = text.slice(begin, Math.max(end, begin));
    if (name === undefined || !text.startsWith(CALL_END, end) || !isObject(parsed(given))) return [];
    calls.push([name, given]);
    place = end + CALL_END.length;
    if (place === text.length) return calls;
    if (text[place] !== "\n") return [];
  }
};
const withoutCalls = (text, from) => {
  for (let place = text.indexOf(CALL, from); place >= 0; place = text.indexOf(CALL, place + 1)) {
    const calls = place === 0 || text.slice(place - 2, place) === "\n\n" ? callsFrom(text, place) : [];
    if (calls.length) return [text.slice(from, Math.max(place - 2, 0)), calls];
  }
  return [text.slice(from), []];
};

const code = (text) => make("pre", "", make("code", "", visible(text.replace(/\r\n?/g, "\n"))));
const folded = (kind, summary, ...inside) => make("details", kind, make("summary", "", ...summary), make("div", "text", inside.flat()));
const called = ([name, given]) => folded("call", ["Calls ", make("code", "", visible(name))], code(given));

// [thoughts, what it says, calls] of an assistant's turn: nodes, a text, and nodes.
const apart = (text) => {
  const found = THOUGHTS.exec(text);
  const thoughts = found ? [folded("thoughts", ["Thoughts"], markdown(found[1].trim()))] : [];
  const [said, calls] = withoutCalls(text, found ? text.length - (found[2] ?? "").length : 0);
  return [thoughts, said, calls.map(called)];
};
const spoken = (said, calls) => [...(said.trim() || !calls.length ? markdown(said) : []), ...calls];

// A result as code, and whose it is.
const resultOf = (text) => {
  const head = RESULT_HEAD.exec(text), [name, id] = head ? [parsed(head[1] ?? "null"), parsed(head[2] ?? "null")] : [];
  const ours = head && name !== undefined && id !== undefined && text.length >= head[0].length + RESULT_END.length && text.endsWith(RESULT_END);
  const body = ours ? text.slice(head[0].length, -RESULT_END.length) : text, whose = ours ? name ?? id : null;
  return ["Result" + (typeof whose === "string" ? " of " + visible(whose) : ""), body.trim() ? code(body) : make("p", "empty", "(empty)")];
};
// The list of tools, folded; undefined where a text is none, or lies too deep in itself to be written.
const toolsOf = (text) => {
  const tools = parsed(text);
  if (!Array.isArray(tools)) return undefined;
  const names = tools.map((tool) => visible(String(tool?.function?.name ?? tool?.name ?? "?")));
  try {
    return folded("tools", ["Tools: " + names.join(", ")], tools.map((tool) => code(JSON.stringify(tool, null, 2))));
  } catch {
    return undefined;
  }
};

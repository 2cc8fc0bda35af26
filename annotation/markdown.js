// Markdown as DOM nodes. Every text becomes a text node: nothing here sets HTML, an address, or an attribute from data.
// Each pattern stops at the first character that cannot belong to it and nesting is bounded, so that the time is linear.
// Children may be arrays of any size: a call with hundreds of thousands of arguments would overflow the stack.
const fill = (node, ...children) => {
  node.replaceChildren();
  for (const child of children.flat()) node.append(child);
  return node;
};
const make = (tag, kind, ...children) => {
  const node = document.createElement(tag);
  if (kind) node.className = kind;
  return fill(node, ...children);
};

// What works unseen is written out, so that people see what differs and nothing turns or hides a text: controls as their
// pictures, the rest (direction, no width) by its number. A joiner between letters that are joined, or emoji, is spelling.
// Marks on one letter, and the length, are bounded: thousands stop the browser. align/escape.py does the same elsewhere.
const LONGEST = 350000;
const CONTROL = /[\x00-\x08\x0b-\x1f\x7f]/g;
const UNSEEN = /(?<![\p{Lo}\p{M}\p{So}\p{Sk}])[\u200c\u200d]|[\u200c\u200d](?![\p{Lo}\p{M}\p{So}\p{Sk}])|[\x80-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff9-\ufffb\u{1bca0}-\u{1bca3}\u{1d173}-\u{1d17a}\u{e0000}-\u{e00ff}\u{e01f0}-\u{e0fff}]|\p{Cs}/gu;
const MARKS = /(\p{M}{8})(\p{M}+)/gu, REPEATED = /((?:‹U\+[0-9A-F]{4,6}›){8})((?:‹U\+[0-9A-F]{4,6}›)+)/g;
const MANY = 100, SAME = /(\P{ASCII}{1,3}?)\1{100,}/gu;  // a browser looks for words in them, some in quadratic time
const picture = (control) => (control === "\x7f" ? "\u2421" : String.fromCharCode(0x2400 + control.charCodeAt(0)));
const number = (sign) => "‹U+" + sign.codePointAt(0).toString(16).toUpperCase().padStart(4, "0") + "›";
const visible = (text) => {
  const spelled = text.slice(0, LONGEST).replace(CONTROL, picture).replace(UNSEEN, number)
    .replace(REPEATED, (all, some, others) => some + "‹" + (others.split("›").length - 1) + " more›")
    .replace(MARKS, (all, some, others) => some + "‹" + [...others].length + " more marks›")
    .replace(SAME, (all, one) => one.repeat(MANY) + "‹" + (all.length / one.length - MANY) + " more›");
  if (text.length <= LONGEST && spelled.length <= LONGEST) return spelled;
  return spelled.slice(0, LONGEST) + "… (cut here: " + text.length + " characters)";
};

const DEEPEST = 8, COLUMNS = 40;
const INLINE = /\\([*_#`])|(`{1,3})([^`\n]+)\2|\*\*([^*\n]+|[^*\n]*\*[^*\n]+\*[^*\n]*)\*\*|~~([^~\n]+)~~|(?<![\w*])\*([^*\s]|[^*\s][^*\n]*[^*\s])\*(?![\w*])|!?\[([^\[\]\n]*)\]\(([^()\s]+)\)/g;
const inline = (text, depth = 0) => {
  if (depth === 3) return [text];
  const nodes = [];
  let end = 0;
  for (const match of text.matchAll(INLINE)) {
    const [all, escaped, , code, bold, struck, italic, label, address] = match;
    const within = (tag, inner) => make(tag, "", inline(inner, depth + 1));
    nodes.push(text.slice(end, match.index));
    if (escaped !== undefined) nodes.push(escaped);
    else if (code !== undefined) nodes.push(make("code", "", code));
    else if (address !== undefined) nodes.push(label, " ", make("span", "address", "(" + address + ")"));
    else if (bold !== undefined) nodes.push(within("strong", bold));
    else nodes.push(struck !== undefined ? within("s", struck) : within("em", italic));
    end = match.index + all.length;
  }
  return [...nodes, text.slice(end)];
};

const HEADING = /^ {0,3}#{1,6} +/, ITEM = /^(\s*)([-*+•]|\d{1,9}[.)]) +/, FENCE = /^(\s*)(```+(?=[^`]*$)|~~~+) *(.*)/;
const QUOTE = /^ {0,3}> ?/, DASHES = /^\s*:?-+:?\s*$/;
const isRule = (line) => line.length < 200 && /^(---+|\*\*\*+|___+)$/.test(line.replaceAll(" ", ""));
const block = (tag, kind, ...children) => {
  const node = make(tag, kind, ...children);
  node.dir = "auto";
  return node;
};
const item = (first, more) => {
  const [all, indent, mark] = first.match(ITEM);
  const body = make("span", "", inline([first.slice(all.length), ...more].join("\n")));
  const node = block("div", "item", make("span", "mark", /\d/.test(mark) ? mark : "•"), body);
  node.style.marginInlineStart = Math.min(indent.replace(/\t/g, "    ").length, 12) * 0.6 + "em";
  return node;
};
const ends = (line, fence) => line.trimStart().startsWith(fence) && line.replaceAll(fence[0], "").trim() === "";
const cells = (line) => line.trim().replace(/^\|/, "").replace(/\|$/, "").split("|");
const isTable = (line, next) => {
  if (next === undefined || !line.includes("|") || !next.includes("-") || next.length > 2000) return false;
  const [head, dashes] = [cells(line), cells(next)];
  return head.length === dashes.length && head.length <= COLUMNS && dashes.every((cell) => DASHES.test(cell));
};
const table = (head, rows) => {
  const width = cells(head).length;
  const row = (line, tag) => {
    const found = cells(line), fitting = found.slice(0, width - 1);
    // what is too much for the columns stays in the last one: nothing that a model said is hidden
    const padded = [...fitting, ...Array(width - 1 - fitting.length).fill(""), found.slice(width - 1).join("|")];
    return make("tr", "", padded.map((cell) => block(tag, "", inline(cell.trim()))));
  };
  const body = make("tbody", "", rows.map((line) => row(line, "td")));
  return make("div", "wide", make("table", "", make("thead", "", row(head, "th")), body));
};
const fenced = (lines, language) => {
  const code = make("pre", "", make("code", "", lines.join("\n")));
  return language ? make("div", "code", make("span", "language", language), code) : code;
};

const blocks = (lines, depth) => {
  const out = [];
  let paragraph = [];
  const add = (...nodes) => {
    if (paragraph.length) out.push(block("p", "", inline(paragraph.join("\n"))));
    paragraph = [];
    out.push(...nodes);
  };
  for (let i = 0; i < lines.length; i++) {
    const line = lines[i];
    const fence = line.match(FENCE);
    // the lines from the next one on, as long as they go on with what began here
    const taken = (goesOn) => {
      const found = [];
      while (i + 1 < lines.length && goesOn(lines[i + 1])) found.push(lines[++i]);
      return found;
    };
    if (fence) {
      const code = taken((next) => !ends(next, fence[2]));
      i++;
      add(fenced(code.map((text) => (text.startsWith(fence[1]) ? text.slice(fence[1].length) : text)), fence[3]));
    } else if (isRule(line)) add(make("hr"));
    else if (ITEM.test(line)) add(item(line, taken((next) => /^\s+\S/.test(next) && !ITEM.test(next) && !FENCE.test(next))));
    else if (HEADING.test(line)) add(block("h4", "", inline(line.replace(HEADING, ""))));
    else if (QUOTE.test(line) && depth < DEEPEST) {
      const inner = [line, ...taken((next) => QUOTE.test(next))].map((text) => text.replace(QUOTE, ""));
      add(make("blockquote", "", blocks(inner, depth + 1)));
    } else if (isTable(line, lines[i + 1])) {
      i++;
      add(table(line, taken((next) => next.includes("|"))));
    } else if (line.trim() === "") add();
    else paragraph.push(line);
  }
  add();
  return out;
};

const markdown = (raw) => {
  const nodes = blocks(visible(raw.replace(/\r\n?/g, "\n")).split("\n"), 0);
  return nodes.length ? nodes : [make("p", "empty", "(empty)")];
};

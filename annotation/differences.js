// Which words of two texts differ. Common ends are cut off; words that both sides have exactly once and in the same order
// are anchors (patience diff); between anchors short stretches are compared exactly, and a long one without an anchor
// counts as different. So the time grows with the text and hardly faster.
const EXACT = 1000000, ROUNDS = 16;
const WORD = /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Thai}]|[\p{L}\p{M}\p{N}_]+|[^\s]/gu;

// The words of all text below `root`: {node, start, end} each, and their numbers in `known`.
const wordsOf = (root, known) => {
  const places = [], numbers = [];
  const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    for (const found of walker.currentNode.data.matchAll(WORD)) {
      if (!known.has(found[0])) known.set(found[0], known.size);
      numbers.push(known.get(found[0]));
      places.push({ node: walker.currentNode, start: found.index, end: found.index + found[0].length });
    }
  }
  return { places, numbers };
};

// Pairs [i, j] of words that occur once in a[from.., to..] and once in b, in the longest order that both share.
const anchors = (a, b, [aFrom, aTo, bFrom, bTo]) => {
  const seen = new Map();
  for (let i = aFrom; i < aTo; i++) seen.set(a[i], seen.has(a[i]) ? null : { i, j: -1, count: 0 });
  for (let j = bFrom; j < bTo; j++) {
    const found = seen.get(b[j]);
    if (found) [found.j, found.count] = [j, found.count + 1];
  }
  const piles = [];
  for (const one of seen.values()) {
    if (!one || one.count !== 1) continue;
    let [low, high] = [0, piles.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (piles[middle].j < one.j) low = middle + 1;
      else high = middle;
    }
    one.before = low ? piles[low - 1] : null;
    piles[low] = one;
  }
  const line = [];
  for (let one = piles.at(-1); one; one = one.before) line.push([one.i, one.j]);
  return line.reverse();
};

// Marks as equal the words of a longest common subsequence.
const compareExactly = (a, b, [aFrom, aTo, bFrom, bTo], differs) => {
  const width = bTo - bFrom + 1;
  const best = new Uint32Array((aTo - aFrom + 1) * width);
  for (let i = aTo - 1; i >= aFrom; i--) {
    for (let j = bTo - 1; j >= bFrom; j--) {
      const at = (i - aFrom) * width + j - bFrom;
      best[at] = a[i] === b[j] ? best[at + width + 1] + 1 : Math.max(best[at + width], best[at + 1]);
    }
  }
  for (let i = aFrom, j = bFrom; i < aTo && j < bTo; ) {
    const at = (i - aFrom) * width + j - bFrom;
    if (a[i] === b[j]) differs[0][i++] = differs[1][j++] = 0;
    else if (best[at + width] >= best[at + 1]) i++;
    else j++;
  }
};

// Two arrays that hold 1 for each word of `a` and of `b` that the other has not in its place.
const compare = (a, b) => {
  const differs = [new Uint8Array(a.length).fill(1), new Uint8Array(b.length).fill(1)];
  const todo = [[0, a.length, 0, b.length, 0]];
  while (todo.length) {
    let [aFrom, aTo, bFrom, bTo, round] = todo.pop();
    while (aFrom < aTo && bFrom < bTo && a[aFrom] === b[bFrom]) differs[0][aFrom++] = differs[1][bFrom++] = 0;
    while (aFrom < aTo && bFrom < bTo && a[aTo - 1] === b[bTo - 1]) differs[0][--aTo] = differs[1][--bTo] = 0;
    if (aFrom === aTo || bFrom === bTo) continue;
    if ((aTo - aFrom) * (bTo - bFrom) <= EXACT) {
      compareExactly(a, b, [aFrom, aTo, bFrom, bTo], differs);
    } else if (round < ROUNDS) {
      const line = anchors(a, b, [aFrom, aTo, bFrom, bTo]);
      for (const [i, j] of line) {
        differs[0][i] = differs[1][j] = 0;
        todo.push([aFrom, i, bFrom, j, round + 1]);
        [aFrom, bFrom] = [i + 1, j + 1];
      }
      if (line.length) todo.push([aFrom, aTo, bFrom, bTo, round + 1]);
    }
  }
  return differs;
};

// Puts a <mark> around each stretch of words that differ; from the end, so that places before it stay right.
const markWords = (places, differs) => {
  for (let last = places.length - 1; last >= 0; last--) {
    if (!differs[last]) continue;
    let first = last;
    while (first > 0 && differs[first - 1] && places[first - 1].node === places[last].node) first--;
    places[last].node.splitText(places[last].end);
    const different = places[first].node.splitText(places[first].start);
    const mark = document.createElement("mark");
    different.replaceWith(mark);
    mark.append(different);
    last = first;
  }
};

// Shows how each of `others` differs from `first`; with one other, both sides are marked.
const markDifferences = (first, others) => {
  const known = new Map();
  const [ours, theirs] = [wordsOf(first, known), others.map((other) => wordsOf(other, known))];
  const found = theirs.map((words) => compare(ours.numbers, words.numbers));
  theirs.forEach((words, n) => markWords(words.places, found[n][1]));
  if (others.length === 1) markWords(ours.places, found[0][0]);
};

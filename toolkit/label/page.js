"use strict";
// Texts are shown with textContent only: what a model wrote is never markup.
const settings = JSON.parse(document.getElementById("settings").textContent);
const at = (id) => document.getElementById(id);
let task = null; // what the server sent last
let current = null; // the answer that a number key ranks
let busy = false;
let spent = 0; // milliseconds on this prompt while the page was to be seen
let since = 0;

function say(text, bad = false) {
  at("message").textContent = text;
  at("message").classList.toggle("bad", bad);
}

async function ask(path, options = {}) {
  let reply;
  try {
    reply = await fetch(path, options);
  } catch {
    throw new Error(
      "The server does not answer. Start `python -m toolkit label` again; what was saved is kept.",
    );
  }
  const body = await reply.json();
  if (!reply.ok) throw new Error(body.error);
  return body;
}

// One request at a time: a second click while one is on its way does nothing.
async function alone(work) {
  if (busy) return;
  busy = true;
  try {
    await work();
  } catch (error) {
    say(error.message, true);
  } finally {
    busy = false;
  }
}

async function load(query = {}) {
  const labeler = at("labeler").value.trim();
  show(await ask("/task?" + new URLSearchParams({ labeler, ...query })));
  history.replaceState(null, "", "#" + new URLSearchParams({ labeler }));
}

// The name stands in the address: a page that is loaded again, or kept as a bookmark, has it.
const nameInAddress = () => new URLSearchParams(location.hash.slice(1)).get("labeler");

function show(found) {
  task = found;
  current = null;
  const many = found.ranked + " of " + found.total + " prompts are ranked";
  at("count").textContent = many + ", " + found.mine + " by you";
  at("bar").max = found.total;
  at("bar").value = found.ranked;
  at("sheet").hidden = found.id === null;
  at("done").hidden = found.id !== null;
  at("back").disabled = at("done-back").disabled = found.previous === null;
  at("taken").hidden = !found.taken;
  if (found.id === null) {
    const enough = found.enough ? " That is enough: type the `run` command again to go on." : "";
    const away = found.exported ? " There are " + found.exported + "." : "";
    at("done-text").textContent = many + "." + (found.taken ? "" : enough) + away;
    at("done-title").focus();
    return;
  }
  fill(at("prompt"), found.prompt);
  at("prompt").scrollTop = 0;
  at("hint").textContent =
    "1 is the best of " + found.answers.length + ". " +
    (settings.ties ? "Answers that are equally good share a rank." : "Each rank is given once.");
  at("answers").replaceChildren(...found.answers.map(card));
  spent = 0;
  since = performance.now();
  mark(0);
  window.scrollTo(0, 0);
}

function fill(place, text) {
  place.textContent = text;
  place.classList.toggle("blank", !text.trim());
}

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function card(text, number) {
  const name = "Answer " + String.fromCharCode(65 + (number % 26));
  const body = make("div", { className: "text" });
  fill(body, text);
  const ranks = make("div", { className: "ranks" });
  for (let rank = 1; rank <= task.answers.length; rank++) {
    const input = make("input", { type: "radio", name: "rank-" + number, value: rank });
    input.checked = task.ranks[number] === rank;
    input.setAttribute("aria-label", "rank " + rank);
    input.addEventListener("change", () => settle(number, rank));
    ranks.append(make("label", {}, input, make("span", {}, String(rank))));
  }
  const whole = make("fieldset", { className: "answer" }, make("legend", {}, name), body, ranks);
  whole.addEventListener("focusin", () => point(number));
  whole.addEventListener("click", () => point(number));
  return whole;
}

const cards = () => [...at("answers").children];
const radios = (number) => [...cards()[number].querySelectorAll("input")];
const rankOf = (number) => Number(radios(number).find((input) => input.checked)?.value ?? 0);
const ranksNow = () => cards().map((_, number) => rankOf(number));

function point(number) {
  current = number;
  cards().forEach((each, other) => each.classList.toggle("current", other === number));
}

// The page stays where it is: the prompt is read before the first answer.
function mark(number) {
  point(number);
  const own = radios(number);
  (own.find((input) => input.checked) ?? own[0]).focus({ preventScroll: true });
}

function go(number) {
  mark(number);
  cards()[number].scrollIntoView({ block: "nearest" });
}

// Without ties a rank that is given again is taken from the answer that had it.
function settle(number, rank) {
  say("");
  if (settings.ties) return;
  cards().forEach((_, other) => {
    const same = radios(other)[rank - 1];
    if (other !== number) same.checked = false;
  });
}

function rank(number, value) {
  radios(number)[value - 1].checked = true;
  settle(number, value);
  const ranks = ranksNow();
  const order = ranks.map((_, step) => (number + step) % ranks.length);
  const next = order.find((other) => ranks[other] === 0);
  if (next !== undefined) go(next);
  else at("save").focus();
}

async function save() {
  const ranks = ranksNow();
  const missing = ranks.indexOf(0);
  if (missing >= 0) {
    say("Rank every answer first.", true);
    go(missing);
    return;
  }
  const seconds = (spent + (since ? performance.now() - since : 0)) / 1000;
  await ask("/ranks", {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-Token": settings.token },
    body: JSON.stringify({ labeler: task.labeler, id: task.id, ranks, seconds }),
  });
  await load({ after: task.id });
  say("Saved.");
}

async function skip() {
  await load({ after: task.id });
  say("Skipped: it comes again later.");
}

async function back() {
  if (task.previous === null) return;
  await load({ id: task.previous });
  const saved = task.ranks.some((rank) => rank !== null);
  say(saved
    ? "An earlier prompt: what you save now takes the place of what you saved before."
    : "An earlier prompt, which you have not ranked yet.");
}

at("sheet").addEventListener("submit", (event) => {
  event.preventDefault();
  alone(save);
});
at("skip").addEventListener("click", () => alone(skip));
at("back").addEventListener("click", () => alone(back));
at("done-back").addEventListener("click", () => alone(back));
at("labeler").addEventListener("change", () => {
  say("");
  if (busy) at("labeler").value = task?.labeler ?? settings.labeler;
  alone(rename);
});

// The name in the field is the one that what is shown will be saved under.
async function rename() {
  try {
    await load();
  } catch (error) {
    at("labeler").value = task?.labeler ?? settings.labeler;
    throw error;
  }
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden && since) {
    spent += performance.now() - since;
    since = 0;
  } else if (!document.hidden) {
    since = performance.now();
  }
});

document.addEventListener("keydown", (event) => {
  const other = event.ctrlKey || event.metaKey || event.altKey || event.repeat;
  if (other || event.target.id === "labeler" || task === null) return;
  if (event.key === "b") alone(back);
  if (task.id === null) return;
  if (event.key === "s") alone(skip);
  const value = Number(event.key);
  if (value >= 1 && value <= task.answers.length && current !== null) {
    event.preventDefault();
    rank(current, value);
  }
});

window.addEventListener("hashchange", () => location.reload());
at("labeler").value = nameInAddress() ?? settings.labeler;
alone(rename);

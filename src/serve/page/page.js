"use strict";
// Ids are shown with textContent only: whatever an id holds, it is text.

const byId = (id) => document.getElementById(id);

function note(text, isError) {
  byId("note").hidden = text === "";
  byId("note").className = isError ? "error" : "";
  byId("note").textContent = text;
}

function element(tag, className, text) {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

function button(text, title, action) {
  const made = element("button", "", text);
  made.type = "button";
  made.title = title;
  made.addEventListener("click", action);
  return made;
}

function show(title, items) {
  byId("title").textContent = title;
  byId("list").replaceChildren(...items.map(({ item, score }) => {
    const row = document.createElement("li");
    row.append(
      element("span", "item", item),
      element("span", "score", Number.isInteger(score) ? String(score) : score.toFixed(3)),
      button("similar", "Items like this one", () => similar(item)),
      button("add", "Add it to the history", () => {
        const history = byId("history");
        history.value = history.value.trim() === "" ? item : history.value.trimEnd() + "\n" + item;
        recommend();
      }),
    );
    return row;
  }));
}

async function ask(path, body) {
  const headers = {};
  if (byId("token").value !== "") headers["Authorization"] = "Bearer " + byId("token").value;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const started = performance.now();
  const method = body === undefined ? "GET" : "POST";
  const response = await fetch(path, { method, headers, body: body && JSON.stringify(body) });
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error.message);
  byId("time").textContent = (performance.now() - started).toFixed(1) + " ms";
  return answer;
}

async function shown(work) {
  try {
    await work();
  } catch (error) {
    show("No answer", []);
    note(error.message, true);
  }
  document.body.dataset.state = "done";
}

function recommend() {
  return shown(async () => {
    const history = byId("history").value.split("\n").filter((line) => line.trim() !== "");
    const body = { filter_seen: !byId("seen").checked };
    if (byId("k").value !== "") body.k = Number(byId("k").value);
    if (byId("user").value !== "") body.user = byId("user").value;
    // A user alone has the history that the run holds.
    if (history.length > 0 || body.user === undefined) body.history = history;
    const { items, unknown, fallback } = await ask("recommend", body);
    const notes = [];
    if (fallback) notes.push("No known item in the history: these are the most popular, with their number of interactions.");
    if (unknown.length > 0) notes.push("Unknown to the model: " + unknown.join(", "));
    note(notes.join(" "), false);
    show("Recommendations", items);
  });
}

function similar(item) {
  return shown(async () => {
    const k = byId("k").value === "" ? "" : "?k=" + Number(byId("k").value);
    const { items } = await ask("items/" + encodeURIComponent(item) + "/similar" + k);
    note("", false);
    show("Similar to " + item, items);
  });
}

byId("form").addEventListener("submit", (event) => {
  event.preventDefault();
  recommend();
});

// A link can carry a question: /?history=a%0Ab&k=5
const query = new URLSearchParams(location.search);
for (const name of ["history", "user", "k"]) {
  if (query.has(name)) byId(name).value = query.get(name);
}
byId("seen").checked = query.has("seen");
recommend();

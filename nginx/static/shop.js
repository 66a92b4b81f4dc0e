"use strict";

const list = document.getElementById("products");
const notice = document.getElementById("notice");
const found = document.getElementById("found");
const more = document.getElementById("more");
const form = document.getElementById("search");
let cursor = null;
let asked = new URLSearchParams();
let round = 0;

function element(name, text, className) {
  const node = document.createElement(name);
  node.textContent = text;
  if (className) node.className = className;
  return node;
}

function card(product) {
  const price = new Intl.NumberFormat(undefined, { style: "currency", currency: product.currency });
  const item = document.createElement("li");
  item.append(
    element("h2", product.name),
    element("p", `${product.brand} · ${product.category} · ${product.sku}`),
    element("p", product.description),
    element("span", price.format(product.price_cents / 100), "price"),
  );
  if (!product.in_stock) item.append(element("p", "sold out", "sold-out"));
  return item;
}

// Counted without the list's own filter: what is chosen does not hide the other choices.
function choices(select, counts) {
  const chosen = select.value;
  select.replaceChildren(new Option("all", ""), ...counts.map(({ value, count }) => new Option(`${value} (${count})`, value)));
  if (chosen && !counts.some(({ value }) => value === chosen)) select.append(new Option(`${chosen} (0)`, chosen));
  select.value = chosen;
}

// Without a question the listing answers: it is cached.
function question() {
  const filled = [...new FormData(form)].filter(([name, value]) => value.trim() && !(name === "sort" && value === "relevance"));
  return new URLSearchParams(filled);
}

async function load() {
  const mine = ++round;
  more.hidden = true;
  const searching = asked.size > 0;
  const query = new URLSearchParams(asked);
  query.set("limit", "24");
  if (cursor) query.set("cursor", cursor);
  try {
    const response = await fetch(`/api/v1/${searching ? "search" : "products"}?${query}`);
    if (!response.ok) throw new Error(`the shop answered ${response.status}`);
    const page = await response.json();
    if (mine !== round) return;
    list.append(...page.items.map(card));
    cursor = page.next_cursor;
    notice.textContent = list.children.length ? "" : searching ? "Nothing found." : "No products yet.";
    more.hidden = !cursor;
    found.textContent = searching ? `${page.total} found${page.degraded ? ", by a simpler search" : ""}` : "";
    if (searching) {
      choices(form.elements.brand, page.facets.brands);
      choices(form.elements.category, page.facets.categories);
    }
  } catch (error) {
    if (mine !== round) return;
    notice.textContent = `Products could not be loaded: ${error.message}.`;
    more.hidden = false;
  }
}

function start(event) {
  event?.preventDefault();
  asked = question();
  cursor = null;
  list.replaceChildren();
  found.textContent = "";
  load();
}

// Before the first search the lists are empty but for "all".
async function fill(select, path, value) {
  const response = await fetch(path);
  if (!response.ok) return;
  const { items } = await response.json();
  if (select.options.length === 1) select.append(...items.map((item) => new Option(item.name, value(item))));
}

more.addEventListener("click", load);
form.addEventListener("submit", start);
form.addEventListener("change", (event) => {
  if (event.target.name !== "q") start();
});
fill(form.elements.brand, "/api/v1/brands", (item) => item.name).catch(() => {});
fill(form.elements.category, "/api/v1/categories", (item) => item.slug).catch(() => {});
start();

"use strict";

const list = document.getElementById("products");
const notice = document.getElementById("notice");
const more = document.getElementById("more");
let cursor = null;

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

async function load() {
  more.hidden = true;
  const query = new URLSearchParams({ limit: "24" });
  if (cursor) query.set("cursor", cursor);
  try {
    const response = await fetch(`/api/v1/products?${query}`);
    if (!response.ok) throw new Error(`the shop answered ${response.status}`);
    const page = await response.json();
    list.append(...page.items.map(card));
    cursor = page.next_cursor;
    notice.textContent = list.children.length ? "" : "No products yet.";
    more.hidden = !cursor;
  } catch (error) {
    notice.textContent = `Products could not be loaded: ${error.message}.`;
    more.hidden = false;
  }
}

more.addEventListener("click", load);
load();
